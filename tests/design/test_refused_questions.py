"""Questions that a table cannot answer are refused by the reason, before anything is fitted."""

import pytest

from lossline import tables
from lossline.design import Target, propose
from lossline.errors import UserError


def confounded():
    """Runs of two architectures, each on a text of its own."""
    return tables.from_rows(
        [
            {
                "run_id": f"r{i}", "architecture": ("llama", "mamba")[i % 2],
                "pretraining_data": ("web", "code")[i % 2], "params": 1e8 * (1 + i // 2),
                "tokens": 2e9, "step": 1, "flops": 1e18, "eval_set": name, "kind": "validation",
                "loss": 3.0 - i / 10,
            }
            for i in range(6)
            for name in ("c", "p")
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "reason"), [("architecture", "differ in architecture alone"), ("nope", "not vary")]
)
def test_a_factor_without_matched_runs_is_refused_by_that_reason(factor, reason):
    target = Target(
        question="factor", factor=factor, levels=("llama", "mamba"), x_set="c", y_set="p"
    )
    with pytest.raises(UserError, match=reason):
        propose(confounded(), target, budget=1e20)
