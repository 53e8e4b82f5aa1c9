"""What files contain: xxh3-128 of their bytes, each read once a machine.

::

    paths ─▶ stat each ─▶ this machine's memo ─▶ document beside the data ─▶ read what is left
             (scan)       (memo)                 (digests_file)              (scan)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castore.canonical import identify
from castore.errors import ConfigError, FingerprintError
from castore.identity.files import digests_file, memo, scan
from castore.identity.files.scan import Clock, Reading, Stamps, absolute, printable
from castore.identity.rows import RowIds, from_parts

__all__ = [
    "Contents",
    "File",
    "content_digests",
    "contents",
    "file",
    "file_ids",
    "relative",
    "stamps",
]

Path: TypeAlias = str | os.PathLike[str]

Digests = NDArray[np.uint8]
"""Content digests, uint8 (n, 16)."""

LookUp = Callable[[str, Sequence[bytes], Stamps], tuple[Digests, NDArray[np.bool_]]]
"""What may know digests: `castore.identity.files.memo.look_up` and the like."""


def file_ids(paths: Iterable[Path], root: Path | None = None) -> RowIds:
    """Return row ids of files by what they contain.

    Pass them as ``row_ids=`` where castore has no rule for a dataset. Files that were read
    before on this machine, or are listed by ``castore digests``, are not read again.

    Parameters
    ----------
    paths : iterable of str or path
        One file a sample, in the dataset's order; a file may come twice.
    root : str or path, optional
        A folder they all lie below; the path from there joins the id, so that the same bytes
        in another class folder are another row. By default content alone counts.

    Returns
    -------
    ndarray
        uint8 (n, 16), the same on every machine.

    Raises
    ------
    FingerprintError
        If a file cannot be read, is no regular file, or does not lie below `root`.

    Examples
    --------
    >>> ids = castore.file_ids(ds.paths, root=ds.root)  # doctest: +SKIP
    >>> store.get_or_compute(loader, fn, dataset_id="isic-2020", row_ids=ids)  # doctest: +SKIP
    """
    found = _as_paths(paths)
    digests = content_digests(found, root)
    if root is None:
        return from_parts(identify("source", {"files": ["content"]}), "file", digests)
    source = identify("source", {"files": ["content", "path"]})
    return from_parts(source, "file", digests, relative(found, root))


@dataclass(frozen=True, slots=True)
class File:
    """A file as a value: what counts is what it contains, not where it lies.

    Two are equal if their paths are; compare `digest` to compare contents.

    Attributes
    ----------
    path : str
        As it was given.
    """

    path: str

    def __fspath__(self) -> str:
        return self.path

    def digest(self) -> str:
        """Return the xxh3-128 of the file's bytes now, 32 hex digits.

        Raises
        ------
        FingerprintError
            If it cannot be read, or is no regular file.
        """
        return content_digests([self.path]).tobytes().hex()


def file(path: Path) -> File:
    """Return the file at `path` as a value, to be keyed by what it contains.

    It can be opened wherever a path can. Nothing is read before its digest is wanted.

    Parameters
    ----------
    path : str or path
        A regular file.

    Examples
    --------
    >>> weights = castore.file("best.pt")
    >>> store.compute(score, suffix="score", inputs={"weights": weights})  # doctest: +SKIP
    """
    return File(_as_path(path, "castore.file: the path"))


def content_digests(
    paths: Iterable[Path],
    root: Path | None = None,
    on_file: Callable[[int], object] | None = None,
) -> Digests:
    """Return the xxh3-128 of each file's bytes, uint8 (n, 16). See `contents`."""
    return contents(paths, root, on_file).digests


@dataclass(frozen=True)
class Contents:
    """What files contain.

    Attributes
    ----------
    digests : ndarray
        uint8 (n, 16).
    stamps : ndarray
        int64 (n, 4), what they had then.
    quiet : ndarray
        bool (n,), whether a later change must change size or modification time.
    """

    digests: Digests
    stamps: Stamps
    quiet: NDArray[np.bool_]


