import base64
import json
import zlib

import numpy as np
import pandas as pd
import pytest

from lossline.explorer import study as studies
from lossline.explorer.parts import policy, scripts
from lossline.explorer.study import Study, Trace


def planted(runs: int = 3, steps: int = 4) -> Study:
    rows = [
        {"run_id": f"run-{run}", "step": step, "params": 1e6, "tokens": 1e6 * step, "flops": None}
        for run in range(runs)
        for step in range(1, steps + 1)
    ]
    frame = pd.DataFrame(rows)
    frame = frame.assign(wiki=3.0 + 1.0 / frame["step"], legal=2.0 + 1.0 / frame["step"])
    frame.loc[2, "legal"] = np.nan
    facts = pd.DataFrame(
        {"pretraining_data": ["a", "b", "a"] * (runs // 3)}, index=frame["run_id"].unique()
    )
    x = np.linspace(3.0, 4.0, 5)
    return Study(
        losses={"loss": frame},
        sets={"loss": ["legal", "wiki"]},
        units={"loss": "nats per token"},
        facts=facts,
        x="wiki",
        y="legal",
        traces=[
            Trace(unit="loss", x="wiki", y="legal", group={}, values=np.stack([x] * 4, axis=1))
        ],
    )


def test_a_packed_study_is_what_went_in():
    study = planted()
    content = json.loads(zlib.decompress(base64.b64decode(study.packed())))
    frame = study.losses["loss"]
    names = [content["runs"][run] for run in content["checkpoints"]["run"]]
    assert names == list(frame["run_id"])
    assert content["checkpoints"]["step"] == list(frame["step"])
    assert content["losses"]["loss"]["wiki"] == pytest.approx(list(frame["wiki"]), rel=1e-4)
    assert content["losses"]["loss"]["legal"][2] is None
    assert content["facts"]["pretraining_data"] == {"levels": ["a", "b"], "of": [0, 1, 0]}
    assert content["left_out"] == 0


def test_a_large_study_keeps_an_even_share_and_says_how_many_are_left_out(monkeypatch):
    monkeypatch.setattr(studies, "MOST_VALUES", 240)
    content = planted(runs=30, steps=20).content()
    kept = pd.Series(content["checkpoints"]["run"])
    assert len(kept) == pytest.approx(120, abs=3)
    assert content["left_out"] == 600 - len(kept)
    assert kept.value_counts().min() >= 3
    assert kept.nunique() == 30


def test_the_policy_admits_the_scripts_and_no_address():
    parts = scripts(explorer=True)
    assert policy(parts).count("sha256-") == 3
    assert "http" not in policy(parts)
    assert "unsafe-eval" not in policy(scripts(explorer=False))
    assert not any("</script" in part.lower() for part in parts)
    assert sum(map(len, parts)) < 3_000_000


def test_numbers_have_few_digits_as_text_would_have_them():
    random = np.random.default_rng(0)
    spread = random.normal(size=2000) * 10.0 ** random.integers(-12, 24, 2000)
    values = [*spread, 0.0, 9.99999e5, 123456.5, 2.5, np.nan, np.inf, -np.inf]
    expected = [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
    assert studies._numbers(values) == expected
