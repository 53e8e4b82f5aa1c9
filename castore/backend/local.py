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
        self._writable = False
        self._settled: set[Path] = set()

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
            with _system_errors("sync", folder):
                _sync_folder(folder)
        return removed

    def settle(self, name: str) -> None:
        """Sync the folders above `name`, which another writer may have named a moment ago."""
        with _system_errors("sync", self._path(name)):
            _sync_folder(self._path(name).parent)
            self.settle_folder(self._path(name).parent)

    def check_writable(self) -> None:
        """Make a temporary file and a link to it, once: a store needs both."""
        if self._writable:
            return
        with self.upload() as upload, _system_errors("write in", self._root):
            probe = self._temporary()
            os.link(upload.path, probe)
            probe.unlink()
        self._writable = True

    @contextlib.contextmanager
    def upload(self) -> Iterator[LocalUpload]:
        """Begin a temporary file; it is gone when the block ends, named or not."""
        path = self._temporary()
        with _system_errors("write in", self._root):
            self._make_root()
            path.parent.mkdir(exist_ok=True)
            file = path.open("x+b", buffering=0)
        try:
            reach("local.temp-opened")
            yield LocalUpload(self, path, file)
        finally:
            file.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def place(self, name: str) -> Path:
        """Return the path of `name`; its folder exists and outlives a power cut."""
        path = self._path(name)
        if path.parent not in self._settled:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.settle_folder(path.parent)
        return path

    def settle_folder(self, folder: Path) -> None:
        """Sync every folder between the root and `folder`, whoever made it, once a process."""
        if folder not in self._settled and folder != self._root:
            self.settle_folder(folder.parent)
            _sync_folder(folder.parent)
            self._settled.add(folder)

    def _make_root(self) -> None:
        if self._root.is_dir():
            return
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.is_dir()]
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _sync_folder(folder.parent)

    def _temporary(self) -> Path:
        return self._root / _TEMPORARY / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _path(self, name: str) -> Path:
        return self._root / name


class LocalUpload:
    """A temporary file on its way to a name."""

    def __init__(self, backend: LocalBackend, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._backend = backend
        self._file = file

    def write(self, data: Buffer, /) -> None:
        """Append `data`; a short write is continued until all is written or the disk is full."""
        rest = memoryview(data).cast("B")
        with _system_errors("write", self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, name: str) -> None:
        """Sync the file, rename it to `name`, and sync the folder."""
        with self._named(name) as path:
            self.path.rename(path)

    def finish_new(self, name: str) -> bool:
        """Sync the file, link it to `name`, and sync the folder; return False if that exists."""
        try:
            with self._named(name) as path:
                os.link(self.path, path)
        except FileExistsError:
            return False
        return True

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""
        return mapping.private(self._file.fileno(), length)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[Path]:
        """Make durable what the block names."""
        reach("local.temp-written")
        with _system_errors("write", self.path):
            os.fsync(self._file.fileno())
            reach("local.temp-synced")
            path = self._backend.place(name)
            yield path
            reach("local.named")
            _sync_folder(path.parent)
            reach("local.folders-synced")


def _sync_folder(folder: Path) -> None:
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
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            msg = (
                f"cannot {doing} {path}: the disk is full; free some space, or choose another root"
            )
            raise BackendError(msg) from error
        if error.errno in _NO_LINK and error.filename2 is not None:
            msg = f"{path}: this file system has no hard links, so commits cannot be atomic here"
            raise ReadOnlyError(msg) from error
        if error.errno in _READ_ONLY and doing in _WRITING:
            msg = f'cannot {doing} {path}: no permission; open the store with mode="ro" to read it'
            raise ReadOnlyError(msg) from error
        msg = f"cannot {doing} {path}: {error.strerror or error}"
        raise BackendError(msg) from error
