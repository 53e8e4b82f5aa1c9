"""What all processes of this user did with a store on this machine: their counters, summed.

::

    <state folder>/castore/counts-1.sqlite

    counts   url (bytes) · name · amount

Every count that a `Recorder` made here is told waits in memory; the first one after a second,
or the end of the process, adds what waits to the sums, in one transaction. So a process that
is killed takes its last second's counts along.

Counting never breaks a computation, and delays it by a hundredth at most: what cannot be added
waits for the next time, the longer the longer the attempt took; at exit it is dropped. It rests
on no durability either (``synchronous=OFF``): a file that is damaged is begun anew. On a network
file system, where SQLite's locks cannot be relied upon, nothing is summed.
Source: https://www.sqlite.org/lockingv3.html#how_to_corrupt, https://www.sqlite.org/useovernet.html

No connection outlives a transaction, so none is inherited by a fork. Nor is it kept open for
WAL mode to pay: with a connection a transaction, WAL costs 0.32 ms, the default 0.19.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import logging
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from castore.backend.mapping import is_safe
from castore.stats import Recorder, Stats

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Machine", "flush", "forget", "machine", "path", "recorder"]

_log = logging.getLogger("castore")

#: Seconds that counts wait for others, and how much longer than a transaction took.
_PAUSE, _REST = 1.0, 100
#: Seconds to wait for other processes: where a computation waits too, and where it does not.
_BRIEFLY, _PATIENTLY = 0.05, 1.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (
  url BLOB, name TEXT, amount INTEGER NOT NULL, PRIMARY KEY (url, name)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO counts VALUES (?, ?, ?)
ON CONFLICT (url, name) DO UPDATE SET amount = amount + excluded.amount
"""
#: Beside the counters of a store: when the first was added, in nanoseconds since the epoch, and
#: how many processes added any.
_SINCE, _PROCESSES = "since", "processes"

#: What tells a file from another one of its name.
_Which: TypeAlias = tuple[int, int] | None
#: By (URL, counter).
_Counts: TypeAlias = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Machine:
    """What the processes of this user on this machine did with a store.

    Attributes
    ----------
    stats : Stats
        Their counters, summed.
    since : float
        When the first count was added, seconds since the epoch; NaN if there is none.
    processes : int
        How many processes counted something.
    trouble : str
        Why the sums cannot be had; empty if they can.
    """

    stats: Stats
    since: float = math.nan
    processes: int = 0
    trouble: str = ""


class _Process:
    """What this process counted and has not added yet."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may use a store too
        self.adding = threading.Lock()  # held while there is a connection
        self.counts: _Counts = Counter()
        self.due = self.rested = 0.0  # on the monotonic clock
        self.known: set[str] = set()  # URLs that this process is counted for
        self.ends_well = False
        self.forking = False

    def add(self, url: str, what: str, amount: int) -> None:
        name = url, what
        with self.lock:
            counts = self.counts
            if not counts:
                self.due = max(time.monotonic() + _PAUSE, self.rested)
                self._see_to_the_end()
            counts[name] = counts.get(name, 0) + amount
        if time.monotonic() >= self.due:
            self.flush(_BRIEFLY, blocking=False)

    def flush(self, wait: float, *, blocking: bool = True) -> None:
        if not self.adding.acquire(blocking=blocking):
            return  # another thread is at it
        try:
            with self.lock:
                taken, self.counts = self.counts, Counter()
            if taken:
                self._hand_over(taken, wait)
        finally:
            self.adding.release()

    def _hand_over(self, taken: _Counts, wait: float) -> None:
        """Add `taken` to the sums, or take it back."""
        urls = {url for url, _ in taken}
        start = time.monotonic()
        try:
            _transact(_place(), functools.partial(_add, taken, urls - self.known), wait)
            self.known |= urls
        except BaseException as error:
            with self.lock:
                self.counts.update(taken)
                self.due = start + _PAUSE
            if not isinstance(error, Exception):  # Ctrl-C is the caller's
                raise
            _log.debug("%d counts wait: %r", len(taken), error)
        finally:
            end = time.monotonic()
            self.rested = end + _REST * (end - start)
            self.due = max(self.due, self.rested)

    def _see_to_the_end(self) -> None:
        """Have what waits added when the process ends; children of multiprocessing differ.

        They end by ``os._exit``, after the finalizers of ``multiprocessing.util``, which they
        begin without.
        """
        if self.ends_well:
            return
        self.ends_well = True
        atexit.register(flush)
        if util := sys.modules.get("multiprocessing.util"):
            util.Finalize(None, flush, exitpriority=0)


_process = _Process()


def _before_fork() -> None:
    """Let a transaction of another thread end: SQLite's own locks would stay taken in a child."""
    _process.forking = _process.adding.acquire(timeout=2 * _PATIENTLY)


def _in_parent() -> None:
    if _process.forking:
        _process.adding.release()


def _in_child() -> None:
    global _process  # noqa: PLW0603  what waits is the parent's
    _process = _Process()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


def recorder(url: str) -> Recorder:
    """Return a recorder for the store at `url`, counted on this machine if others can use it."""
    if url.startswith("memory:"):
        return Recorder()
    return Recorder(functools.partial(_count, url))


