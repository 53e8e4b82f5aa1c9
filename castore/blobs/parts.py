"""Checks of a large blob's parts, so that several threads can check it at once.

A digest runs through a blob from end to end in one thread. Of a blob larger than 4 MiB the
manifest also keeps the xxh3-64 of every 4 MiB, whatever digest names the blob.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from castore.digest import check64
from castore.threads import take_turns

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MOST", "PART_NBYTES", "Checks", "are_intact", "of", "spelled"]

#: Length of every part but the last, in bytes.
PART_NBYTES = 4 << 20
#: Blobs of more parts than these keep none: their manifest would grow too large.
MOST = 8192


class Checks:
    """xxh3-64 of every `step` bytes of what arrives in pieces."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._checks = array("Q")
        self._state = xxhash.xxh3_64()
        self._missing = step

    def update(self, data: Buffer) -> None:
        """Take in the next bytes."""
        rest = memoryview(data).cast("B")
        while rest:
            piece = rest[: self._missing]
            self._state.update(piece)
            self._missing -= len(piece)
            rest = rest[len(piece) :]
            if not self._missing:
                self._close()

    def so_far(self) -> NDArray[np.uint64]:
        """Return what `finish` would; more may come."""
        begun = [self._state.intdigest()] if self._missing < self._step else []
        return np.concatenate([np.array(self._checks, "<u8"), np.array(begun, "<u8")])

    def finish(self) -> NDArray[np.uint64]:
        """Return the checks, that of the last and possibly short step included."""
        if self._missing < self._step:
            self._close()
        return np.array(self._checks, "<u8")

    def _close(self) -> None:
        self._checks.append(self._state.intdigest())
        self._state.reset()
        self._missing = self._step


def of(pieces: Iterable[Buffer]) -> str:
    """Return the checks of the parts of `pieces`, one after another, as a manifest has them."""
    checks = Checks(PART_NBYTES)
    for piece in pieces:
        checks.update(piece)
    return spelled(checks.finish())


def spelled(checks: NDArray[np.uint64]) -> str:
    """Return checks as a manifest has them: 16 hex digits each; nothing for one or too many."""
    if not 1 < len(checks) <= MOST:
        return ""
    return "".join(f"{check:016x}" for check in checks.tolist())


def are_intact(data: NDArray[np.uint8], parts: str, wanted: Sequence[int] | None = None) -> bool:
    """Tell whether parts of `data` have their checks; in threads where that is quicker.

    Parameters
    ----------
    data : ndarray
        uint8, the whole blob.
    parts : str
        The checks of all its parts.
    wanted : sequence of int, optional
        Which parts to check; by default all.
    """
    count = -(-len(data) // PART_NBYTES)
    if len(parts) != 16 * count:
        return False
    turns: Sequence[int] = range(count) if wanted is None else wanted
    found = [False] * len(turns)
    view = memoryview(data)

    def check(turn: int) -> None:
        part = turns[turn]
        value = check64(view[part * PART_NBYTES : (part + 1) * PART_NBYTES])
        found[turn] = f"{value:016x}" == parts[16 * part : 16 * part + 16]

    take_turns(check, len(turns))
    return all(found)
