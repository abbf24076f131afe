"""GPT-2 (Radford et al., 2019) and related models: LayerNorm, learned positions, GELU.

Options for known models:

- GPT-2: ``biases = True``, ``mlp = "gelu_tanh"``, tied embeddings.
- GPT-NeoX and Pythia: ``positions = "rotary"``, ``rope_fraction = 0.25``, ``parallel = True``,
  ``biases = True``.
- The ladder of the loss-to-loss study in OLMo's code: ``positions = "rotary"``, ``qk_norm =
  "width"``, ``norm_bias = False``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossline.models.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class GPTConfig(TransformerConfig):
    """Options of a GPT model: those of ``TransformerConfig`` with other defaults."""

    norm: str = "layer"
    norm_bias: bool = True
    mlp: str = "gelu"
    positions: str = "learned"
    init_std: float | None = 0.02

    family: ClassVar[str] = "gpt"
