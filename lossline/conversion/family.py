"""What a model type is to us: its options, both ways, and its tensors."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lossline.conversion.layout import Tensor
from lossline.errors import UserError
from lossline.models.config import ModelConfig


class Entries(dict[str, Any]):
    """config.json, which refuses what our models cannot compute.

    ``whole``, ``number``, ``flag`` and ``section`` read an entry of that kind. One that is absent
    or null is the default; without a default that is a ``KeyError``.
    """

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        super().__init__(tree)
        self.where = where

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number, at least 1."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{self.where}: {name} = {value!r} must be a whole number, at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, at least 0."""
        value = self._given(name, default)
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not 0 <= value < math.inf:
            raise UserError(f"{self.where}: {name} = {value!r} must be a number, at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: {name} = {value!r} must be true or false")
        return value

    def section(self, name: str) -> Entries:
        """Entries within this one; none where it is absent."""
        value = self.get(name) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {name} = {value!r} must be an object of entries")
        return Entries(value, self.where)

    def require_same(self, name: str, value: Any, of: str) -> None:
        """An entry that is another name of what ``of`` says; absent, it says nothing.

        Raises:
            UserError: the two differ, so that what reads the one is not what reads the other.
        """
        other = self.get(name)
        if other is not None and other != value:
            raise UserError(
                f"{self.where}: {name} = {other!r}, but {of} = {value!r}; releases of "
                "transformers differ in which of the two they read: remove the wrong one"
            )

    def _given(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is not None:
            return value
        if default is None:
            raise KeyError(name)
        return default

    def require(self, name: str, *allowed: Any) -> None:
        """The first of ``allowed`` is also what an absent entry means.

        Raises:
            UserError: the entry is another one.
        """
        value = self.get(name, allowed[0])
        if value not in allowed:
            shown = textwrap.shorten(repr(value), 80)
            raise UserError(
                f"{self.where}: {name} = {shown} is not supported; only "
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
