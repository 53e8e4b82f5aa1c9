"""A store's objects as files under one folder.

Publishing a file: write a temporary one, fsync it, give it its name by ``link`` (create) or
``rename`` (replace), fsync every folder that gained a name. A name therefore never denotes a
part of a file, also after a power cut, and a file that may be mapped is never written again.

What need not be durable is published alike, without a sync. Its folder is made when a name
needs it and goes with its last name, while other processes do the same; a folder in which
anything durable lies is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping
from castore.backend.base import ObjectInfo
from castore.backend.temporary import LocalUpload
from castore.backend.trouble import ABSENT, SystemErrors, sync_folder
from castore.errors import StoreURLError
from castore.points import reach

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LocalBackend"]

_TEMPORARY = "tmp"
#: The system's ways to say that a file can have no second name there.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)
#: Bytes of a result above which it need not fit into memory.
_MUCH = 1 << 30


class LocalBackend:
    """Objects under the folder `root`, which is made when first written to.

    Parameters
    ----------
    root : Path
        An absolute path. It may not exist yet; it must not be a file.
    """

    near = True

    def __init__(self, root: Path) -> None:
        with SystemErrors("look at", root):
            if root.exists() and not root.is_dir():
                msg = f"{root} is a file: a store needs a folder of its own"
                raise StoreURLError(msg)
        self.url = str(root)
        self._root = root
        self._prefix = f"{root}/"
        self._mapped: bool | None = None
        self._writable = False
        self._settled: set[Path] = set()

    def __reduce__(self) -> tuple[type[LocalBackend], tuple[Path]]:
        """Return how to open the same folder: what was seen here says nothing elsewhere."""
        return LocalBackend, (self._root,)

    def get(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None if there is no such object."""
        path = self._prefix + name
        with SystemErrors("read", path):
            try:
                return mapping.read(path)
            except ABSENT:
                return None

    def stat(self, name: str) -> ObjectInfo | None:
        """Return size and time of `name`, or None if there is no such object."""
        path = self._prefix + name
        with SystemErrors("look at", path):
            try:
                status = os.stat(path)  # noqa: PTH116  the hot path joins text
            except ABSENT:
                return None
        if not stat.S_ISREG(status.st_mode):
            return None
        tag = (status.st_ino, status.st_mtime_ns, status.st_size)
        return ObjectInfo(name, status.st_size, status.st_mtime, tag)

    def open_private(
        self, name: str, length: int, *, copy: bool = False
    ) -> NDArray[np.uint8] | None:
        """Map `name` privately, or read it where a mapping could kill the process.

        Network and FUSE file systems are read: there an unlink by another client turns the
        next touch of a mapped page into SIGBUS.
        """
        path = self._prefix + name
        with SystemErrors("open", path):
            try:
                return mapping.open_private(path, length, copy=copy or not self._is_mapped())
            except ABSENT:
                return None

    def _is_mapped(self) -> bool:
        if self._mapped is None:
            self._mapped = mapping.is_safe(self._root)
        return self._mapped

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Return `nbytes` bytes of memory; of a nameless file where that is much."""
        if nbytes < _MUCH or not self._is_mapped():
            return np.empty(nbytes, np.uint8)
        with self.upload() as upload, SystemErrors("write in", self._root):
            return upload.room(nbytes)

    def put(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> None:
        """Write `pieces` as `name` by way of a temporary file and ``rename``."""
        with self.upload() as upload:
            for piece in pieces:
                upload.write(piece)
            upload.finish(name, durable=durable)

    def create(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> bool:
        """Write `pieces` as `name` by way of a temporary file and ``link``, unless it exists."""
        with self.upload() as upload:
            for piece in pieces:
                upload.write(piece)
            return upload.finish_new(name, durable=durable)

    def take(self, path: Path, name: str) -> bool:
        """Link the file at `path` to `name` by way of a temporary name, where that can be."""
        temporary = self._temporary()
        with SystemErrors("write in", self._root):
            try:
                temporary.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, temporary)
            except OSError as error:
                if error.errno in _NO_LINK:
                    return False
                raise
        try:
            with SystemErrors("write", temporary), temporary.open("rb", buffering=0) as file:
                LocalUpload(self, temporary, file).finish(name)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return True

    def workplace(self) -> Path:
        """Return a path among the temporary files."""
        return self._temporary()

    def temporary_name(self, path: Path) -> str | None:
        """Return the name of a temporary file; None on a network file system.

        There nobody may look at files that others write.
        """
        return f"{_TEMPORARY}/{path.name}" if self._is_mapped() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files under the folder `prefix`, by name; temporary ones are no objects."""
        folder = self.path(prefix)
        with SystemErrors("list", folder):
            try:
                entries = list(os.scandir(folder))
            except ABSENT:
                return
        folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        # A folder's objects come where its name with the slash comes.
        for name in sorted(f"{e.name}/" if e.name in folders else e.name for e in entries):
            if name.endswith("/"):
                if prefix or name != f"{_TEMPORARY}/":
                    yield from self.list(prefix + name)
            elif (info := self.stat(prefix + name)) is not None:
                yield info

    def delete(self, names: Iterable[str], *, durable: bool = True) -> int:
        """Unlink `names` and return how many were there; mapped readers keep their bytes."""
        removed, folders = 0, set()
        for name in names:
            path = self.path(name)
            with SystemErrors("delete", path), contextlib.suppress(*ABSENT):
                path.unlink()
                folders.add(path.parent)
                removed += 1
        for folder in folders:
            if durable:
                with SystemErrors("sync", folder):
                    sync_folder(folder)
            elif folder != self._root:
                with contextlib.suppress(OSError):  # most often: it is not empty
                    folder.rmdir()
        return removed

    def now(self) -> float:
        """Return the file system's clock, as a fresh temporary file shows it."""
        with self.upload() as upload, SystemErrors("look at", upload.path):
            return upload.path.stat().st_mtime

    def settle(self, name: str) -> None:
        """Sync the folders above `name`, which another writer may have named a moment ago."""
        with SystemErrors("sync", self.path(name)):
            sync_folder(self.path(name).parent)
            self._settle(self.path(name).parent)

    def check_writable(self) -> None:
        """Make a temporary file and a link to it, once: a store needs both."""
        if self._writable:
            return
        with self.upload() as upload, SystemErrors("write in", self._root):
            probe = self._temporary()
            os.link(upload.path, probe)
            probe.unlink()
        self._writable = True

    @contextlib.contextmanager
    def upload(self) -> Iterator[LocalUpload]:
        """Begin a temporary file; unless kept it is gone when the block ends, named or not."""
        path = self._temporary()
        with SystemErrors("write in", self._root):
            try:
                file = path.open("x+b", buffering=0)
            except FileNotFoundError:
                self._make_root()
                path.parent.mkdir(exist_ok=True)
                file = path.open("x+b", buffering=0)
        upload = LocalUpload(self, path, file)
        try:
            reach("local.temp-opened")
            yield upload
        finally:
            file.close()
            if not upload.kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def place(self, name: str, *, durable: bool = True) -> None:
        """Make the folder of `name`, by default so that it outlives a power cut."""
        path = self.path(name)
        with SystemErrors("write", path):
            if not path.parent.is_dir():
                if path.parent in self._settled:  # somebody removed it, and perhaps those above
                    self._settled.clear()
                with contextlib.suppress(FileExistsError):  # made by others, and removed again
                    path.parent.mkdir(parents=True, exist_ok=True)
            if durable:
                self._settle(path.parent)

    def _settle(self, folder: Path) -> None:
        """Sync every folder between the root and `folder`, whoever made it, once a process."""
        if folder not in self._settled and folder != self._root:
            self._settle(folder.parent)
            sync_folder(folder.parent)
            self._settled.add(folder)

    def _make_root(self) -> None:
        if self._root.is_dir():
            return
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.is_dir()]
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)

    def _temporary(self) -> Path:
        return self._root / _TEMPORARY / f"{os.getpid()}-{os.urandom(8).hex()}"

    def path(self, name: str) -> Path:
        """Return where `name` lies."""
        return self._root / name
