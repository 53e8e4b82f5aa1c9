"""From settings to a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from castore import config
from castore.backend.open import normalise
from castore.store import Store

__all__ = ["init", "open"]


def open(  # noqa: A001  castore.open, as the builtin opens files
    url: str | os.PathLike[str] | None = None,
    *,
    mode: Literal["rw", "ro", "off", "refresh"] | None = None,
    on_error: Literal["raise", "compute"] = "raise",
    on_code_change: Literal["warn", "miss", "raise"] = "warn",
    identity: Literal["content", "stat"] = "content",
    verify: Literal["mapped", "always"] = "mapped",
    storage_options: Mapping[str, Any] | None = None,
) -> Store:
    """Open a store; it is made when something is first stored in it.

    Nothing is read or written yet, except that a root that is a file is refused.

    Parameters
    ----------
    url : str or path, optional
        A folder, ``file:///folder``, ``memory://name`` or ``s3://bucket/prefix``. By default
        ``$CASTORE_URL``, then ``url`` of ``castore.toml``, then the user's cache folder.
    mode : {"rw", "ro", "off", "refresh"}, optional
        ``rw`` reads and writes; ``ro`` never writes; ``off`` always computes and touches
        nothing; ``refresh`` always computes and replaces. By default ``$CASTORE_MODE``, then
        ``mode`` of ``castore.toml``, then ``rw``.
    on_error : {"raise", "compute"}
        ``raise``: trouble known before the function runs is raised before it runs; a result
        that cannot be published is in ``CommitError.result``. ``compute``: any trouble of the
        store's own, refusals included, is warned of once, counted, and the function simply run.
    on_code_change : {"warn", "miss", "raise"}
        What becomes of a result stored under a suffix by a function that has other code now:
        it is reused and that is warned of once; it is computed again and replaced; or the call
        raises `CodeChangedError`.
    identity : {"content", "stat"}
        What files of datasets are known by. ``content``: what they contain, read once a machine
        and found again by path, size, times and inode. ``stat``: relative path, size and
        modification time, for corpora too large to read: a copy that loses its times misses, a
        file replaced is not served stale.
    verify : {"mapped", "always"}
        ``mapped`` checks every byte of a mapping once, then hands the mapping out: a disk that
        fails later is beyond it. ``always`` reads a copy into memory and checks that.
    storage_options : mapping, optional
        How to reach a bucket: options of ``s3fs.S3FileSystem``, such as ``key``, ``secret``,
        ``profile``, ``anon`` and ``client_kwargs={"endpoint_url": ...}``. By default credentials
        and endpoint are found as the AWS tools find them.

    Raises
    ------
    ConfigError
        If an option is unknown, or the URL names no store castore can open.
    """
    settings = config.load()
    return Store(
        normalise(url or settings.url or _default_folder()),
        mode=mode or settings.mode or "rw",
        on_error=on_error,
        on_code_change=on_code_change,
        identity=identity,
        verify=verify,
        storage_options=storage_options,
    )


def init(
    url: str | os.PathLike[str] | None = None,
    *,
    digest: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Store:
    """Make a store and choose the digest that names its blobs; return it opened.

    Parameters
    ----------
    url : str or path, optional
        As for `open`.
    digest : {"xxh3-128", "sha256", "blake3"}, optional
        ``xxh3-128`` (the default) finds every accident at the speed of memory. The others also
        stand against somebody who swaps blobs on purpose, and are ten to twenty times slower.
    storage_options : mapping, optional
        As for `open`.

    Raises
    ------
    FormatError
        If there is a store already, with another digest or of a newer format.
    ReadOnlyError, BackendError
        If the place cannot be written.
    """
    store = open(url, storage_options=storage_options)
    store.init(digest)
    return store


def _default_folder() -> str:
    import platformdirs

    return platformdirs.user_cache_dir("castore", appauthor=False)
