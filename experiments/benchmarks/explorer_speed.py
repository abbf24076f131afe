"""Measure how soon the explorer of a report answers, in headless Chromium.

    python experiments/benchmarks/explorer_speed.py

Two planted tables, each fitted and reported by `python -m lossline.fit`: 50,000 measurements (125
runs × 20 checkpoints × 20 sets), and 50,000 checkpoints on two sets (2,500 runs × 20), the most
points that one panel can ask for. The script opens each report, and makes each change several
times by real events of mouse and keyboard. A time is from the event to the frame that shows the
change; that of a control includes the pause after which a typed word is taken. It needs Playwright
and Chromium, prints a table and writes explorer_speed.json next to this file. `--keep=FOLDER` keeps
tables and reports, and uses those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Page, sync_playwright
from simulated_scale import planted

from lossline import tables

SHAPES = {
    "50,000 measurements": {"runs": 125, "checkpoints": 20, "sets": 20},
    "50,000 checkpoints": {"runs": 2500, "checkpoints": 20, "sets": 2},
}
ROUNDS = 9
# From an event to the frame after the chart has answered. A control makes a new view.
CLOCK = """() => {
  window.times = [];
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const watch = (type, answered) => addEventListener(type, async (event) => {
    const start = event.timeStamp, view = window.explorerView;
    const signals = [view.signal("followed"), view.signal("band")];
    await new Promise((done) => setTimeout(done));
    await answered(view, signals);
    await frame();
    window.times.push(performance.now() - start);
  }, true);
  for (const type of ["mousemove", "wheel"]) watch(type, (view) => view.runAsync());
  watch("input", async (view, [followed, band]) => {
    const same = () => view.signal("followed") === followed && view.signal("band") === band;
    while (window.explorerView === view && same()) await frame();
  });
}"""
CANVAS = "#chart canvas"


def report(folder: Path, shape: dict[str, int]) -> Path:
    """Return the report of a planted table; make both if they are not there."""
    page = folder / "fit" / "report.html"
    if not page.exists():
        folder.mkdir(parents=True, exist_ok=True)
        table, _ = planted(**shape)
        tables.write(table, folder / "losses.parquet")
        command = ["-m", "lossline.fit", f"--table={folder}/losses.parquet", f"--out={folder}/fit"]
        command.append("--gin.fit.x_sets=('x',)")
        subprocess.run([sys.executable, *command], check=True)
    return page


def usable(page: Page, address: str) -> float:
    """Open a report, and return the milliseconds until its explorer is painted."""
    page.goto(address)
    page.wait_for_function("window.explorerView !== undefined")
    return float(
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => "
                      "done(performance.now()))))")
    )  # fmt: skip


def timed(page: Page, change: Callable[[int], Any]) -> dict[str, float]:
    """Return the times of a change, and the CPU time of the page's thread, in milliseconds."""
    times = []
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000.0 * sum(m["value"] for m in metrics if m["name"] == "TaskDuration")

    before = busy()
    for turn in range(ROUNDS + 1):
        page.evaluate("window.times = []")
        change(turn)
        page.wait_for_function("window.times.length > 0")
        times.append(page.evaluate("Math.max(...window.times)"))
        page.wait_for_timeout(250)
    # The first of a kind compiles code of the browser.
    cpu = (busy() - before) / len(times)
    session.detach()
    rest = times[1:]
    return {
        "first_ms": times[0], "median_ms": median(rest), "largest_ms": max(rest), "cpu_ms": cpu,
    }  # fmt: skip


def measure(page: Page, address: str) -> dict[str, Any]:
    """Return the times of all changes on one report."""
    opened = [usable(page, address) for _ in range(3)]
    page.evaluate(CLOCK)
    page.locator(CANVAS).scroll_into_view_if_needed()
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    x, y = box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"]
    words = ("web", "wiki", "code", "books")
    sets = page.locator("[name=y] option").all_inner_texts()
    page.keyboard.press("Escape")

    def zoom(turn: int) -> None:
        page.mouse.wheel(0, -120 if turn % 2 else 120)

    changes: dict[str, Callable[[int], Any]] = {
        "hover": lambda turn: page.mouse.move(x + 9 * (turn % 5), y - 6 * (turn % 5)),
        "follow a run": lambda turn: page.fill("[name=run]", f"run-{turn + 1:05d}"),
        "filter": lambda turn: page.fill("[name=filter]", words[turn % 4]),
        "y set": lambda turn: page.select_option("[name=y]", sets[turn % len(sets)]),
        "bands": lambda turn: page.locator("[name=band]").set_checked(bool(turn % 2)),
    }
    found = {"hover": timed(page, changes.pop("hover"))}
    page.keyboard.down("Control")
    found["zoom"] = timed(page, zoom)
    page.keyboard.up("Control")
    return {"usable_ms": opened, **found, **{name: timed(page, c) for name, c in changes.items()}}


def main() -> None:
    """Measure both tables, print the times and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="folder of tables and reports")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, shape in SHAPES.items():
            made = report((options.keep or Path(temporary)) / name.replace(",", ""), shape)
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            results[name] = {
                **shape, "page_MB": made.stat().st_size / 1e6, **measure(page, made.as_uri()),
            }  # fmt: skip
            page.close()
        version = browser.version
        browser.close()
    written = {
        "command": "python experiments/benchmarks/explorer_speed.py",
        "date": date.today().isoformat(),
        "chromium": version,
        "load": os.getloadavg()[0],
        "results": results,
    }
    text = json.dumps(written, indent=2)
    print(text)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