def _count(url: str, what: str, amount: int) -> None:
    _process.add(url, what, amount)


def flush() -> None:
    """Add what this process counted to the sums now."""
    _process.flush(_PATIENTLY)


def machine(url: str) -> Machine:
    """Return what this machine did with the store at `url`, this process included."""
    return _asked(functools.partial(_read, url))


def forget(url: str) -> Machine:
    """Begin the sums of the store at `url` anew; return what they were.

    What other processes have not added yet counts in the new ones.
    """
    found = _asked(functools.partial(_take, url))
    _process.known.discard(url)
    return found


def path() -> Path:
    """Return where the sums are."""
    import platformdirs

    return platformdirs.user_state_path("castore", appauthor=False) / "counts-1.sqlite"


def _asked(work: Callable[[sqlite3.Connection], Machine]) -> Machine:
    flush()
    try:
        with _process.adding:
            place = _place()
            return _transact(place, work, _PATIENTLY) if place.exists() else Machine(Stats())
    except Exception as error:
        _log.debug("sums cannot be had: %r", error)
        return Machine(Stats(), trouble=f"{path()}: {error}")


def _add(counts: _Counts, fresh: set[str], connection: sqlite3.Connection) -> None:
    """Add `counts` to the sums, and a process to those of the URLs `fresh`."""
    began = {(os.fsencode(url), _SINCE, time.time_ns()) for url, _ in counts}
    connection.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?, ?)", began)
    added = Counter({(url, _PROCESSES): 1 for url in fresh}) + counts
    rows = [(os.fsencode(url), name, amount) for (url, name), amount in added.items()]
    connection.executemany(_ADD, rows)


def _read(url: str, connection: sqlite3.Connection) -> Machine:
    query = "SELECT name, amount FROM counts WHERE url = ?"
    found = connection.execute(query, [os.fsencode(url)])
    counts = {name: amount for name, amount in found if isinstance(amount, int)}
    since = counts.get(_SINCE)
    return Machine(
        Stats.of(counts),
        math.nan if since is None else since / 1e9,
        counts.get(_PROCESSES, 0),
    )


def _take(url: str, connection: sqlite3.Connection) -> Machine:
    found = _read(url, connection)
    connection.execute("DELETE FROM counts WHERE url = ?", [os.fsencode(url)])
    return found


_T = TypeVar("_T")


def _place() -> Path:
    """Return where the sums are.

    Raises
    ------
    OSError
        If SQLite cannot lock there.
    """
    place = path()
    if not _is_near(place.parent):
        msg = "not on a network file system: set XDG_STATE_HOME to a folder of this machine"
        raise OSError(msg)
    return place


@functools.cache
def _is_near(folder: Path) -> bool:
    return is_safe(folder)


def _transact(place: Path, work: Callable[[sqlite3.Connection], _T], wait: float) -> _T:
    """Return what `work` returns, in a transaction of its own; after damage, in a new file.

    Raises
    ------
    sqlite3.Error, OSError
        If it cannot be had, or not within `wait` seconds of other processes' transactions.
    """
    import sqlite3

    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _attempt(place, work, wait)
    except sqlite3.DatabaseError as error:
        if not _tells_damage(error):
            raise
    return _attempt(place, work, wait)


def _attempt(place: Path, work: Callable[[sqlite3.Connection], _T], wait: float) -> _T:
    import sqlite3

    with _held(place.parent, fcntl.LOCK_SH, wait):
        seen = _which(place)
        try:
            with contextlib.closing(
                sqlite3.connect(place, timeout=wait, isolation_level=None)
            ) as connection:
                decode = functools.partial(str, encoding="utf-8", errors="replace")
                connection.text_factory = decode
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_SCHEMA)
                found = work(connection)
                connection.execute("COMMIT")
                return found
        except sqlite3.DatabaseError as error:
            if not _tells_damage(error):
                raise
            damage = error
    _discard(place, seen, wait)
    raise damage


@contextlib.contextmanager
def _held(folder: Path, how: int, wait: float) -> Iterator[None]:
    """Hold the folder, with others to use the file in it, or alone to remove that.

    SQLite takes the journal of a new file for that of a removed one it has still open, and
    deletes it. Source: https://www.sqlite.org/howtocorrupt.html#_unlink
    """
    end = time.monotonic() + wait
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.001)
        yield
    finally:
        os.close(descriptor)


def _tells_damage(error: sqlite3.DatabaseError) -> bool:
    """Tell whether `error` is the file's: no database, a broken one, or one of other tables."""
    import sqlite3

    codes = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes  # the rest says more exactly


def _discard(place: Path, seen: _Which, wait: float = _PATIENTLY) -> None:
    """Remove the file, unless another process did and began anew: then it is another one."""
    with _held(place.parent, fcntl.LOCK_EX, wait):
        if _which(place) == seen:
            Path(f"{place}-journal").unlink(missing_ok=True)  # it would be played back
            place.unlink(missing_ok=True)


def _which(place: Path) -> _Which:
    """Tell files apart that had this name: an inode alone is given out again at once."""
    try:
        found = place.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns
