"""Whose turn it is to compute: one for all who ask for the same."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from castore.backend.base import Backend
from castore.computing.answers import Hit, Options
from castore.identity.request import Request
from castore.once.holding import nested
from castore.once.lease import Lease, acquire, owners
from castore.once.observer import Waiting
from castore.once.owner import Owner
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
        if not writing:
            yield Turn()
            return
        table, patience = request.function.table, options.patience
        if _may_serve_another(table) or _parent_computes(self.backend):
            patience = min(patience, _NESTED_WAIT)
        deadline = time.monotonic() + patience
        with nested() if self.inherited else contextlib.nullcontext():
            with Watch(self.recorder, options.progress) as watch:
                found = acquire(
                    self.backend, request.key, request.function.name, look,
                    wait=patience, on_wait=watch.tell,
                )  # fmt: skip
            if isinstance(found, Lease):
                with found, _computing(table):
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


#: Seconds that work waits which may be part of a computation that others wait for.
_NESTED_WAIT = 5.0

#: The tables that are computed here, and the threads there were when that began.
_under_way: dict[object, tuple[str, weakref.WeakSet[threading.Thread]]] = {}
os.register_at_fork(after_in_child=_under_way.clear)


@contextlib.contextmanager
def _computing(table: str) -> Iterator[None]:
    """Remember, while the block runs, that a table is computed."""
    token = object()
    _under_way[token] = table, weakref.WeakSet(threading.enumerate())
    try:
        yield
    finally:
        _under_way.pop(token, None)


def _may_serve_another(table: str) -> bool:
    """Tell whether this thread may have been started by a function that computes another table.

    It would be in no context that knows of that, and others may wait for that function. Threads
    that ask for one table in turn, as those of a pool do, are taken to be independent.
    """
    thread = threading.current_thread()
    found = list(_under_way.values())
    return any(other != table and thread not in before for other, before in found)


def _parent_computes(backend: Backend) -> bool:
    """Tell whether this is a worker process of one that holds a lease of the store."""
    module = sys.modules.get("multiprocessing.process")
    if module is None or module.parent_process() is None:
        return False
    here = Owner.here()
    return any(
        (one.boot, one.namespace, one.pid) == (here.boot, here.namespace, os.getppid())
        for one in owners(backend)
    )
