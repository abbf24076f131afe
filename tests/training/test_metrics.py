"""metrics.jsonl and TensorBoard files are readable by other programs."""

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossline.training.metrics import MetricsWriter, read_metrics


def write(folder, start, stop):
    with MetricsWriter(folder, step=start) as writer:
        for step in range(start + 1, stop + 1):
            writer.write({"step": step, "loss": 1 / step, "mfu": None})


def test_tensorboard_reads_what_is_written(tmp_path):
    write(tmp_path, 0, 300)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    read = events.Scalars("loss")
    assert [event.step for event in read] == list(range(1, 301))
    assert abs(read[6].value - 1 / 7) < 1e-7


def test_going_on_leaves_no_step_twice(tmp_path):
    write(tmp_path, 0, 9)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # the kill came here
    write(tmp_path, 6, 12)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows == read_metrics(tmp_path / "metrics.jsonl")
    assert "mfu" not in rows[0]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
