"""From a URL to a backend."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from castore.backend.base import Backend
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.backend.remote import RemoteBackend
from castore.errors import ConfigError, StoreURLError

__all__ = ["normalise", "open_backend"]

#: As S3 has them, and older servers.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def normalise(url: object) -> str:
    """Return `url` so that it means the same place from any folder of this machine.

    Parameters
    ----------
    url : str or path
        A folder, ``file://`` with an absolute path, ``memory://NAME``, or ``s3://BUCKET/PREFIX``.

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
    if scheme[1].lower() == "s3":
        return _bucket(rest, text)
    if scheme[1].lower() == "file":
        host, slash, path = rest.partition("/")
        if slash and host in ("", "localhost") and not set("?#") & set(path):
            return _absolute("/" + unquote(path))
    msg = (
        f"cannot open {text!r}: this castore knows folders, file:///folder, memory://name and "
        "s3://bucket/prefix"
    )
    raise StoreURLError(msg)


def _bucket(rest: str, text: str) -> str:
    """Return an S3 URL without empty parts."""
    parts = rest.strip("/").split("/")
    odd = not all(part.strip(".") for part in parts) or set("?#") & set(rest)
    if odd or not _BUCKET.fullmatch(parts[0]):
        msg = (
            f"{text!r} is no store URL: give s3://bucket/folder, a folder, file:///folder or "
            "memory://name"
        )
        raise StoreURLError(msg)
    return "s3://" + "/".join(parts)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  symlinks stay


def open_backend(url: str, options: Mapping[str, Any] | None = None) -> Backend:
    """Return the backend for a normalised `url`; nothing is read or written yet.

    Parameters
    ----------
    url : str
        As `normalise` returns it.
    options : mapping, optional
        How to reach a bucket: options of ``s3fs.S3FileSystem``.

    Raises
    ------
    ConfigError
        If s3fs is needed and not installed, or there are options for a place that has none.
    """
    if url.startswith("s3://"):
        if importlib.util.find_spec("s3fs") is None:
            msg = f"{url} needs s3fs: pip install 'castore[s3]'"
            raise ConfigError(msg)
        return RemoteBackend(url, options or {})
    if options:
        msg = f"storage_options= says how to reach a bucket; {url} is none"
        raise ConfigError(msg)
    if url.startswith("memory://"):
        return MemoryBackend(url.removeprefix("memory://"))
    return LocalBackend(Path(url))
