"""Counters of what a store did in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["COUNTERS", "GROUPS", "Recorder", "Stats"]


@dataclass(frozen=True)
class Stats:
    """A snapshot of counters: of one store in one process, or their sum over a machine.

    Attributes
    ----------
    hits : int
        Requests answered whole from the store.
    partial_hits : int
        Requests of which some rows were there and the others were computed.
    misses : dict[str, int]
        Requests not answered from it, by reason: ``absent``, ``code`` (the function has changed),
        ``damaged``, ``forced``, ``together`` (what is there was put together from rows, which
        may not be reused here).
    waits : int
        Times that somebody else's computation was waited for.
    wait_seconds : float
        How long that took.
    computations : int
        Runs of a function that made something to keep.
    rows_computed : int
        Rows that these runs made.
    rows_reused : int
        Rows taken from the entries of other requests.
    rows_mended : int
        Rows computed again because what was stored of them was missing or damaged.
    rows_probed, rows_audited : int
        Rows computed again to see whether rows may be reused, and whether they still may.
    audits_failed : int
        Audits that found another value than the stored one.
    compute_seconds : float
        How long functions ran.
    seconds_saved : float
        How long they had run for what was answered from the store.
    commits : int
        Results published.
    disagreements : int
        Results another writer had published first, with other bytes; the winner was kept.
    uncached : dict[str, int]
        Results returned without being stored, by reason: an error's ``code``, ``read-only``,
        ``off``, or ``input-changed``.
    bytes_served, bytes_stored : int
        Bytes of arrays returned by hits, and of blobs written.
    """

    hits: int = 0
    partial_hits: int = 0
    misses: dict[str, int] = field(default_factory=dict)
    waits: int = 0
    wait_seconds: float = 0.0
    computations: int = 0
    rows_computed: int = 0
    rows_reused: int = 0
    rows_mended: int = 0
    rows_probed: int = 0
    rows_audited: int = 0
    audits_failed: int = 0
    compute_seconds: float = 0.0
    seconds_saved: float = 0.0
    commits: int = 0
    disagreements: int = 0
    uncached: dict[str, int] = field(default_factory=dict)
    bytes_served: int = 0
    bytes_stored: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Stats:
        """Return what `counts` says, by the names that `Recorder.add` takes; it skips others."""
        values: dict[str, Any] = {group: {} for group in GROUPS}
        for name, count in sorted(counts.items()):
            group, _, reason = name.partition(".")
            if group in GROUPS and reason:
                values[group][reason] = count
            elif name in _NANOSECONDS:
                values[_NANOSECONDS[name]] = count / 1e9
            elif name in COUNTERS:
                values[name] = count
        return cls(**values)

    @property
    def requests(self) -> int:
        """Requests that were looked up: hits, partial hits and misses."""
        return self.hits + self.partial_hits + sum(self.misses.values())

    @property
    def hit_rate(self) -> float | None:
        """Share of requests that were answered whole from the store; None before the first."""
        return self.hits / self.requests if self.requests else None


#: What is counted by reason: ``misses.absent``.
GROUPS = frozenset(("misses", "uncached"))
#: Counted in whole nanoseconds, so that sums are exact; told in seconds.
_NANOSECONDS = {
    "compute_ns": "compute_seconds",
    "saved_ns": "seconds_saved",
    "wait_ns": "wait_seconds",
}
#: Every other counter.
COUNTERS = frozenset(
    {own.name for own in fields(Stats)} - GROUPS - {*_NANOSECONDS.values()} | {*_NANOSECONDS}
)

# One for all recorders, so that a forked child can be given a free one; reentrant, because a
# signal handler may use a store too.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603  another thread of the parent may have held it
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class Recorder:
    """Collects counts from any thread.

    Parameters
    ----------
    tell : callable, optional
        Told of each count too, by name and amount; must not raise.
    """

    def __init__(self, tell: Callable[[str, int], object] | None = None) -> None:
        self._counts: dict[str, int] = {}
        self._said: set[str] = set()
        self._tell = tell

    def first(self, message: str) -> bool:
        """Tell whether `message` comes up for the first time."""
        with _lock:
            new = message not in self._said
            self._said.add(message)
            return new

    def add(self, what: str, amount: int = 1) -> None:
        """Add `amount` to the counter `what`.

        Parameters
        ----------
        what : str
            One of `COUNTERS`, the fields of `Stats` with times as ``compute_ns``, ``saved_ns``
            and ``wait_ns``; or a reason within one of `GROUPS`: ``misses.absent``.
        amount : int
            How many; of times, nanoseconds.
        """
        with _lock:
            self._counts[what] = self._counts.get(what, 0) + amount
        if self._tell is not None:
            self._tell(what, amount)

    def snapshot(self) -> Stats:
        """Return the counts so far."""
        with _lock:
            counts = dict(self._counts)
        return Stats.of(counts)