def contents(
    paths: Iterable[Path],
    root: Path | None = None,
    on_file: Callable[[int], object] | None = None,
    *,
    known: Iterable[LookUp] = (memo.look_up, digests_file.look_up),
    clock: Clock = time.time_ns,
) -> Contents:
    """Find out what files contain, reading each at most once, in sorted order.

    What was read is remembered for the next time, also if an exception ends it.

    Parameters
    ----------
    paths : iterable of str or path
        Files; one may come twice.
    root : str or path, optional
        A folder they all lie below, whose memo is used; by default the deepest there is.
    on_file : callable, optional
        Called with the number of different files done, after each that is read, by one thread
        at a time.
    known : iterable of callable
        What is asked before a file is read, in this order.
    clock : callable
        What time it is, in nanoseconds since the epoch.

    Raises
    ------
    FingerprintError
        If a file cannot be read, is no regular file, or does not lie below `root`.
    """
    paths = _as_paths(paths)
    base, names = _common(paths) if root is None else (os.fsdecode(root), relative(paths, root))
    stamps = scan.stamps_of(paths)
    quiet = np.ones(len(paths), np.bool_)
    digests, missing = _ask(known, base, names, stamps)
    if missing:
        where = {paths[i]: i for i in missing}
        order = sorted(where)
        sizes = stamps[[where[path] for path in order], 0]
        readings: dict[str, Reading] = {}
        try:
            scan.read_files(order, sizes, readings, _counted(paths, where, on_file), clock)
        finally:
            memo.add(base, ((names[where[path]], found) for path, found in readings.items()))
        for i in missing:
            found = readings[paths[i]]
            digests[i] = np.frombuffer(found.digest, np.uint8)
            stamps[i], quiet[i] = found.stamp, found.quiet
    return Contents(digests, stamps, quiet)


def _ask(
    known: Iterable[LookUp], root: str, names: list[bytes], stamps: Stamps
) -> tuple[Digests, list[int]]:
    """Return what is known, and the indices of the files that nobody knows."""
    digests = np.zeros((len(names), 16), np.uint8)
    missing = np.arange(len(names))
    for look_up in known:
        if missing.size:
            asked = names if missing.size == len(names) else [names[i] for i in missing.tolist()]
            found, hit = look_up(root, asked, stamps[missing])
            digests[missing[hit]] = found[hit]
            missing = missing[~hit]
    return digests, missing.tolist()


def _counted(
    paths: list[str], missing: Collection[str], on_file: Callable[[int], object] | None
) -> Callable[[int], object] | None:
    """Let `on_file` count the files that need not be read as done."""
    if on_file is None:
        return None
    before = len(set(paths)) - len(missing)
    return lambda done: on_file(before + done)


def stamps(paths: Iterable[Path]) -> NDArray[np.int64]:
    """Return size and mtime_ns of each file, int64 (n, 2).

    Raises
    ------
    FingerprintError
        If one does not exist, cannot be looked at, or is no regular file.
    """
    return np.ascontiguousarray(scan.stamps_of(_as_paths(paths))[:, :2])


def relative(paths: Iterable[Path], root: Path) -> list[bytes]:
    """Return the path of each file from the folder `root`, in POSIX form.

    Paths are compared as they are written, without looking at links; only where one of the two
    is absolute and the other is not does the working folder count.

    Raises
    ------
    FingerprintError
        If one does not lie below `root`.
    """
    paths, folder = _as_paths(paths), os.fsdecode(root)
    prefix = folder if folder.endswith("/") else f"{folder}/"
    joined = "\0".join(["", *paths])
    below = joined.replace(f"\0{prefix}", "\0")
    if len(joined) - len(below) == len(prefix) * len(paths) and joined.count("\0") == len(paths):
        components = f"{below}/".replace("\0", "/")
        if not any(odd in components for odd in ("//", "/./", "/../")):
            return _encoded(below).split(b"\0")[1:]
    return [_encoded(_relative(path, folder)) for path in paths]


def _relative(path: str, root: str) -> str:
    mixed = path.startswith("/") != root.startswith("/")
    with contextlib.suppress(ValueError):
        found = PurePath(absolute(path) if mixed else path).relative_to(
            absolute(root) if mixed else root
        )
        if os.path.normpath(found).split("/")[0] != "..":
            return found.as_posix()
    msg = f"{printable(path)} is not below {printable(root)}"
    raise FingerprintError(msg)


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError as error:
        wrong = ascii(text[error.start : error.end])
        msg = f"a path contains {wrong}, which stands for no byte of a file's name"
        raise FingerprintError(msg) from error


def _common(paths: list[str]) -> tuple[str, list[bytes]]:
    """Return the deepest folder all `paths` begin with, and what they have below it."""
    ends = [min(paths), max(paths)] if paths else []
    shared = os.path.commonprefix(ends)  # noqa: RUF071  cut to whole components below
    length = shared.rfind("/") + 1
    below = [path[length:] for path in paths]
    encoded = _encoded("\0".join(below)).split(b"\0")
    if len(encoded) != len(paths):  # none, or a NUL in one of them
        encoded = [_encoded(name) for name in below]
    return shared[:length] or ".", encoded


def _as_paths(paths: Iterable[Path]) -> list[str]:
    if type(paths) is list and set(map(type, paths)) <= {str}:
        return paths
    if isinstance(paths, (str, bytes, os.PathLike)):
        msg = f"{paths!r} is one path: give a list of paths"
        raise ConfigError(msg)
    return [_as_path(path, f"path {index}") for index, path in enumerate(paths)]


def _as_path(path: Path, what: str) -> str:
    try:
        return str(os.fsdecode(path))
    except TypeError:
        msg = f"{what} is {path!r} ({type(path).__name__}), not a path"
        raise FingerprintError(msg) from None
