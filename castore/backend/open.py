"""From a URL to a backend."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from castore.backend.base import Backend
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.errors import StoreURLError

__all__ = ["normalise", "open_backend"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def normalise(url: object) -> str:
    """Return `url` so that it means the same place from any folder of this machine.

    Parameters
    ----------
    url : str or path
        A folder, ``file://`` with an absolute path, or ``memory://NAME``.

    Raises
    ------
    StoreURLError
        If the scheme is unknown.
    """
    text = os.fspath(url) if isinstance(url, os.PathLike) else url
    if not isinstance(text, str) or not text:
        msg = f"{url!r} is no store URL: give a folder, file:///folder or memory://name"
        raise StoreURLError(msg)
    if not _SCHEME.match(text):
        return str(Path(os.path.abspath(os.path.expanduser(text))))  # noqa: PTH100, PTH111  keeps symlinks
    parts = urlsplit(text)
    if parts.scheme == "memory":
        return text
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return os.path.abspath(unquote(parts.path))  # noqa: PTH100
    msg = f"cannot open {text!r}: this castore knows folders, file:///folder and memory://name"
    raise StoreURLError(msg)


def open_backend(url: str) -> Backend:
    """Return the backend for a normalised `url`; nothing is read or written yet."""
    if url.startswith("memory://"):
        return MemoryBackend(url.removeprefix("memory://"))
    return LocalBackend(Path(url))
