"""Claims: which rows the processes of this machine are computing just now.

Requests whose missing rows overlap share them: each lists its own in a numbered file, one
above the highest. It reads the lower live ones, *then* the entries; computes what neither has;
commits; deletes its own; only then waits for the lower ones. As everybody waits only for
lower numbers, nobody waits in a circle.

Claims are advice. Where the folder cannot be used, a claim knows of no others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from castore.backend.local import LocalBackend
from castore.errors import CastoreError, StoreError
from castore.once import heartbeat
from castore.once.heartbeat import MAX_WAIT
from castore.once.holding import Holding, holding
from castore.once.numbered import Content, Folder, RowIds
from castore.once.observer import Sight, Waiting, pauses, rest
from castore.once.owner import Owner

__all__ = ["Claim", "Claims", "Lower"]

_log = logging.getLogger("castore")


@dataclass(frozen=True, slots=True)
class Lower:
    """A live claim with a lower number.

    Attributes
    ----------
    number : int
        Which.
    owner : Owner or None
        Who computes.
    label : str
        What, for people.
    row_ids : ndarray
        uint8 (n, 16), read-only: what it listed, also where it leaves some to others.
    """

    number: int
    owner: Owner | None
    label: str
    row_ids: RowIds


class Claims:
    """The claims of one scope, as one caller sees them; for one thread.

    It remembers what it saw of the others' claims, so that one which nobody keeps is dead after
    a while, however often the caller claims anew.

    Parameters
    ----------
    scope : str
        32 hexadecimal digits: the digest of all that must agree for one's rows to serve another.
    folder : Path, optional
        Where the claims of all scopes and boots lie; by default in the user's state folder.
    """

    def __init__(self, scope: str, folder: Path | None = None) -> None:
        self._place = folder
        self._prefix = f"{Owner.here().boot or '-'}/{scope}/"
        self._folder: Folder | None = None

    def claim(self, row_ids: RowIds, label: str) -> Claim:
        """Say that this process is about to compute rows.

        A claim taken where this context holds one already knows of no others, so that it waits
        for none.

        Parameters
        ----------
        row_ids : ndarray
            uint8 (n, 16).
        label : str
            What is being computed, for people.

        Returns
        -------
        Claim
            Numbered; without a number where the folder cannot be used.
        """
        try:
            folder = self._folder or Folder(
                LocalBackend(self._place or _state_folder()), self._prefix
            )
            self._folder = folder
            number, content = folder.add(row_ids, label)
        except (CastoreError, OSError) as error:
            _log.debug("rows are computed without a claim: %s", error)
            return Claim(None, None, lambda: True)
        return Claim(folder, number, folder.keep(number, content))


class Claim:
    """Rows this process is about to compute; a context manager that marks them done.

    Made by `Claims.claim`. `lower` and the waits are for one thread at a time.

    Attributes
    ----------
    number : int or None
        Its place in the order; None where nobody else can see it.
    """

    def __init__(self, folder: Folder | None, number: int | None, end: Callable[[], bool]) -> None:
        self.number = number
        self._folder = None if holding(claim=True) else folder
        self._end = end
        self._holding = Holding("claim")

    def lower(self) -> list[Lower]:
        """Return the live claims with lower numbers, by number.

        Look at the entries after this, not before: a claim that is done is no longer live, and
        its rows are committed by then.
        """
        return [
            Lower(number, sight.owner, sight.content.sign.label, sight.content.row_ids)
            for number, sight in self._live()
            if sight.content is not None
        ]

    def wait_for_any(
        self,
        row_ids: RowIds,
        *,
        wait: float = MAX_WAIT,
        stop: Callable[[], bool] = lambda: False,
        on_wait: Callable[[Waiting], object] = lambda _: None,
    ) -> bool:
        """Wait until at least one of some rows is in no live lower claim.

        Call it when this one is done and look at the entries again afterwards: the row was
        committed by its owner, or is free to be claimed.

        Parameters
        ----------
        row_ids : ndarray
            uint8 (n, 16). Where there are none, nothing is waited for.
        wait : float
            Seconds to wait at most.
        stop : callable
            Asked again and again; True ends the waiting.
        on_wait : callable
            Told again and again whom the call waits for. An error of its own ends the call.

        Returns
        -------
        bool
            False if it was given up: the time is over, or `stop` said so.
        """
        return self._wait(row_ids, np.all, wait, stop, on_wait)

    def wait_for_all(
        self,
        row_ids: RowIds,
        *,
        wait: float = MAX_WAIT,
        stop: Callable[[], bool] = lambda: False,
        on_wait: Callable[[Waiting], object] = lambda _: None,
    ) -> bool:
        """Wait until none of some rows is in a live lower claim; else as `wait_for_any`."""
        return self._wait(row_ids, np.any, wait, stop, on_wait)

    def done(self) -> None:
        """Say that the rows are committed, or not going to be.

        Once, in the process that made the claim; elsewhere nothing happens.
        """
        if self._end():
            self._holding.over()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def _live(self) -> list[tuple[int, Sight[Content]]]:
        if self._folder is None or self.number is None:
            return []
        try:
            return self._folder.live(self.number)
        except StoreError as error:
            _log.debug("the claims cannot be read: %s", error)
            return []

    def _wait(
        self,
        row_ids: RowIds,
        is_held: Callable[[NDArray[np.bool_]], np.bool_],
        wait: float,
        stop: Callable[[], bool],
        on_wait: Callable[[Waiting], object],
    ) -> bool:
        if not len(row_ids) or self._folder is None:
            return True
        begun = heartbeat.clock.monotonic()
        masks: dict[int, NDArray[np.bool_]] = {}
        for pause in pauses(near=True):
            live = dict(self._live())
            masks = {n: masks[n] if n in masks else _among(row_ids, s) for n, s in live.items()}
            holders = [number for number, mask in masks.items() if mask.any()]
            if not holders or not is_held(np.logical_or.reduce([masks[n] for n in holders])):
                return True
            waited = heartbeat.clock.monotonic() - begun
            if waited >= wait or stop():
                return False
            first = live[holders[0]]
            on_wait(first.waiting(waited))
            rest(min(pause, wait - waited), first.owner)
        raise AssertionError  # the pauses never end


def _among(row_ids: RowIds, sight: Sight[Content]) -> NDArray[np.bool_]:
    """Tell which of some rows a claim lists, by the first half of their ids.

    Two rows that share it only make somebody wait.
    """
    if sight.content is None:
        return np.zeros(len(row_ids), np.bool_)
    return np.isin(_halves(row_ids), _halves(sight.content.row_ids))


def _halves(row_ids: RowIds) -> NDArray[np.uint64]:
    halves: NDArray[np.uint64] = np.ascontiguousarray(row_ids).view("<u8")[:, 0]
    return halves


def _state_folder() -> Path:
    import platformdirs

    return platformdirs.user_state_path("castore", appauthor=False) / "claims"
