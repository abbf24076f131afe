"""The page of a report as a person meets it: in headless Chromium, skipped where there is none."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lossline.reporting.report import write_report
from tests.reporting import planted

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
WIDE, NARROW = {"width": 1200, "height": 1000}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return write_report(planted.results(), tmp_path_factory.mktemp("explored")).as_uri()


@pytest.fixture
def opened(browser, address):
    """Open the report at a size; every request and every error of its scripts is kept."""
    contexts = []

    def at(size=WIDE, **options):
        contexts.append(browser.new_context(viewport=size, accept_downloads=True, **options))
        page = contexts[-1].new_page()
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_function("window.explorerView !== undefined")
        return page

    yield at
    for context in contexts:
        context.close()


# Page coordinates of the last checkpoint of the first run, in the first panel.
PLACE = """() => {
  const seek = (item) => {
    const checkpoints = item.marktype === 'symbol' && item.items[0]?.datum?.step;
    if (checkpoints) return item.items.find((point) => point.datum.last);
    for (const inner of item.items ?? []) {
      const found = seek(inner);
      if (found) return found;
    }
  };
  const item = seek(explorerView.scenegraph().root);
  let [x, y] = [item.x, item.y];
  for (let group = item.mark?.group; group; group = group.mark?.group) {
    x += group.x ?? 0;
    y += group.y ?? 0;
  }
  const box = document.querySelector('#chart canvas').getBoundingClientRect();
  const [left, top] = explorerView.origin(), padding = explorerView.padding();
  return {x: box.left + padding.left + left + x, y: box.top + padding.top + top + y};
}"""


def test_point_at_a_checkpoint_and_follow_its_run(opened):
    page = opened()
    page.locator("#chart").scroll_into_view_if_needed()
    place = page.evaluate(PLACE)
    page.mouse.move(place["x"], place["y"])
    page.mouse.move(place["x"] + 1, place["y"])
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    for words in ("run", "step", "N (parameters)", "D (tokens)", "loss on hellaswag"):
        assert words in tip.inner_text()
    run = tip.locator("td.value").first.inner_text()
    page.mouse.click(place["x"] + 1, place["y"])
    page.wait_for_function(f"explorerView.signal('followed') === '{run}'")
    assert f"Following {run}" in page.inner_text("#shown")
    assert not page.errors


def test_choose_filter_and_toggle(opened):
    page = opened()
    everything = page.inner_text("#shown")
    page.fill("[name=filter]", "mamba legal")
    page.wait_for_function(f"document.getElementById('shown').textContent !== {everything!r}")
    points = page.evaluate("explorerView.data('points').map((p) => [p.color, p.marker])")
    assert {tuple(point) for point in points} == {("legal", "mamba")}
    page.select_option("[name=y]", "python")
    page.select_option("[name=unit]", "bits_per_byte")
    page.wait_for_function("document.getElementById('shown').textContent.includes('bits per byte')")
    assert "on python" in page.inner_text("#shown")
    page.uncheck("[name=band]")
    page.check("[name=held_out]")
    page.fill("[name=filter]", "no such run")
    page.wait_for_function("document.getElementById('shown').textContent.startsWith('No run')")
    assert not page.errors


def test_downloads(opened, tmp_path):
    page = opened()
    starts = {"png": b"\x89PNG", "svg": b"<svg", "csv": b"run,step,N,D,C,loss on wiki"}
    for kind, start in starts.items():
        with page.expect_download() as waiting:
            page.click(f"[data-save={kind}]")
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.suffix == f".{kind}"
        assert path.read_bytes().startswith(start)
    saved = []
    for kind in ("PNG", "SVG"):
        with page.expect_download() as waiting:
            page.locator("#lines figure").first.get_by_role("button", name=kind).click()
        saved.append(tmp_path / waiting.value.suggested_filename)
        waiting.value.save_as(saved[-1])
    figures = Path(urlsplit(page.url).path).parent / "figures"
    for path in saved:
        assert path.stem == "figure-2-loss-on-hellaswag-against-loss-on-wiki"
        assert path.read_bytes() == (figures / f"overview{path.suffix}").read_bytes()
    with page.expect_download() as waiting:
        page.click("[aria-label='Save Runs as CSV']")
    waiting.value.save_as(tmp_path / "runs.csv")
    assert (tmp_path / "runs.csv").read_text().count("\nrun-") == 22


def test_tables_sort_and_are_searched(opened):
    page = opened()
    table = page.locator("#making table").last
    head = table.locator("th button", has_text="checkpoints")
    head.click()
    assert table.locator("th[aria-sort=ascending]").count() == 1
    page.fill("[aria-label='Search Runs']", "run-003")
    assert table.locator("tbody tr:visible").count() == 1


def test_narrow_and_dark_pages_fit_and_ask_no_network(opened):
    page = opened(NARROW, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 25, 30)"
    asked = [url for url in page.asked if not url.startswith(("data:", "blob:"))]
    assert len(asked) == 1
    assert asked[0].startswith("file:")
    assert not page.errors


def test_the_print_is_short_and_the_page_stands_without_scripts(opened, tmp_path):
    printed = opened().pdf(format="A4")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") < 10
    page = opened(java_script_enabled=False)
    assert not page.locator("#explorer").is_visible()
    assert page.locator("figure img").count() >= 9
    assert "need" in page.inner_text("noscript")
