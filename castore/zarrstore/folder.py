"""A folder of values by Zarr key, each a file that is replaced in one step."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from castore.backend.trouble import SystemErrors
from castore.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Folder"]

#: What lies at a key that is none: a folder of others, or a file where a folder would be.
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_TRIES = 50  # at a folder that others remove


class Folder:
    """Values as files, shared by the processes of one machine.

    Files that are being written lie beside, so that what is below `zarr` is a plain Zarr
    hierarchy at every moment. A reader sees the old value or the new one, whole. Nothing is
    synced: what is published is synced then.

    Parameters
    ----------
    place : Path
        A folder of its own, which exists as long as the values are wanted.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.zarr = place / "zarr"
        self._frozen = place / "published"
        self._temporary = place / "tmp"

    def make(self) -> None:
        """Make it, without values."""
        with SystemErrors("write in", self.place):
            self.zarr.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return what is at `key`, or the bytes of it in a half-open range; None if nothing is."""
        path = self.zarr / key
        with SystemErrors("read", path):
            try:
                if not is_key(key):
                    return None
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(-1 if stop is None else max(0, stop - start))
            except _ABSENT:
                self.check()
                return None

    def size(self, key: str) -> int | None:
        """Return the length of what is at `key`, None if nothing is."""
        path = self.zarr / key
        with SystemErrors("look at", path), contextlib.suppress(*_ABSENT):
            if is_key(key) and path.is_file():
                return path.stat().st_size
        self.check()
        return None

    def put(self, key: str, data: Buffer, *, new: bool = False) -> None:
        """Write `data` at `key`; with `new`, only if nothing is there. One step, for all readers.

        Raises
        ------
        ConfigError
            If it is no Zarr key, or one above or below it has a value: no file system keeps both.
        StoreError
            If it was published, or is gone; or the system's own trouble.
        """
        if not is_key(key):
            msg = f"{key!r} is no Zarr key: names separated by single slashes"
            raise ConfigError(msg)
        path = self.zarr / key
        temporary = self._temporary / f"{os.getpid()}-{os.urandom(8).hex()}"
        with SystemErrors("write", path):
            try:
                with temporary.open("xb", buffering=0) as file:
                    rest = memoryview(data).cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
                self._name(temporary, path, new)
            except FileNotFoundError as error:
                self.check()
                raise StoreError(_GONE.format(self.place)) from error
            except _ABSENT as error:
                msg = f"{key!r} has a value above or below it: a Zarr node is one of the two"
                raise ConfigError(msg) from error
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def _name(self, temporary: Path, path: Path, new: bool) -> None:
        for _ in range(_TRIES):
            try:
                if new:
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, path)
                else:
                    temporary.replace(path)
            except FileNotFoundError:
                self.check()
                with contextlib.suppress(FileExistsError):
                    self._make_folders(path)
                continue
            return
        raise FileNotFoundError(path)

    def _make_folders(self, path: Path) -> None:
        """Make the folders above `path`, but never the one of all values."""
        missing = []
        for folder in path.parents:
            if folder == self.zarr or folder.is_dir():
                break
            missing.append(folder)
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            if not folder.is_dir():
                raise NotADirectoryError(folder)

    def delete(self, key: str) -> None:
        """Remove what is at `key`; nothing there is no error."""
        if self.size(key) is None:
            return
        path = self.zarr / key
        with SystemErrors("delete", path), contextlib.suppress(*_ABSENT):
            path.unlink()

    def delete_below(self, prefix: str) -> None:
        """Remove all values below the node `prefix`."""
        for key in self.keys(prefix):
            self.delete(key)

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below the node `prefix`, sorted."""
        start = len(self.zarr.as_posix()) + 1
        top = self.zarr / prefix.strip("/") if prefix.strip("/") else self.zarr
        found = []
        for folder, _, names in os.walk(top):
            found += [f"{folder}/{name}"[start:] for name in names]
        if not found:
            self.check()
        return sorted(found)

    def check(self) -> None:
        """Raise if the values were published, or removed.

        Raises
        ------
        StoreError
            Saying which.
        """
        if not self.zarr.is_dir():
            how = _PUBLISHED if self._frozen.exists() else _GONE
            raise StoreError(how.format(self.place))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Path]:
        """Let nobody write while the block runs; if it ends well, for good.

        Yields
        ------
        Path
            Where the values are meanwhile.
        """
        self.check()
        with SystemErrors("rename", self.zarr):
            self.zarr.rename(self._frozen)
        try:
            yield self._frozen
        except BaseException:
            self._frozen.rename(self.zarr)
            raise

    def clear(self) -> None:
        """Remove what was published; those who have the folder are still told so."""
        for path in self._frozen.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all there is."""
        shutil.rmtree(self.place, ignore_errors=True)


def is_key(key: str) -> bool:
    """Tell whether `key` is a path of names below a folder, and no way out of it."""
    return "\0" not in key and not any(name in ("", ".", "..") for name in key.split("/"))


_GONE = "{}: the Zarr stage is gone: begin another by store.zarr_store()"
_PUBLISHED = "{}: the Zarr stage was committed: read the entry, or begin another stage"
