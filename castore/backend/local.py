"""A store's objects as files under one folder.

Publishing a file: write a temporary one, fsync it, give it its name by ``link`` (create) or
``rename`` (replace), fsync every folder that gained a name. A name therefore never denotes a
part of a file, also after a power cut, and a file that may be mapped is never written again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping
from castore.backend.base import ObjectInfo
from castore.errors import BackendError, ReadOnlyError, StoreURLError
from castore.points import reach

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LocalBackend"]

_TEMPORARY = "tmp"
_WRITING = {"write", "write in", "sync", "delete"}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalBackend:
    """Objects under the folder `root`, which is made when first written to.

    Parameters
    ----------
    root : Path
        An absolute path. It may not exist yet; it must not be a file.
    """

    near = True

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            msg = f"{root} is a file: a store needs a folder of its own"
            raise StoreURLError(msg)
        self.url = str(root)
        self._root = root
        self._mapped: bool | None = None
        self._linked = threading.Event()

    def get(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None if there is no such object."""
        with _system_errors("read", self._path(name)):
            try:
                return self._path(name).read_bytes()
            except _ABSENT:
                return None

    def stat(self, name: str) -> ObjectInfo | None:
        """Return size and time of `name`, or None if there is no such object."""
        with _system_errors("look at", self._path(name)):
            try:
                status = self._path(name).stat()
            except _ABSENT:
                return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(name, status.st_size, status.st_mtime)

    def open_private(
        self, name: str, length: int, *, copy: bool = False
    ) -> NDArray[np.uint8] | None:
        """Map `name` privately, or read it where a mapping could kill the process.

        Network and FUSE file systems are read: there an unlink by another client turns the
        next touch of a mapped page into SIGBUS.
        """
        if self._mapped is None:
            self._mapped = mapping.is_safe(self._root)
        with _system_errors("open", self._path(name)):
            try:
                return mapping.open_private(self._path(name), length, copy=copy or not self._mapped)
            except _ABSENT:
                return None

    def put(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write `pieces` as `name` by way of a temporary file and ``rename``."""
        with self.upload() as upload:
            for piece in pieces:
                upload.write(piece)
            upload.finish(name)

    def create(self, name: str, pieces: Sequence[Buffer]) -> bool:
        """Write `pieces` as `name` by way of a temporary file and ``link``, unless it exists."""
        with self.upload() as upload:
            for piece in pieces:
                upload.write(piece)
            return upload.finish_new(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files under the folder `prefix`, by name; temporary ones are no objects."""
        folder = self._path(prefix)
        with _system_errors("list", folder):
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except _ABSENT:
                return
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if name != _TEMPORARY:
                    yield from self.list(f"{name}/")
            elif (info := self.stat(name)) is not None:
                yield info

    def delete(self, names: Iterable[str]) -> int:
        """Unlink `names` and return how many were there; mapped readers keep their bytes."""
        removed, folders = 0, set()
        for name in names:
            path = self._path(name)
            with _system_errors("delete", path), contextlib.suppress(*_ABSENT):
                path.unlink()
                folders.add(path.parent)
                removed += 1
        for folder in folders:
            _sync_folder(folder)
        return removed

    def check_writable(self) -> None:
        """Make a temporary file and a link to it, once: a store needs both."""
        if self._linked.is_set():
            return
        with self.upload() as upload:
            probe = self._temporary()
            with _system_errors("write in", self._root):
                os.link(upload.path, probe)
                probe.unlink()
        self._linked.set()

    @contextlib.contextmanager
    def upload(self) -> Iterator[LocalUpload]:
        """Begin a temporary file; it is gone when the block ends, named or not."""
        path = self._temporary()
        with _system_errors("write in", self._root):
            made = _make_folders(path.parent)
            file = path.open("x+b", buffering=0)
        upload = LocalUpload(self._root, path, file, made)
        try:
            reach("local.temp-opened")
            yield upload
        finally:
            file.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _temporary(self) -> Path:
        return self._root / _TEMPORARY / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _path(self, name: str) -> Path:
        return self._root / name


class LocalUpload:
    """A temporary file on its way to a name."""

    def __init__(self, root: Path, path: Path, file: BinaryIO, made: list[Path]) -> None:
        self.path = path
        self._root = root
        self._file = file
        self._gained = made

    def write(self, data: Buffer, /) -> None:
        """Append `data`; a short write is continued until all is written or the disk is full."""
        rest = memoryview(data).cast("B")
        with _system_errors("write", self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, name: str) -> None:
        """Sync the file and rename it to `name`, then sync every folder that changed."""
        self._sync_file()
        path = self._root / name
        with _system_errors("write", path):
            self._gained += _make_folders(path.parent)
            self.path.rename(path)
        self._sync_folders(path)

    def finish_new(self, name: str) -> bool:
        """Sync the file and link it to `name`; return False if that exists."""
        self._sync_file()
        path = self._root / name
        with _system_errors("write", path):
            self._gained += _make_folders(path.parent)
            try:
                os.link(self.path, path)
            except FileExistsError:
                return False
        self._sync_folders(path)
        return True

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""
        found = mapping.private(self._file.fileno(), length)
        return found

    def _sync_file(self) -> None:
        reach("local.temp-written")
        with _system_errors("sync", self.path):
            os.fsync(self._file.fileno())
        reach("local.temp-synced")

    def _sync_folders(self, path: Path) -> None:
        reach("local.named")
        for folder in {path.parent, *(made.parent for made in self._gained)}:
            _sync_folder(folder)
        reach("local.folders-synced")


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and its missing parents; return those made, outermost first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing[::-1]


def _sync_folder(folder: Path) -> None:
    with _system_errors("sync", folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _system_errors(doing: str, path: Path) -> Iterator[None]:
    """Name the file and what to do in place of a bare ``OSError``."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            msg = f"cannot {doing} {path}: the disk is full; free some space, or choose another root"
            raise BackendError(msg) from error
        if error.errno in _NO_LINK and error.filename2 is not None:
            msg = f"{path}: this file system has no hard links, so commits cannot be atomic here"
            raise ReadOnlyError(msg) from error
        if error.errno in _READ_ONLY and doing in _WRITING:
            msg = f'cannot {doing} {path}: no permission; open the store with mode="ro" to read it'
            raise ReadOnlyError(msg) from error
        msg = f"cannot {doing} {path}: {error.strerror or error}"
        raise BackendError(msg) from error
