"""Measure the memory of gathering and selecting text against the size of the text.

    python experiments/benchmarks/text_memory.py --megabytes 20 80 --before ../other_checkout

Makes planted corpora (random words; one document in eight is an edited copy), gathers them with
near-duplicates dropped, and selects pages of them by four methods, each in one process. Prints the
largest resident memory and the CPU seconds of each command, and writes text_memory.json next to
this file. ``--before`` measures another checkout of this repository too, and compares the files
that both wrote.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SELECT = """
select.pool = @pool()
pool.root = "{root}"
pool.domains = ("planted",)
select.targets = (@target(),)
target.name = "quiz"
target.texts = ("{texts}",)
target.domains = ("planted",)
select.methods = {{
    "uniform": @uniform(), "dsir": @dsir(), "oracle": @oracle(),
    "positive": @positive_classifier()}}
dsir.fewest_words = 10
positive_classifier.training = @training_pages()
training_pages.per_class = 500
select.budget = {budget}
select.vocabulary = "bytes"
select.report = False
"""


def plant(folder: Path, megabytes: float) -> tuple[Path, str]:
    """Write a wheel of text files, and return it with its hash."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
             for _ in range(30_000)]  # fmt: skip
    path = folder / "planted-1-py3-none-any.whl"
    size, number, last = 0, 0, ""
    with zipfile.ZipFile(path, "w") as archive:
        while size < megabytes * 1e6:
            text = " ".join(draw.choices(words, k=draw.randint(50, 600)))
            if number % 8 == 7:
                text = f"{last} and so on"
            archive.writestr(zipfile.ZipInfo(f"p/{number:07d}.txt"), text)
            size, number, last = size + len(text), number + 1, text
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def measured(checkout: Path, *arguments: str) -> dict[str, float]:
    """Run a verb in a checkout; return its largest resident memory and CPU seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=checkout, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(errors.decode())
    seconds = usage.ru_utime + usage.ru_stime
    return {"mib": round(usage.ru_maxrss / 1024, 1), "cpu_seconds": round(seconds, 2)}


def both(checkout: Path, folder: Path, megabytes: float) -> tuple[dict[str, Any], str]:
    """Measure both verbs on one corpus, and return a hash of the files that they wrote."""
    path, sha256 = plant(folder, megabytes)
    root = folder / "data"
    gather = measured(
        checkout, "lossline.gather", f"--gin.gather.root='{root}'",
        f"--gin.gather.downloads='{folder}'", "--gin.gather.corpora=(@package_text(),)",
        "--gin.gather.max_megabytes=1e6", "--gin.gather.processes=1",
        "--gin.package_text.name='planted'", "--gin.package_text.package='planted'",
        "--gin.package_text.version='1'", f"--gin.package_text.file='{path.name}'",
        f"--gin.package_text.sha256='{sha256}'", "--gin.package_text.pattern='*.txt'",
        "--gin.package_text.content_license='none'", "--gin.package_text.near_duplicates=True",
    )  # fmt: skip
    texts = folder / "target.jsonl"
    lines = (root / "text" / "planted" / "validation.jsonl").read_text().splitlines(True)
    texts.write_text("".join(lines[:200]))
    gin = folder / "select.gin"
    gin.write_text(SELECT.format(root=root, texts=texts, budget=int(megabytes * 1e5)))
    select = measured(
        checkout, "lossline.select", f"--gin_file={gin}", "--out", str(folder / "out"),
        "--gin.select.processes=1",
    )  # fmt: skip
    digest = hashlib.sha256()
    for file in sorted([*root.rglob("*.json*"), *(folder / "out").rglob("pages.parquet")]):
        digest.update(file.read_bytes())
    return {"gather": gather, "select": select}, digest.hexdigest()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[20, 80])
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    checkouts = {"after": HERE.parents[2]}
    if arguments.before:
        checkouts = {"before": arguments.before.resolve(), **checkouts}
    rows = []
    for megabytes in arguments.megabytes:
        row: dict[str, Any] = {"megabytes": megabytes}
        digests = set()
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                row[name], digest = both(checkout, Path(folder), megabytes)
                digests.add(digest)
        row["same_files"] = len(digests) == 1
        rows.append(row)
        print(json.dumps(row), flush=True)
    found = {"command": "python " + " ".join(sys.argv), "python": sys.version.split()[0]}
    HERE.with_suffix(".json").write_text(json.dumps(found | {"sizes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
