"""text.html: text whose tokens are colored by class or by selection frequency, without scripts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from lossline.reporting.token_dynamics.spans import FREQUENCY_BINS, Span, spans
from lossline.token_dynamics.classes import CLASSES
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.results import TokenDynamics
from lossline.token_dynamics.summary import rule_words, subtitle

_MEANINGS = ("stays high", "rises", "falls", "stays low")
_MOST_RUNS = 8


@dataclass(frozen=True)
class _Way:
    """A way to color the tokens: prefix of the CSS classes, label, and its legend."""

    name: str
    label: str
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Window:
    """A window of a run: its heading and its spans."""

    heading: str
    spans: Sequence[Span]


def text_page(found: TokenDynamics, options: AnalysisOptions) -> str:
    """Return the page as self-contained HTML.

    Args:
        found: the results, with ``sample.pieces``.
        options: their options.
    """
    templates = resources.files("lossline.reporting") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((templates / "text.html.j2").read_text("utf-8"))
    style = jinja2.filters.Markup((templates / "text.css").read_text("utf-8"))
    runs = list(found.tokens["run"].drop_duplicates())
    return template.render(
        title="Tokens by their dynamics",
        subtitle=subtitle(found),
        ways=list(_ways(found, options)),
        runs=[(run, list(_windows(found, run))) for run in runs[:_MOST_RUNS]],
        left_out=len(runs[_MOST_RUNS:]),
        style=style,
    )


def _ways(found: TokenDynamics, options: AnalysisOptions) -> Iterator[_Way]:
    for rule in ("fixed", "noise"):
        legend = [
            (f"{rule}{number}", f"{name} {meaning}")
            for number, (name, meaning) in enumerate(zip(CLASSES, _MEANINGS, strict=True))
        ]
        yield _Way(rule, f"class, {rule_words(rule, options)}", legend)
    if found.reference:
        edges = [round(100 * number / FREQUENCY_BINS) for number in range(FREQUENCY_BINS + 1)]
        legend = [
            (f"often{number}", f"{low} to {high}%")
            for number, (low, high) in enumerate(itertools.pairwise(edges))
        ]
        share = f"{100 * options.share:g}%"
        yield _Way("often", f"checkpoints at which it is among the selected {share}", legend)


def _windows(found: TokenDynamics, run: str) -> Iterator[_Window]:
    sample = found.sample
    assert sample.pieces is not None
    rows = found.tokens[found.tokens["run"] == run]
    for window in sample.shown:
        part = rows[rows["window"] == window]
        first, last = part["document"].iloc[0], part["document"].iloc[-1]
        documents = f"document {first}" if first == last else f"documents {first} to {last}"
        heading = f"{sample.store}, {documents}, from token {part['position'].iloc[0]:,}"
        yield _Window(heading, list(spans(part, sample.pieces)))
