"""A file that is replaced in one step: who reads it sees the old bytes or the new."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Make `data` the contents of the file at `path`.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    durable : bool
        Whether the bytes must outlive a power cut that their name outlives.

    Raises
    ------
    OSError
        If that fails; the file is then as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(8).hex()}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
