"""A small valid loss table for tests to break."""

import pandas as pd
import pytest

from lossline import tables


@pytest.fixture
def rows() -> list[dict]:
    """Two runs × two checkpoints × (one validation set, one task), as sums."""
    return [
        {
            "run_id": run,
            "architecture": run,
            "pretraining_data": "wiki",
            "tokenizer": "bpe",
            "seed": 1,
            "params": 1e6,
            "step": step,
            "tokens": 1000.0 * step,
            "flops": 6e9 * step,
            "eval_set": eval_set,
            "kind": kind,
            "nats": 4000.0 / step + offset,
            "target_tokens": 1000,
            "target_bytes": 4000,
            "documents": 10,
            "correct": 5 if kind == "task" else None,
            "questions": 10 if kind == "task" else None,
            "truncated": 0,
        }
        for run, offset in (("llama", 0.0), ("mamba", 50.0))
        for step in (1, 2)
        for eval_set, kind in (("wiki", "validation"), ("arc_easy", "task"))
    ]


@pytest.fixture
def table(rows: list[dict]) -> pd.DataFrame:
    return tables.from_rows(rows)
