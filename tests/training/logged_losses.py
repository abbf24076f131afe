"""What a run logged, for comparing two runs."""

from lossline.runs.run_directory import RunDirectory
from lossline.training.metrics import read_metrics


def losses(run: RunDirectory) -> list[tuple[int, float, float]]:
    """Return step, loss and gradient norm of every logged step."""
    return [
        (row["step"], row["loss"], row["gradient_norm"])
        for row in read_metrics(run.path / "metrics.jsonl")
    ]
