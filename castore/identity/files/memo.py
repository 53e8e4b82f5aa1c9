"""What files contained when this machine last read them: one file for each folder of data.

::

    <state folder>/castore/digests/<xxh3-128 of the root's absolute path>

    magic │ entries, 56 bytes each, sorted by name │ xxh3-128 of all before

    entry: xxh3-64 of the path relative to the root · size · mtime_ns · ctime_ns · inode · digest

It is a hint. An entry counts only for a file that has its whole stamp, so that two names with
one 64-bit digest do no harm; what is missing, damaged or cannot be written is done without.
Processes that write at once may lose each other's additions, and nothing else.

It is bounded: a root keeps at most `LIMIT` files besides those just read, a random choice
of the others; a memo that nobody used for `UNUSED` seconds goes when another is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore.digest import check64, hasher, identity
from castore.identity.files.replacing import forget_unused, replace_file
from castore.identity.files.scan import Reading, Stamps, absolute

__all__ = ["LIMIT", "UNUSED", "add", "folder", "look_up"]

#: Files of one root: 940 MB.
LIMIT = 1 << 24
#: Ninety days.
UNUSED = 90 * 86400.0

_MAGIC = b"castore digests memo 1\n\0"
_SEAL = 16
_ENTRY = np.dtype([("name", "<u8"), ("stamp", "<i8", (4,)), ("digest", "u1", (16,))])
_DAY = 86400.0

_Entries = NDArray[Any]

_log = logging.getLogger("castore")


def folder() -> Path:
    """Return the folder of all memos of this machine and user."""
    import platformdirs

    return platformdirs.user_state_path("castore", appauthor=False) / "digests"


def look_up(
    root: str, names: Sequence[bytes], stamps: Stamps
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the digests of files below `root`, and which of them are known.

    Parameters
    ----------
    root : str
        A folder.
    names : sequence of bytes
        Paths relative to it.
    stamps : ndarray
        int64 (n, 4), what the files have now.

    Returns
    -------
    digests : ndarray
        uint8 (n, 16).
    known : ndarray
        bool (n,); where it is False the digest is anything.
    """
    entries = _without_fail(root)
    if not len(entries):
        return np.zeros((len(names), 16), np.uint8), np.zeros(len(names), np.bool_)
    keys = _keys(names)
    places = np.searchsorted(entries["name"], keys)
    places[places == len(entries)] = 0
    found = entries[places]
    known = (found["name"] == keys) & (found["stamp"] == stamps).all(axis=1)
    return found["digest"], known


def add(root: str, readings: Iterable[tuple[bytes, Reading]]) -> None:
    """Remember the readings that may be, by path relative to `root`; on any trouble, nothing."""
    settled = [(name, reading) for name, reading in readings if reading.settled]
    if not settled:
        return
    fresh = np.empty(len(settled), _ENTRY)
    fresh["name"] = _keys([name for name, _ in settled])
    fresh["stamp"] = [reading.stamp for _, reading in settled]
    digests = b"".join(reading.digest for _, reading in settled)
    fresh["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, 16)
    try:
        path = _place(root)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _save(path, _merged(fresh, _without_fail(root)))
        forget_unused(path.parent, UNUSED)
    except Exception as error:
        _log.debug("digests of files below %r are not remembered: %r", root, error)


def _keys(names: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.fromiter(map(check64, names), np.uint64, len(names))


def _merged(fresh: _Entries, others: _Entries) -> _Entries:
    _, first = np.unique(fresh["name"], return_index=True)
    fresh = fresh[first]
    others = others[~np.isin(others["name"], fresh["name"])]
    if len(others) > LIMIT:  # sorted by digest, so what stands evenly spaced is a random choice
        others = others[np.linspace(0, len(others) - 1, LIMIT).astype(np.intp)]
    merged = np.concatenate([fresh, others])
    return merged[np.argsort(merged["name"])]


def _place(root: str) -> Path:
    return folder() / identity("memo", os.fsencode(absolute(root)))


def _save(path: Path, entries: _Entries) -> None:
    body = _MAGIC + entries.tobytes()
    replace_file(path, body + _digest(body), durable=False)


def _without_fail(root: str) -> _Entries:
    """Return the entries of `root`, none where there is any trouble."""
    try:
        return _load(_place(root))
    except FileNotFoundError:  # nothing below this root was read yet
        pass
    except Exception as error:
        _log.debug("digests of files below %r are read anew: %r", root, error)
    return np.empty(0, _ENTRY)


def _load(path: Path) -> _Entries:
    with path.open("rb") as file:
        data = file.read()
        if time.time() - os.fstat(file.fileno()).st_mtime > _DAY:
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # used; see `forget_unused`
    body = memoryview(data)[:-_SEAL]
    if bytes(body[: len(_MAGIC)]) != _MAGIC or data[-_SEAL:] != _digest(body):
        msg = f"{path} is damaged"
        raise ValueError(msg)
    return np.frombuffer(body[len(_MAGIC) :], _ENTRY)


def _digest(body: bytes | memoryview) -> bytes:
    state = hasher()
    state.update(body)
    return state.digest()
