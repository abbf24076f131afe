"""Tokens as spans of readable text: characters of several tokens stay whole."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lossline.token_dynamics.classes import CLASSES

# Characters that show nothing, and what is shown for them.
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    0x7F: "\u2421",
    ord("\n"): "↵\n",
    ord("\t"): "⇥\t",
    # Characters that reorder the text around them.
    **dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�"),
}
_END = "⟨end⟩"
FREQUENCY_BINS = 5


@dataclass(frozen=True, kw_only=True)
class Span:
    """Some tokens that together are whole characters.

    Attributes:
        text: their text.
        css: classes of the style sheet: one for each way to color.
        title: numbers of the tokens, shown when the pointer is on the span.
    """

    text: str
    css: str
    title: str


def spans(rows: pd.DataFrame, pieces: Sequence[bytes]) -> Iterator[Span]:
    """Yield the tokens of one window as spans.

    A token whose bytes end within a character is joined with the tokens that complete it; the span
    has the colors of its last token. Bytes that are no UTF-8 become U+FFFD.

    Args:
        rows: rows of ``TokenDynamics.tokens`` of one run and window, in order.
        pieces: bytes of each id.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text, group = "", []
    for number, row in enumerate(rows.to_dict("records"), start=1):
        piece = pieces[row["token_id"]]
        text += decoder.decode(piece, final=not piece or number == len(rows))
        text += "" if piece else _END
        group.append(row)
        if not decoder.getstate()[0]:
            yield Span(
                text=text.translate(_VISIBLE),
                css=_css(row),
                title="\n".join(_title(one, pieces) for one in group),
            )
            text, group = "", []


def frequency_bin(frequency: float) -> int:
    """Return the bin of a selection frequency, 0 to ``FREQUENCY_BINS`` - 1."""
    return min(int(frequency * FREQUENCY_BINS), FREQUENCY_BINS - 1)


def _css(row: Mapping[str, Any]) -> str:
    names = [f"{rule}{CLASSES.index(row[f'class_{rule}'])}" for rule in ("fixed", "noise")]
    if pd.notna(row["selection_frequency"]):
        names.append(f"often{frequency_bin(row['selection_frequency'])}")
    return " ".join(names)


def _title(row: Mapping[str, Any], pieces: Sequence[bytes]) -> str:
    text = (
        f"{_quoted(pieces[row['token_id']])}: "
        f"{row['nats_first']:.2f} to {row['nats_last']:.2f} nats, fitted change "
        f"{row['change']:+.2f}, noise threshold {row['threshold_noise']:.2f}; "
        f"{row['class_fixed']} by the fixed threshold, {row['class_noise']} by noise"
    )
    if pd.notna(row["selection_frequency"]):
        text += (
            f"; mean excess {row['mean_excess']:+.2f}, selected at "
            f"{100 * row['selection_frequency']:.0f}% of the checkpoints"
        )
    return text


def _quoted(piece: bytes) -> str:
    """Return a piece in quotes; bytes that are no UTF-8 by themselves as escapes."""
    try:
        return repr(piece.decode()) if piece else _END
    except UnicodeDecodeError:
        return repr(piece)[1:]
