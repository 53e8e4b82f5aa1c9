"""What a caller may ask of a store, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from castore import arrays
from castore.errors import ConfigError
from castore.progress import Progress
from castore.table.entry import Entry
from castore.table.result import LEAVES

__all__ = ["Hit", "Miss", "Options"]


@dataclass(frozen=True)
class Hit:
    """A request answered from the store.

    Attributes
    ----------
    entry : Entry
        Where from.
    value : Any
        What the function returned.
    """

    entry: Entry
    value: Any


@dataclass(frozen=True)
class Miss:
    """A request not answered from the store.

    Attributes
    ----------
    reason : str
        ``absent``, ``damaged`` or ``forced``. Whatever is there gives way, save under ``absent``.
    """

    reason: str


@dataclass(frozen=True)
class Options:
    """How a caller wants a result: as `castore.store.Store.get_or_compute` has it."""

    returns: str = "numpy"
    rowwise: bool | Literal["auto"] = "auto"
    progress: Progress = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse a kind of array castore does not make."""
        if self.returns not in LEAVES:
            msg = f"returns={self.returns!r}: choose {' or '.join(LEAVES)}"
            raise ConfigError(msg)
        if self.returns == "torch" and arrays.torch() is None:
            msg = "returns='torch' and torch is not imported: import torch first"
            raise ConfigError(msg)
