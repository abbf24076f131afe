"""Options of a run as columns of the loss table."""

from lossline.models import HybridConfig
from lossline.options.columns import option_columns
from lossline.options.identity import identity
from lossline.training.optimizer import AdamW
from lossline.training.schedule import WSDSchedule


def test_every_option_has_a_column_named_by_its_path():
    hybrid = HybridConfig(
        vocab_size=9,
        width=8,
        layers=4,
        context_length=4,
        heads=2,
        mlp_width=8,
        attention_every=2,
        head_channels=16,
    )
    tree = {
        "model": identity(hybrid),
        "optimizer": identity(AdamW(clip_norm=None)),
        "schedule": identity(WSDSchedule()),
        "store": "ab" * 32,
        "checkpoints": {"__class__": "CheckpointOptions", "steps": [1, 2]},
        "documents": "separate",
    }
    columns = option_columns(tree)
    assert columns["option.model.attention_every"] == "2"
    assert columns["option.model.tie_embeddings"] == "false"
    assert columns["option.optimizer.clip_norm"] == "none"
    assert columns["option.optimizer.eps"] == "1e-08"
    assert columns["option.schedule.shape"] == "sqrt"
    assert columns["option.store"] == "ab" * 32
    assert columns["option.checkpoints.steps"] == "[1, 2]"
    assert columns["option.documents"] == "separate"
    assert len(columns) == sum(
        len(item) - 1 if isinstance(item, dict) else 1 for item in tree.values()
    )


def test_recorded_options_never_have_an_empty_cell():
    """An empty cell of the loss table means "not recorded"."""
    assert option_columns({"a": None, "b": "", "c": [], "d": False, "e": 0}) == {
        "option.a": "none",
        "option.b": "none",
        "option.c": "[]",
        "option.d": "false",
        "option.e": "0",
    }
