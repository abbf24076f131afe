import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from lossline import tables
from lossline.attribution.results import Attribution
from lossline.errors import UserError
from lossline.fits.results import TableFit
from lossline.reporting import page as page_parts
from lossline.reporting import report
from lossline.reporting.grids import p_number
from lossline.reporting.report import verdicts, write_report
from tests.reporting import planted

EVIL = "<script>alert('x')</script>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """Collects tags, links, the cells of every table and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.rows, self._cell = [], None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def results() -> TableFit:
    return planted.results()


@pytest.fixture(scope="module")
def small() -> TableFit:
    """Two sets and few runs, for tests that do not depend on the size of the study."""
    recipe = planted.Recipe(
        sizes=(4e5, 1e6), architectures=("llama",), checkpoints=4, interventions=False
    )
    results = planted.results(recipe)
    table = results.table[results.table["eval_set"].isin(["wiki", "hellaswag"])]
    lines = tuple(line for line in results.lines if line.y_set == "hellaswag")
    return replace(results, table=table.reset_index(drop=True), lines=lines)


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    return write_report(results, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page(written.read_text("utf-8"))


def test_every_line_is_in_the_table_of_fits_with_its_numbers_and_status(page, results):
    rows = [row for row in page.rows if row[3:4] == ["wiki"] and "chinchilla" not in row]
    assert len(rows) == len(results.lines)
    for line in results.lines:
        facts = [line.group[name] for name in ("pretraining_data", "architecture", "tokenizer")]
        matching = [row for row in rows if row[:5] == [*facts, line.x_set, line.y_set]]
        if line.drawable:
            K = f"{line.parameters['K']:.4g}["
            assert any(row[5].startswith(K) and "0.9987" in row for row in matching)
            assert any(row[-1] == "converged" for row in matching)
        else:
            failed = next(row for row in matching if row[5] == "–")
            assert failed[-1] == f"{line.status.value}{line.message}"


def test_processes_write_the_same_report(written, results, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_LARGE", 1)
    again = write_report(results, tmp_path, processes=2)
    first = {path.relative_to(written.parent) for path in written.parent.rglob("*.*")}
    assert {path.relative_to(tmp_path) for path in again.parent.rglob("*.*")} == first
    assert len(first) > 5
    for name in first:
        assert (tmp_path / name).read_bytes() == (written.parent / name).read_bytes(), name


def test_the_page_starts_with_one_verdict_per_factor(written, results):
    source = written.read_text("utf-8")
    for factor in results.attribution.factors[:5]:
        assert source.index(factor.sentence) < source.index('id="lines"')
    assert "Not tested: " in verdicts(results)[-1]
    assert "context length" in verdicts(results)[-1]


def test_exclusions_scores_settings_and_provenance_are_shown(page):
    text = " ".join(page.text)
    for words in (
        "checkpoints before 5% of training", "warm-up", "NaN logits in document 17",
        "straight line", "calibrated by", "fit.bootstrap", "versions.numpy",
        "python -m lossline.fit",
        "chinchilla", "does not move", "inconclusive",
    ):  # fmt: skip
        assert words in text


def test_page_is_one_file_with_its_own_scripts_and_no_external_files(page):
    assert ("script", "src") not in {(tag, name) for tag, name, _ in page.attributes}
    (policy,) = [
        value for tag, name, value in page.attributes
        if (tag, name) == ("meta", "content") and value.startswith("default-src")
    ]  # fmt: skip
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    data = [value for tag, name, value in page.attributes if (tag, name) == ("script", "type")]
    assert policy.count("'sha256-") == page.tags.count("script") - len(data)
    assert set(data) == {"text/plain"}  # the study and the figures as SVG are no scripts
    assert "link" not in page.tags
    for tag, name, value in page.attributes:
        if name in ("src", "href", "data", "action", "srcset"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
        assert not name.startswith("on")
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == sum(tag == "figcaption" for tag in page.tags) >= 9
    assert len(data) == 1 + len(images)


def test_figures_and_tables_speak_to_a_screen_reader(page):
    texts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert all(len(text) > 80 for text in texts)
    assert any("hellaswag: 263 checkpoints of 22 runs, from" in text for text in texts)
    assert any("pretraining data: moves" in text for text in texts)
    heads = [name for tag, name, value in page.attributes if tag == "th" and value == "col"]
    assert len(heads) == page.tags.count("th")


@pytest.mark.parametrize(("value", "shown"), [(0.0, "< 0.0001"), (0.04, "0.04"), (None, "–")])
def test_a_p_value_is_never_a_bare_zero(value, shown):
    assert p_number(value) == shown


def test_a_page_holds_no_large_svg(small, tmp_path, monkeypatch):
    whole = write_report(small, tmp_path / "whole").read_text("utf-8")
    monkeypatch.setattr(page_parts, "MOST_VECTOR", 4_000)
    light = write_report(small, tmp_path / "light").read_text("utf-8")
    assert 0 < light.count('class="vector"') < whole.count('class="vector"')
    assert len(light) < len(whole)


def test_style_fetches_nothing(written):
    assert not re.search(
        r"url\(|@import|https?://", written.read_text("utf-8").split("</style>")[0]
    )


def test_pictures_are_written_next_to_the_page(written):
    names = {path.name for path in (written.parent / "figures").iterdir()}
    assert {"overview.png", "overview.svg", "attribution.png", "held-out-nats.png"} <= names


def test_hostile_names_are_shown_as_text_everywhere(small, tmp_path):
    table = small.table.copy()
    for column in (
        "run_id",
        "pretraining_data",
        "architecture",
        "tokenizer",
        "eval_set",
        "message",
    ):
        table[column] = table[column].where(table[column].isna(), table[column] + EVIL)
    lines = tuple(
        replace(
            line,
            x_set=line.x_set + EVIL,
            y_set=line.y_set + EVIL,
            group={key: value + EVIL for key, value in line.group.items()},
            message=EVIL,
        )
        for line in small.lines
    )
    hostile = replace(
        small, table=table, lines=lines, provenance={"command": EVIL, EVIL: EVIL},
        settings={EVIL: EVIL}, excluded=pd.DataFrame([{"what": EVIL, "rows": 1, "reason": EVIL}]),
        attribution=replace(
            small.attribution,
            x_set="",
            factors=tuple(
                replace(f, sentence=f.sentence + EVIL, label=EVIL, message=EVIL)
                for f in small.attribution.factors
            ),
        ),
    )  # fmt: skip
    source = write_report(hostile, tmp_path, title=EVIL).read_text("utf-8")
    page = Page(source)
    # Tools, Vega, explorer, the packed study, and each figure as SVG.
    assert page.tags.count("script") == 4 + page.tags.count("img")
    assert EVIL in "".join(page.text)
    assert "49" not in verdicts(hostile)[0]
    allowed = {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "nav",
        "a", "section", "ul", "li", "figure", "img", "figcaption", "b", "div", "table", "caption",
        "thead", "tbody", "tr", "th", "td", "span", "pre", "small", "script", "noscript", "form",
        "label", "select", "option", "input", "datalist", "button",
    }  # fmt: skip
    assert set(page.tags) <= allowed


def test_a_study_without_any_fit_has_a_report(small, tmp_path):
    bare = TableFit(table=small.table)
    text = " ".join(Page(write_report(bare, tmp_path).read_text("utf-8")).text)
    for words in ("No line was fitted", "No run was held out", "No law from scale to loss"):
        assert words in text


def test_a_report_without_any_line_gives_the_reasons(small, tmp_path):
    failed = tuple(line for line in small.lines if not line.drawable)
    message = "every group has one run"
    sad = TableFit(table=small.table, lines=failed, attribution=Attribution(message=message))
    text = " ".join(Page(write_report(sad, tmp_path).read_text("utf-8")).text)
    assert message in text
    assert "underdetermined" in text


def test_a_single_loss_has_a_report(tmp_path):
    table = tables.from_rows(
        [
            {
                "run_id": "a",
                "eval_set": "v",
                "kind": "validation",
                "step": 1,
                "tokens": 1.0,
                "loss": 2.0,
            }
        ]
    )
    text = " ".join(Page(write_report(TableFit(table=table), tmp_path).read_text("utf-8")).text)
    assert "Only one evaluation set" in text


def test_a_table_with_only_bits_per_byte_has_figures_in_this_unit(small, tmp_path):
    table = small.table.copy()
    table[["loss", "nats", "target_tokens"]] = None
    page = write_report(TableFit(table=tables.derive(table)), tmp_path)
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert "task-bits.png" in names
    assert "task-nats.png" not in names


def test_an_empty_table_and_a_foreign_page_are_refused(small, tmp_path):
    with pytest.raises(UserError, match="no measured rows"):
        write_report(TableFit(table=small.table.iloc[:0]), tmp_path / "empty")
    (tmp_path / "report.html").write_text("<html>mine</html>")
    with pytest.raises(UserError, match="not written by lossline"):
        write_report(small, tmp_path)
    assert (tmp_path / "report.html").read_text() == "<html>mine</html>"


def test_the_same_results_replace_the_page_with_an_identical_one(small, tmp_path):
    first = write_report(small, tmp_path).read_bytes()
    assert write_report(small, tmp_path).read_bytes() == first
