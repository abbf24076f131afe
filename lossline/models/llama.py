"""Llama (Touvron et al., 2302.13971): RMSNorm, rotary positions, SwiGLU, no biases.

Options add the grouped-query heads and the frequency scaling of its later versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossline.models.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(TransformerConfig):
    """Options of a Llama model: those of ``TransformerConfig`` with its defaults."""

    family: ClassVar[str] = "llama"
