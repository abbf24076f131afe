"""Definition of a model type: its options in both directions, and its tensors."""

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
    """Entries of a config.json, with checks that refuse what lossline's models cannot compute.

    ``whole``, ``number``, ``flag`` and ``section`` read one entry of that kind. An entry that is
    absent or null gives the default; without a default they raise ``KeyError``.
    """

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        super().__init__(tree)
        self.where = where

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number, at least 1."""
        value = self._given(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{self.where}: {name} = {value!r} must be a whole number, at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number, at least 0."""
        value = self._given(name, default)
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not 0 <= value < math.inf:
            raise UserError(f"{self.where}: {name} = {value!r} must be a number, at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._given(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: {name} = {value!r} must be true or false")
        return value

    def section(self, name: str) -> Entries:
        """Return the entries inside this entry; no entries if it is absent."""
        value = self.get(name) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {name} = {value!r} must be an object of entries")
        return Entries(value, self.where)

    def require_same(self, name: str, value: Any, of: str) -> None:
        """Check an entry that is another name of the entry ``of``. An absent entry passes.

        Raises:
            UserError: the two differ, so that two versions of transformers read different models.
        """
        other = self.get(name)
        if other is not None and other != value:
            raise UserError(
                f"{self.where}: {name} = {other!r}, but {of} = {value!r}; versions of "
                "transformers differ in which of the two they read. Remove the wrong one"
            )

    def _given(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is not None:
            return value
        if default is None:
            raise KeyError(name)
        return default

    def require(self, name: str, *allowed: Any) -> None:
        """Check that an entry has an allowed value. An absent entry means the first of ``allowed``.

        Raises:
            UserError: the entry has another value.
        """
        value = self.get(name, allowed[0])
        if value not in allowed:
            shown = textwrap.shorten(repr(value), 80)
            raise UserError(
                f"{self.where}: {name} = {shown} is not supported; the only supported value is "
                f"{' or '.join(repr(choice) for choice in allowed)}"
            )


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type.

    Attributes:
        model_type: name in config.json.
        architecture: class that transformers uses to load it.
        config: class of lossline's configuration.
        from_hf: function from config.json to lossline's options.
        to_hf: function from lossline's configuration to entries of config.json, without the entries
            common to all types.
        tensors: function from a configuration to all its tensors.
        writes: whether a configuration of this class can be written as this type.
        prefix: prefix of all tensor names except the output head; folders without it are read too.
        other_prefixes: prefixes that other versions of transformers write instead.
        is_only_read: whether no model is written as this type.
        ignored: pattern of the names of buffers, which follow from the configuration.
    """

    model_type: str
    architecture: str
    config: type[ModelConfig]
    from_hf: Callable[[Entries], dict[str, Any]]
    to_hf: Callable[[Any], dict[str, Any]]
    tensors: Callable[[Any], list[Tensor]]
    writes: Callable[[Any], bool] = lambda config: True
    prefix: str = ""
    other_prefixes: tuple[str, ...] = ()
    is_only_read: bool = False
    ignored: str = r"$^"
