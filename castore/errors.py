"""Everything castore raises, as one tree.

::

    CastoreError
    ├── ConfigError            the call or its settings cannot be used as given; change them
    │   └── StoreURLError      this URL names no store castore can open
    ├── FingerprintError       what identifies the input cannot be known; say it (never a guess)
    │   ├── CodeChangedError   the function has other code than when its result was stored
    │   ├── OrderError         which rows the loader gives, or in which order, cannot be known
    │   └── RandomError        the samples are random: a stored result would freeze one draw
    ├── ResultError            what the function returned cannot be stored; ``.result`` has it
    ├── NotFoundError          no entry has that key (also a ``KeyError``)
    ├── CommitError            computed but not published; ``.result`` has the value
    └── StoreError             the store itself
        ├── FormatError        written by a newer castore, or no castore store at all
        ├── ReadOnlyError      the store cannot be written
        ├── BackendError       reading or writing failed below castore (disk, permissions)
        └── DamagedError       stored bytes are missing or not what was stored

Each class has a ``code`` that never changes, for programs. None derives from ``OSError``:
zarr would turn such an error about missing data into fill values.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendError",
    "CastoreError",
    "CastoreWarning",
    "CodeChangedError",
    "CommitError",
    "ConfigError",
    "DamagedError",
    "FingerprintError",
    "FormatError",
    "NotFoundError",
    "OrderError",
    "RandomError",
    "ReadOnlyError",
    "ResultError",
    "StoreError",
    "StoreURLError",
]


class CastoreError(Exception):
    """Base of every error castore raises on purpose."""

    code = "castore"


class ConfigError(CastoreError):
    """The call or its settings cannot be used as given."""

    code = "config"


class StoreURLError(ConfigError):
    """The URL names no store castore can open."""

    code = "store-url"


class FingerprintError(CastoreError):
    """What identifies the input cannot be known, so no key exists for it."""

    code = "fingerprint"


class CodeChangedError(FingerprintError):
    """The function has other code than when the result under its suffix was stored."""

    code = "code"


class OrderError(FingerprintError):
    """Which rows a loader gives, or in which order, cannot be known without running it."""

    code = "order"


class RandomError(FingerprintError):
    """The samples are random: a stored result would freeze one draw of them."""

    code = "random"


class ResultError(CastoreError):
    """What the function returned cannot be stored.

    Attributes
    ----------
    result : Any
        What the function returned.
    partial : bool
        Whether `result` is only what a generator had yielded when it went wrong.
    """

    code = "result"

    def __init__(self, message: str, result: Any = None, *, partial: bool = False) -> None:
        super().__init__(message)
        self.result = result
        self.partial = partial


class NotFoundError(CastoreError, KeyError):
    """No entry, or more than one, has the key or key prefix that was asked for."""

    code = "not-found"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CommitError(CastoreError):
    """The value was computed but could not be published.

    Attributes
    ----------
    result : Any
        The computed value, in the form ``get_or_compute`` would have returned.
    """

    code = "commit"

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class StoreError(CastoreError):
    """Trouble of the store's own."""

    code = "store"


class FormatError(StoreError):
    """The store was written by a newer castore, or the place holds something else."""

    code = "format"


class ReadOnlyError(StoreError):
    """The store cannot be written: opened ``mode="ro"``, or no permission."""

    code = "read-only"


class BackendError(StoreError):
    """Reading or writing failed below castore; the system's error is ``__cause__``."""

    code = "backend"


class DamagedError(StoreError):
    """Stored bytes are missing, or are not the bytes that were stored."""

    code = "damaged"


class CastoreWarning(UserWarning):
    """What castore says once, without stopping: a hazard, or a failure it was told to survive."""
