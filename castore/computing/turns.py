"""Whose turn it is to compute: one for all who ask for the same."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from castore.backend.base import Backend
from castore.computing.answers import Hit, Options
from castore.identity.request import Request
from castore.once.holding import nested
from castore.once.lease import Lease, acquire
from castore.once.observer import Waiting
from castore.progress import Progress, shown
from castore.stats import Recorder

__all__ = ["Turn", "Turns", "Watch"]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Turn:
    """How waiting for one's turn ended.

    Attributes
    ----------
    hit : Hit or None
        What somebody else computed meanwhile.
    lease : Lease or None
        The right to compute; None where nobody was asked.
    deadline : float
        Until when others may still be waited for, by the monotonic clock.
    """

    hit: Hit | None = None
    lease: Lease | None = None
    deadline: float = 0.0

    def left(self) -> float:
        """Return for how many seconds others may still be waited for."""
        return max(0.0, self.deadline - time.monotonic())

    def may_replace(self) -> bool:
        """Tell whether what is there may give way: not if the lease was lost meanwhile."""
        return self.lease is None or self.lease.is_held()


@dataclass(frozen=True)
class Turns:
    """Gives turns, for one store in one process.

    Attributes
    ----------
    backend : Backend
        Where the leases are.
    recorder : Recorder
        What counts.
    inherited : bool
        Whether the store came from a process that was computing: work for it waits for nobody.
    """

    backend: Backend
    recorder: Recorder
    inherited: bool = False

    @contextlib.contextmanager
    def take(
        self, request: Request, look: Callable[[], Hit | None], options: Options, *, writing: bool
    ) -> Iterator[Turn]:
        """Wait until nobody else computes the same; hold the right to while the block runs.

        Parameters
        ----------
        request : Request
            What is to be computed.
        look : callable
            Looks for it.
        options : Options
            How long to wait, and what shows it.
        writing : bool
            Whether what is computed can be stored; if not, nobody waits for it.
        """
        deadline = time.monotonic() + options.patience
        if not writing:
            yield Turn()
            return
        with nested() if self.inherited else contextlib.nullcontext():
            with Watch(self.recorder, options.progress) as watch:
                found = acquire(
                    self.backend, request.key, request.function.name, look,
                    wait=options.patience, on_wait=watch.tell,
                )  # fmt: skip
            if isinstance(found, Lease):
                with found:
                    yield Turn(lease=found, deadline=deadline)
            else:
                yield Turn(hit=found, deadline=deadline)


class Watch(contextlib.ExitStack):
    """Shows whom one waits for while the block runs, and counts."""

    def __init__(self, recorder: Recorder, progress: Progress) -> None:
        super().__init__()
        self._recorder = recorder
        self._progress = progress
        self._start = 0

    def tell(self, waiting: Waiting) -> None:
        """Show whom one waits for, the first time."""
        if self._start:
            return
        self._start = time.perf_counter_ns()
        self._recorder.add("waits")
        label = f"waiting for {_whom(waiting)}"
        _log.info("%s", label)
        shows = None if callable(self._progress) else self._progress
        self.enter_context(shown(shows, label, None))
        self.callback(self._count)

    def _count(self) -> None:
        self._recorder.add("wait_ns", time.perf_counter_ns() - self._start)


def _whom(waiting: Waiting) -> str:
    owner, what = waiting.owner, waiting.label or "somebody"
    if owner is None:
        return what
    return f"{what} in process {owner.pid} on {owner.host}, at it for {waiting.held:.0f} s"
