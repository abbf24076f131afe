"""What a model type is to us: its options, both ways, and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lossline.errors import UserError
from lossline.models.config import ModelConfig
from lossline.models.hf.layout import Tensor


class Entries(dict[str, Any]):
    """config.json, which refuses what our models cannot compute."""

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        super().__init__(tree)
        self.where = where

    def require(self, name: str, *allowed: Any) -> None:
        """The first of ``allowed`` is also what an absent entry means.

        Raises:
            UserError: the entry is another one.
        """
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise UserError(
                f"{self.where}: {name} = {value!r} is not supported; only "
                f"{' or '.join(repr(choice) for choice in allowed)} is"
            )


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type.

    Attributes:
        model_type: as in config.json.
        architecture: the class that transformers loads it with.
        config: class of our configuration.
        from_hf: config.json -> options of ours.
        to_hf: ours -> entries of config.json beside the common ones.
        tensors: all tensors of a configuration.
        writes: what a configuration of ours must be to be written as this type, besides its class.
        prefix: of all tensors but the head; folders that leave it out are read too.
        ignored: names of buffers that follow from the configuration and carry nothing.
    """

    model_type: str
    architecture: str
    config: type[ModelConfig]
    from_hf: Callable[[Entries], dict[str, Any]]
    to_hf: Callable[[Any], dict[str, Any]]
    tensors: Callable[[Any], list[Tensor]]
    writes: Callable[[Any], bool] = lambda config: True
    prefix: str = ""
    ignored: str = r"$^"
