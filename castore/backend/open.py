"""From a URL to a backend."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from castore.backend.base import Backend
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.errors import StoreURLError

__all__ = ["normalise", "open_backend"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


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
    if "\0" in text:
        msg = f"{text!r} holds a NUL character: no folder has such a name"
        raise StoreURLError(msg)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _absolute(text)
    rest = text[scheme.end() :]
    if scheme[1].lower() == "memory":
        return f"memory://{rest}"
    if scheme[1].lower() == "file":
        host, slash, path = rest.partition("/")
        if slash and host in ("", "localhost") and not set("?#") & set(path):
            return _absolute("/" + unquote(path))
    msg = f"cannot open {text!r}: this castore knows folders, file:///folder and memory://name"
    raise StoreURLError(msg)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  symlinks stay


def open_backend(url: str) -> Backend:
    """Return the backend for a normalised `url`; nothing is read or written yet."""
    if url.startswith("memory://"):
        return MemoryBackend(url.removeprefix("memory://"))
    return LocalBackend(Path(url))
