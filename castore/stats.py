"""Counters of what a store did in this process."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Recorder", "Stats"]


@dataclass(frozen=True)
class Stats:
    """A snapshot of one store's counters in this process.

    Attributes
    ----------
    hits : int
        Requests answered from the store.
    misses : dict[str, int]
        Requests not answered from it, by reason: ``absent``, ``damaged``, ``forced``.
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
    misses: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    disagreements: int = 0
    uncached: dict[str, int] = field(default_factory=dict)
    bytes_served: int = 0
    bytes_stored: int = 0


# One for all recorders, so that a forked child can be given a free one.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603  another thread of the parent may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Recorder:
    """Collects counts from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._said: set[str] = set()

    def first(self, message: str) -> bool:
        """Tell whether `message` comes up for the first time."""
        with _lock:
            new = message not in self._said
            self._said.add(message)
            return new

    def add(self, what: str, amount: int = 1) -> None:
        """Add `amount` to the counter `what`; ``misses.absent`` is a reason within ``misses``."""
        with _lock:
            self._counts[what] += amount

    def snapshot(self) -> Stats:
        """Return the counts so far."""
        with _lock:
            counts = dict(self._counts)
        grouped: dict[str, dict[str, int]] = {"misses": {}, "uncached": {}}
        for name, count in counts.items():
            group, _, reason = name.partition(".")
            if reason:
                grouped[group][reason] = count
        return Stats(
            hits=counts.get("hits", 0),
            commits=counts.get("commits", 0),
            disagreements=counts.get("disagreements", 0),
            bytes_served=counts.get("bytes_served", 0),
            bytes_stored=counts.get("bytes_stored", 0),
            **grouped,
        )
