"""Llama (Touvron et al., 2302.13971): RMSNorm, rotary positions, SwiGLU, no biases; grouped-query
heads and frequency stretching as in its later versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossline.models.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(TransformerConfig):
    """Options of a Llama model: ``TransformerConfig``'s, with its defaults."""

    family: ClassVar[str] = "llama"
