"""What a caller may ask of a store, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from castore import arrays
from castore.blobs.codec import CODECS, NONE
from castore.errors import ConfigError
from castore.once.heartbeat import MAX_WAIT
from castore.progress import Progress
from castore.table.result import LEAVES, Codecs

__all__ = ["LOOSE", "Codecs", "Hit", "Miss", "Options"]

#: What of a loader does not matter to a row, unless the caller says so.
LOOSE = ("batch_size",)


@dataclass(frozen=True)
class Hit:
    """A request answered from the store.

    Attributes
    ----------
    value : Any
        What the function returned.
    nbytes : int
        Bytes of its arrays.
    saved_ns : int
        How long it had been computed, in nanoseconds.
    reused : int
        How many of its rows come from results of other requests.
    """

    value: Any
    nbytes: int
    saved_ns: int
    reused: int = 0


@dataclass(frozen=True)
class Miss:
    """A request not answered from the store.

    Attributes
    ----------
    reason : str
        ``absent``, ``code``, ``damaged``, ``forced`` or ``together`` (what is there was put
        together from rows, and rows may not be reused). Whatever is there gives way, save under
        ``absent``.
    why : str
        Why its rows were not put together from others, where that was thought of.
    """

    reason: str
    why: str = ""

    @property
    def replaces(self) -> bool:
        """Whether what is there gives way."""
        return self.reason != "absent"


@dataclass(frozen=True)
class Options:
    """How a caller wants a result: as `castore.store.Store.get_or_compute` has it."""

    returns: str = "numpy"
    rowwise: bool | Literal["auto"] = "auto"
    progress: Progress = None
    force: bool = False
    audit: float = 0.0
    materialize: bool = False
    wait: bool | float = True
    compare: Sequence[str] = ()
    codec: Codecs = NONE

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        asked: object = self.rowwise
        if not isinstance(asked, bool) and asked != "auto":
            msg = f"rowwise={asked!r}: choose True, False or 'auto'"
            raise ConfigError(msg)
        if not _is_number(self.audit) or not 0 <= self.audit <= 1:
            msg = f"audit={self.audit!r}: give the share of reused rows to compute again, 0 to 1"
            raise ConfigError(msg)
        if not isinstance(self.wait, bool) and not (_is_number(self.wait) and self.wait >= 0):
            msg = f"wait={self.wait!r}: give True, False or a number of seconds"
            raise ConfigError(msg)
        known: object = self.compare
        if not isinstance(known, (list, tuple)) or not set(known) <= set(LOOSE):
            msg = f"compare={known!r}: give () or {LOOSE!r}"
            raise ConfigError(msg)
        if not _is_codec(self.codec):
            msg = f"codec={self.codec!r}: choose {_LISTED}, or a mapping from columns to those"
            raise ConfigError(msg)
        if self.returns not in LEAVES:
            msg = f"returns={self.returns!r}: choose {' or '.join(LEAVES)}"
            raise ConfigError(msg)
        if self.returns == "torch" and arrays.torch() is None:
            msg = "returns='torch' and torch is not imported: import torch first"
            raise ConfigError(msg)

    @property
    def patience(self) -> float:
        """For how many seconds others may be waited for."""
        if isinstance(self.wait, bool):
            return MAX_WAIT if self.wait else 0.0
        return float(self.wait)

    @property
    def loose(self) -> frozenset[str]:
        """Parts of the variant in which an entry may differ and still lend rows."""
        return frozenset(LOOSE) - set(self.compare)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_codec(value: object) -> bool:
    if not isinstance(value, Mapping):
        return isinstance(value, str) and value in CODECS
    return all(isinstance(name, str) for name in value) and all(
        isinstance(codec, str) and codec in CODECS for codec in value.values()
    )


_LISTED = ", ".join(map(repr, CODECS[:-1])) + f" or {CODECS[-1]!r}"
