"""Files that are replaced in one step, and removed when nobody uses them any more."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["forget_unused", "replace_file"]


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


def forget_unused(folder: Path, seconds: float) -> None:
    """Remove files of `folder`, and what writers that were killed left, when long untouched."""
    oldest = time.time() - seconds
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
