"""A selective training that is killed goes on as if nothing had happened, bit by bit."""

from dataclasses import replace

import pytest
from killed_training import assert_same_run, train_and_kill

from lossline.objectives.options import Score, Selective
from lossline.sharding import MeshOptions
from lossline.training.loop import train

KILLED_AT = 10  # steps after the last checkpoint are in the metrics


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [(MeshOptions(data=8), 1), (MeshOptions(data=4, tensor=2), 2)]
)
def test_resume_after_kill_is_bitwise_identical(
    options, store, written_scores, tmp_path, mesh, microbatches
):
    scores = written_scores(store.location, context_length=32)
    chosen = Selective(share=0.6, score=Score.EXCESS_LOSS, scores=scores)
    changes = {"objective": chosen, "mesh": mesh, "microbatches": microbatches}
    whole = options(**changes)
    killed = replace(whole, root=str(tmp_path / "killed"))
    expected = train(whole)
    # The other process takes the step from the compilation cache. In such a program XLA keeps no
    # order between independent collectives; if there are any, devices wait for each other forever.
    train_and_kill(killed, step=KILLED_AT)
    resumed = train(killed)
    assert_same_run(resumed, killed, expected, whole)
    assert resumed.trained_tokens(12) == expected.trained_tokens(12) == 12 * int(0.6 * 8 * 32)
