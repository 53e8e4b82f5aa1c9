"""Looking at files and reading them, without hanging and without believing what is in flux.

What a file contained may be remembered under its stamp only if a later change must change the
stamp. A file system's clock ticks coarsely, so a change within one tick of the last one may
leave the stamp as it was: a file that changed just now is read again next time. Git calls such
entries racily clean. Source: https://git-scm.com/docs/racy-git
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from castore.digest import hasher
from castore.errors import FingerprintError
from castore.threads import together

__all__ = [
    "Clock",
    "Reading",
    "Stamps",
    "absolute",
    "printable",
    "read_file",
    "read_files",
    "stamps_of",
]

Stamps = NDArray[np.int64]
"""Size, mtime_ns, ctime_ns and inode, int64 (n, 4); what is too large for 64 bits wraps."""

#: Nanoseconds since the epoch, by the observer.
Clock = Callable[[], int]

#: Longer than a tick of any file system's clock; FAT has the coarsest.
_QUIET = 2_000_000_000  # ns

_FIELDS = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode")
#: A FIFO put in a file's place between look and read must not block.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_BLOCK = 1 << 18
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

#: Files that are read before it is decided again how many threads read.
_STRETCH, _PROBE = 1024, 16
_THREADS = 8
#: Mean size from which reading and digesting outweigh Python's own work, which no thread shares.
_LARGE = 1 << 18


class Reading(NamedTuple):
    """What a file contained.

    Attributes
    ----------
    digest : bytes
        xxh3-128 of its bytes.
    size, mtime_ns, ctime_ns, inode : int
        Its stamp after it was read.
    at_ns : int
        When it was opened, by the observer's clock.
    intact : bool
        Whether it had the same stamp when it was opened, and as many bytes as that says.
    """

    digest: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    at_ns: int
    intact: bool

    @property
    def stamp(self) -> tuple[int, int, int, int]:
        """Size, mtime_ns, ctime_ns and inode."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode

    @property
    def quiet(self) -> bool:
        """Whether any later change must change the modification time."""
        return self.intact and self.at_ns - self.mtime_ns >= _QUIET

    @property
    def settled(self) -> bool:
        """Whether any later change must change both times."""
        return self.quiet and self.at_ns - self.ctime_ns >= _QUIET


def printable(path: str) -> str:
    """Return `path` as a message may hold it: it need be neither Unicode nor one line."""
    return path if path.isprintable() else ascii(path)


def absolute(path: str) -> str:
    """Return `path` from the root of the file system, without looking at links."""
    try:
        return os.path.abspath(path)  # noqa: PTH100  Path.resolve follows links
    except OSError:  # the working folder is gone
        return path


def stamps_of(paths: Sequence[str]) -> Stamps:
    """Stat every file.

    Raises
    ------
    FingerprintError
        If one cannot be, or is no regular file.
    """
    try:
        found = _look(paths, _FIELDS)
    except OverflowError:
        found = _look(paths, _wrapped)
    odd = np.flatnonzero(found[:, 4] & 0o170000 != stat.S_IFREG)
    if odd.size:
        raise _no_file(paths[odd[0]], int(found[odd[0], 4]))
    return found[:, :4]


def _look(
    paths: Sequence[str], fields: Callable[[os.stat_result], Iterable[int]]
) -> NDArray[np.int64]:
    try:
        numbers = chain.from_iterable(map(fields, map(os.stat, paths)))
        return np.fromiter(numbers, np.int64, 5 * len(paths)).reshape(-1, 5)
    except OSError as error:
        raise _unreadable(os.fsdecode(error.filename), error) from error
    except ValueError as error:
        raise _unreadable(next(filter(_is_no_name, paths)), error) from error


def _wrapped(found: os.stat_result) -> list[int]:
    return [(number + 2**63) % 2**64 - 2**63 for number in _FIELDS(found)]


def _is_no_name(path: str) -> bool:
    try:
        Path(path).stat()
    except OSError:
        return False
    except ValueError:
        return True
    return False


def read_file(path: str, clock: Clock = time.time_ns) -> Reading:
    """Read a regular file from beginning to end.

    Raises
    ------
    FingerprintError
        If it cannot be read, or is no regular file.
    """
    try:
        at = clock()
        descriptor = os.open(path, _FLAGS)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise _no_file(path, before.st_mode)
            state, count = hasher(), 0
            length = min(before.st_size + 1, _BLOCK)
            while block := os.read(descriptor, length):
                state.update(block)
                count += len(block)
            after = _wrapped(os.fstat(descriptor))[:4]
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    size, mtime, ctime, inode = after
    intact = after == _wrapped(before)[:4] and size == count
    return Reading(state.digest(), size, mtime, ctime, inode, at, intact)


def read_files(
    paths: Sequence[str],
    sizes: NDArray[np.int64],
    into: dict[str, Reading],
    on_file: Callable[[int], object] | None = None,
    clock: Clock = time.time_ns,
) -> None:
    """Read `paths` in their order, with as many threads as help.

    Parameters
    ----------
    paths : sequence of str
        Each once.
    sizes : ndarray
        int64 (n,), what each is expected to have.
    into : dict
        Takes the readings by path; after an exception, those that came about.
    on_file : callable, optional
        Called after each file with the length of `into`, by one thread at a time.

    Raises
    ------
    FingerprintError
        If a file cannot be read; the others are then left alone.
    """
    lock = threading.Lock()

    def read(some: Iterable[str]) -> None:
        for path in some:
            into[path] = read_file(path, clock)
            if on_file is not None:
                with lock:
                    on_file(len(into))

    for start in range(0, len(paths), _STRETCH):
        rest = iter(paths[start : start + _STRETCH])
        if sizes[start : start + _STRETCH].mean() >= _LARGE or _waits(read, islice(rest, _PROBE)):
            _side_by_side(read, rest)
        else:
            read(rest)


def _waits(read: Callable[[Iterable[str]], None], some: Iterable[str]) -> bool:
    """Read; tell whether that was more waiting for a disk than work.

    Small files in memory are work of Python's own: threads would only wait for each other.
    """
    wall, work = time.perf_counter_ns(), time.thread_time_ns()
    read(some)
    return time.perf_counter_ns() - wall > 2 * (time.thread_time_ns() - work)


def _side_by_side(read: Callable[[Iterable[str]], None], rest: Iterable[str]) -> None:
    def work() -> None:
        try:
            read(rest)
        finally:
            deque(rest, 0)  # after an error the others stop too

    try:
        together(*[work] * _THREADS)
    finally:
        deque(rest, 0)


def _unreadable(path: str, error: OSError | ValueError) -> FingerprintError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return FingerprintError(f"{printable(path)} cannot be read ({reason})")


def _no_file(path: str, mode: int) -> FingerprintError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return FingerprintError(f"{printable(path)} is {kind}, not a file")
