"""Files as private memory: mapped where that is safe, read where it is not."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_mapped", "is_safe", "open_private", "open_whole", "private", "read", "shared"]

#: Python names it from 3.13 on; the value is that of asm-generic/mman-common.h.
_NORESERVE = 0x4000 if sys.platform.startswith("linux") else 0

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
#: Below this many bytes reading is quicker than mapping.
_SMALL = 256 << 10

#: File systems on which another client's unlink or a lost server invalidates mapped pages.
_UNSAFE = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
        "virtiofs",
        "wekafs",
    ]
)


def read(path: str) -> bytes:
    """Return the bytes of the file at `path`.

    Raises
    ------
    OSError
        As the system raises it.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        pieces = []
        while piece := os.read(descriptor, max(1, os.fstat(descriptor).st_size)):
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(descriptor)


def open_private(path: str, length: int, *, copy: bool) -> NDArray[np.uint8] | None:
    """Return the file at `path` as a private array, or None if it is not `length` bytes long.

    Raises
    ------
    OSError
        As the system raises it, ``FileNotFoundError`` for a missing file included.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if status.st_size != length or not stat.S_ISREG(status.st_mode):
            return None
        copy = copy or length < _SMALL
        return _read(descriptor, length) if copy else private(descriptor, length)
    finally:
        os.close(descriptor)


def open_whole(path: str) -> NDArray[np.uint8]:
    """Return all of the file at `path` as a private array.

    Raises
    ------
    OSError
        As the system raises it.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        length = os.fstat(descriptor).st_size
        if length >= _SMALL and is_safe(Path(path)):
            return private(descriptor, length)
    finally:
        os.close(descriptor)
    return np.frombuffer(bytearray(read(path)), np.uint8)


def private(descriptor: int, length: int) -> NDArray[np.uint8]:
    """Map the first `length` bytes of an open file; writes stay in the process.

    Without ``MAP_NORESERVE`` the system refuses private mappings larger than its memory.
    """
    if length == 0:
        return np.empty(0, np.uint8)
    flags = mmap.MAP_PRIVATE | _NORESERVE
    mapped = mmap.mmap(descriptor, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(mapped, np.uint8)


def is_mapped(data: NDArray[np.uint8]) -> bool:
    """Tell whether bytes that were opened lie in a mapping, and take no memory of their own."""
    return isinstance(getattr(data.base, "obj", None), mmap.mmap)


def shared(descriptor: int, length: int) -> NDArray[np.uint8]:
    """Map the first `length` bytes of an open file; writes go to the file, in the system's time."""
    mapped = mmap.mmap(descriptor, length, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(mapped, np.uint8)


def _read(descriptor: int, length: int) -> NDArray[np.uint8] | None:
    data = np.empty(length, np.uint8)
    done = 0
    while done < length:
        count = os.readv(descriptor, [memoryview(data)[done:]])
        if count == 0:
            return None
        done += count
    return data


def is_safe(folder: Path) -> bool:
    """Tell whether files under `folder` may be mapped, by the type of its file system."""
    return not _is_network(_file_system(folder))


def _is_network(kind: str) -> bool:
    return kind in _UNSAFE or kind.startswith("fuse")


def _file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`: ``"ext4"``; ``""`` where unknown.

    Source: the fields of ``/proc/self/mountinfo``, proc_pid_mountinfo(5).
    """
    if not sys.platform.startswith("linux"):
        return ""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    device = existing.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    table = Path("/proc/self/mountinfo")
    if not table.exists():  # a container without /proc
        return ""
    for line in table.read_text().splitlines():
        mount, _, details = line.partition(" - ")
        if mount.split()[2] == wanted:
            return details.split()[0]
    return ""
