"""What files contain, written beside them, so that a team reads a shared corpus once.

``castore digests ROOT`` writes ``ROOT/.castore-digests``, a sealed document
(`castore.canonical`)::

    {"algorithm":"xxh3-128","files":[["a/1.jpg",4096,1700000000000000000,"0f3a…"],…],"format":1,
     "digest":"…"}

``files`` holds path relative to ROOT, size, mtime_ns and digest of each file, sorted by path;
bytes of a path that are no UTF-8 are lone surrogates, as `os.fsdecode` makes them. An entry is
believed for a file that has this size and time. It is never copied into a memo, where it would
outlive the document's correction.

For a corpus that cannot be written, ``$CASTORE_DIGESTS`` says ``ROOT=FILE``; several are
separated by a colon.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from castore.canonical import seal, unseal
from castore.errors import DamagedError, FingerprintError, FormatError, StoreError
from castore.identity.files.replacing import replace_file
from castore.identity.files.scan import Stamps, absolute, printable

__all__ = ["NAME", "Listed", "files_below", "look_up", "place", "read", "write"]

NAME = ".castore-digests"
VARIABLE = "CASTORE_DIGESTS"

_FORMAT, _ALGORITHM = 1, "xxh3-128"
_DIGEST = re.compile("[0-9a-f]{32}")
#: The root itself, and folders above it that are looked into.
_LEVELS = 5

_Identity = tuple[int, int]

_log = logging.getLogger("castore")


class Listed(NamedTuple):
    """A file as a document lists it."""

    name: str
    size: int
    mtime_ns: int
    digest: str


def place(root: str) -> Path:
    """Return where the document of the folder `root` lies, or is to lie."""
    wanted = absolute(root)
    for pair in os.environ.get(VARIABLE, "").split(os.pathsep):
        folder, is_pair, path = pair.partition("=")
        if is_pair and absolute(folder) == wanted:
            return Path(path)
    return Path(root, NAME)


def read(path: Path) -> list[Listed]:
    """Return what the document at `path` lists.

    Raises
    ------
    OSError
        If it cannot be read.
    DamagedError
        If it is not as it was written.
    FormatError
        If a newer castore wrote it.
    """
    name = printable(str(path))
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    document = unseal(path.read_bytes(), name)
    written = document.get("format"), document.get("algorithm")
    if written != (_FORMAT, _ALGORITHM):
        msg = (
            f"{name} is of format {written[0]!r} by {written[1]!r}, which this castore "
            "does not know: upgrade castore, or write it again with `castore digests`"
        )
        raise FormatError(msg)
    try:
        listed = [Listed(*file) for file in document["files"]]
        _require(listed)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{name} lists no files"
        raise DamagedError(msg) from error
    return listed


def _require(listed: list[Listed]) -> None:
    """Refuse what castore did not write, sealed though it be."""
    os.fsencode("".join(file.name for file in listed))
    if not all(_DIGEST.fullmatch(file.digest) for file in listed):
        msg = "a digest has 32 hex digits"
        raise ValueError(msg)


def write(path: Path, files: Iterable[Listed]) -> None:
    """Write a document at `path`, or replace the one that is there in one step."""
    listed = [list(file) for file in sorted(files)]
    document = {"algorithm": _ALGORITHM, "files": listed, "format": _FORMAT}
    replace_file(path, seal(document), durable=True)


def look_up(
    root: str, names: Sequence[bytes], stamps: Stamps
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the digests of files below `root`, and which of them are known.

    They come from the first document that can be read in `root` or a few folders above it. As
    `castore.identity.files.memo.look_up`, of which this has parameters and results.
    """
    digests = np.zeros((len(names), 16), np.uint8)
    known = np.zeros(len(names), np.bool_)
    prefix, listed = _nearest(root)
    if listed:
        found = []
        for index, (name, (size, mtime)) in enumerate(
            zip(names, stamps[:, :2].tolist(), strict=True)
        ):
            file = listed.get(prefix + name)
            if file is not None and file.size == size and file.mtime_ns == mtime:
                known[index] = True
                found.append(file.digest)
        digests[known] = np.frombuffer(bytes.fromhex("".join(found)), np.uint8).reshape(-1, 16)
    return digests, known


def _nearest(root: str) -> tuple[bytes, dict[bytes, Listed]]:
    """Return the path from the nearest document's folder to `root`, and what it lists."""
    base = absolute(root)
    for folder in _upwards(base):
        path = place(folder)
        try:
            listed = {os.fsencode(file.name): file for file in read(path)}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, StoreError) as error:
            _warn_once(f"the digests in {printable(str(path))} are ignored: {error}")
            continue
        below = os.fsencode(base[len(folder) :]).strip(b"/")
        return below and below + b"/", listed
    return b"", {}


def _upwards(folder: str) -> Iterator[str]:
    """Yield `folder` and some above it, none where strangers may put files, such as /tmp."""
    for path in [Path(folder), *Path(folder).parents][:_LEVELS]:
        try:
            if path.stat().st_mode & stat.S_ISVTX:
                return
        except OSError:
            return
        yield str(path)


@functools.lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def files_below(root: str) -> tuple[list[str], list[str]]:
    """Return the files below `root`, and what is neither file nor folder; both sorted.

    Links are followed, as `torchvision.datasets.ImageFolder` does, but not into a folder that
    they lie in. Documents of digests are left out.

    Raises
    ------
    FingerprintError
        If a folder cannot be listed.
    """
    files: list[str] = []
    others: list[str] = []
    pending: list[tuple[str, tuple[_Identity, ...]]] = [(root, ())]
    while pending:
        folder, above = pending.pop()
        try:
            here = _identity(Path(folder).stat())
            if here in above:
                continue
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            msg = f"{printable(folder)} cannot be listed ({error.strerror})"
            raise FingerprintError(msg) from error
        for entry in entries:
            try:
                seen = entry.stat()
            except OSError:  # a link to nowhere, or to itself
                others.append(entry.path)
                continue
            if stat.S_ISDIR(seen.st_mode):
                pending.append((entry.path, (*above, here)))
            elif not stat.S_ISREG(seen.st_mode):
                others.append(entry.path)
            elif not entry.name.startswith(NAME):
                files.append(entry.path)
    return sorted(files), sorted(others)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
