"""A model of another size keeps its proportions, and has about the number of parameters asked."""

from __future__ import annotations

import dataclasses

import pytest

from lossline.errors import UserError
from lossline.models.llama import LlamaConfig
from lossline.models.mamba import MambaConfig
from lossline.models.mamba2 import Mamba2Config
from lossline.models.resizing import resized

LLAMA = LlamaConfig(
    vocab_size=32000, context_length=2048, width=2048, layers=22, heads=32, kv_heads=4,
    mlp_width=5632,
)  # fmt: skip
SMALL = {"vocab_size": 4096, "context_length": 256, "width": 128, "layers": 7}
MODELS = [LLAMA, MambaConfig(**SMALL), Mamba2Config(**SMALL)]


@pytest.mark.parametrize("times", [0.5, 2, 8, 30])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_parameters_are_those_asked(model, times: float) -> None:
    wanted = times * model.num_params().total
    found = dataclasses.replace(model, **resized(model, wanted))
    assert found.num_params().total == pytest.approx(wanted, rel=0.05)
    before, after = model.width / model.layers, found.width / found.layers
    assert 0.5 < after / before < 2  # heads of Mamba-2 make its widths coarse


def test_heads_keep_their_width_and_their_groups() -> None:
    sizes = resized(LLAMA, 8 * LLAMA.num_params().total)
    assert sizes["width"] // sizes["heads"] == 64
    assert sizes["heads"] // sizes["kv_heads"] == 8
    assert sizes["mlp_width"] / sizes["width"] == pytest.approx(5632 / 2048, rel=0.01)


def test_a_size_below_the_embedding_gives_the_smallest_model() -> None:
    """One head's width of embeddings is the least; nothing smaller has these proportions."""
    sizes = resized(LLAMA, 1e5)
    assert sizes["layers"] == 1 and sizes["kv_heads"] == 1


def test_a_family_that_takes_none_of_the_widths_is_refused() -> None:
    class Fussy(LlamaConfig):
        def __post_init__(self) -> None:
            if self.width != 2048:
                raise UserError("only one width")

    model = Fussy(**{f.name: getattr(LLAMA, f.name) for f in dataclasses.fields(LLAMA)})
    model_12 = dataclasses.replace(model, heads=12, kv_heads=None)  # no multiple is 2048 wide
    with pytest.raises(UserError, match="Write its dimensions yourself"):
        resized(model_12, 1e9)
