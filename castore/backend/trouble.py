"""What the system says of files, as errors that name the file and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from castore.errors import BackendError, ReadOnlyError

__all__ = ["ABSENT", "SystemErrors", "sync_folder"]

#: What the system raises where there is no such file.
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_WRITING = {"write", "write in", "sync", "delete"}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SystemErrors:
    """Names the file and what to do in place of a bare ``OSError``."""

    __slots__ = ("_doing", "_path")

    def __init__(self, doing: str, path: str | Path) -> None:
        self._doing = doing
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise self._named(error) from error

    def _named(self, error: OSError) -> BackendError | ReadOnlyError:
        doing, path = self._doing, self._path
        if error.errno in _NO_SPACE:
            return BackendError(
                f"cannot {doing} {path}: the disk is full; free some space, or choose another root"
            )
        if error.errno == errno.EFBIG:
            return BackendError(
                f"cannot {doing} {path}: a file may not be so large here; raise the limit "
                "(ulimit -f), or choose another root"
            )
        if error.errno in _NO_LINK and error.filename2 is not None:
            return ReadOnlyError(
                f"{path}: this file system has no hard links, so commits cannot be atomic here"
            )
        if error.errno in _READ_ONLY and doing in _WRITING:
            return ReadOnlyError(
                f'cannot {doing} {path}: no permission; open the store with mode="ro" to read it'
            )
        return BackendError(f"cannot {doing} {path}: {error.strerror or error}")
