"""Text with colored tokens: whole characters, what shows nothing, hostile text."""

import pandas as pd
import pytest
from token_dynamics.planted_tokens import curves_of, planted_nats, sample_of

from lossline.reporting.token_dynamics.spans import frequency_bin, spans
from lossline.reporting.token_dynamics.text_page import text_page
from lossline.token_dynamics.analysis import analyze
from lossline.token_dynamics.options import AnalysisOptions


def rows_of(count, classes=None):
    return pd.DataFrame(
        {
            "token_id": range(count), "nats_first": 4.0, "nats_last": 3.0, "change": -1.0,
            "threshold_noise": 0.5, "class_fixed": classes or ["H→L"] * count,
            "class_noise": "H→H", "mean_excess": float("nan"),
            "selection_frequency": float("nan"),
        }
    )  # fmt: skip


def texts(*pieces):
    return [span.text for span in spans(rows_of(len(pieces)), pieces)]


def test_characters_of_several_tokens_stay_whole():
    e, smile = "é".encode(), "😀".encode()
    assert texts(b"a", e[:1], e[1:], b"b") == ["a", "é", "b"]
    assert texts(b" x" + e[:1], e[1:] + b"y") == [" xéy"]
    assert texts(*(smile[i : i + 1] for i in range(4)), b"!") == ["😀", "!"]
    found = list(spans(rows_of(2, ["L→H", "H→L"]), (e[:1], e[1:])))
    assert len(found) == 1 and found[0].css == "fixed2 noise0"  # of the last token
    assert found[0].title.splitlines()[0].startswith(r"'\xc3': 4.00 to 3.00 nats")
    assert found[0].title.splitlines()[1].startswith(r"'\xa9'")


def test_broken_characters_are_shown_as_such():
    e = "é".encode()
    assert texts(e[1:], b"a") == ["�", "a"]  # a window that starts within a character
    assert texts(b"a", e[:1]) == ["a", "�"]  # and one that ends within one
    assert texts(b"a", e[:1], b"", b"b") == ["a", "�⟨end⟩", "b"]
    assert texts(b"\xff", b"a") == ["�", "a"]


def test_what_shows_nothing_is_made_visible():
    assert texts(b"\n", b"\t", b"\x00", b"") == ["↵\n", "⇥\t", "␀", "⟨end⟩"]
    assert texts("\u202e".encode()) == ["�"]  # would reverse the text after it


@pytest.mark.parametrize(("frequency", "expected"), [(0, 0), (0.2, 1), (0.5, 2), (0.99, 4), (1, 4)])
def test_bins_of_frequency(frequency, expected):
    assert frequency_bin(frequency) == expected


def page(*, reference):
    nats = planted_nats([0.0] * 20, 0.1)
    pieces = [b"<script>alert(1)</script>", b"b"]
    ids = [0, 1] * 10
    sample = sample_of([0] * 10 + [1] * 10, pieces=pieces, token_ids=ids, shown=(1,))
    found = analyze(
        sample, [curves_of(nats, "<b>run</b>")], AnalysisOptions(resamples=100),
        reference="r" if reference else "", reference_nats=nats[0] if reference else None,
    )  # fmt: skip
    return text_page(found, AnalysisOptions())


def test_page_escapes_text_and_shows_the_drawn_windows():
    text = page(reference=False)
    assert "<script" not in text and "&lt;script&gt;" in text and "&lt;b&gt;run" in text
    assert "from token 10" in text and "from token 0" not in text
    assert text.count('<span class="token fixed') == 10 + 4  # ten tokens, and the legend
    assert 'id="by-noise"' in text and 'id="by-often"' not in text


def test_selection_frequency_is_a_third_way_to_color():
    text = page(reference=True)
    assert 'id="by-often"' in text and "80 to 100%" in text and "mean excess" in text
