"""``castore://`` URLs: the entries of a store as a read-only file system of fsspec's.

fsspec finds the class by its entry point, so whatever takes fsspec URLs (zarr, xarray, dask) takes
these: ``castore://<first digits of a key>/<Zarr key>``.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.utils import tokenize

from castore import catalog, opening
from castore.backend.open import open_backend
from castore.blobs import layout
from castore.errors import NotFoundError, ReadOnlyError
from castore.table.values import Values

__all__ = ["CastoreFileSystem"]

#: What fsspec says about a path: name, size, type, and when it was published.
_Info: TypeAlias = dict[str, Any]

_READING = ("r", "rb")


@dataclass(frozen=True)
class _Found:
    """An entry that was looked up."""

    values: Values
    created: datetime | None


class CastoreFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The entries of one store: a folder each, named by its key, with its Zarr keys below.

    Reads are checked (`castore.table.values.Values`): what is missing or not what was stored raises
    `castore.errors.DamagedError`, which no reader takes for an absent file. What is not there, an
    unknown or ambiguous first part included, is a ``FileNotFoundError``. Whatever writes raises
    `castore.errors.ReadOnlyError`, which is no ``OSError``, whether or not there is anything to do:
    fsspec's own tests of writing file systems do not apply.

    A path may begin with the first digits of a key, as long as they are unique; the paths below
    are then spelled so too. Listings are read anew each time. An entry, though, is looked up once:
    under the digits that were asked for it stays the same for the life of the instance, whatever
    becomes of it in the store, until `invalidate_cache`. Instances are not shared by fsspec, so
    that every ``fsspec.open`` looks again. An instance can be pickled, and used from several
    threads and after a fork; it holds no connection and no lock.

    Parameters
    ----------
    store : str or path, optional
        What `castore.open` takes as `url`, with the same default. It is opened read-only.
    store_options : mapping, optional
        What `castore.open` takes as `storage_options`.
    **options
        What fsspec gives to all file systems.

    Raises
    ------
    StoreURLError
        If the URL names no store castore can open.
    """

    protocol = "castore"
    cachable = False

    def __init__(
        self, store: str | os.PathLike[str] | None = None,
        store_options: Mapping[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        self.url = opening.open(store, mode="ro", storage_options=store_options).url
        self._backend = open_backend(self.url, store_options)
        self._found: dict[str, _Found] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it elsewhere, of the same store whatever the settings are there."""
        return _make, (type(self), self.url, self.storage_options)

    @property
    def fsid(self) -> str:
        """What tells it from the file systems of other stores."""
        return f"castore_{self.url}"

    @property
    def _fs_token(self) -> str:
        return str(tokenize(self.fsid))  # the same in every thread and process

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return super()._strip_protocol(path).lstrip("/")

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the entries that were looked up, or the one of `path`."""
        super().invalidate_cache(path)
        if path is None:
            self._found.clear()
        else:
            self._found.pop(_parts(self._strip_protocol(path))[0], None)

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        """List the entries of the store, or what is right below `path`.

        Damaged entries are listed too: what they are is not looked at.

        Parameters
        ----------
        path : str
            ``""`` for the store.
        detail : bool
            Say all about each, as `info`; else names only.

        Raises
        ------
        FileNotFoundError
            If there is nothing at `path`.
        DamagedError
            If the entry's manifest is damaged.
        """
        path = self._strip_protocol(path)
        found = self._below(path) if path else self._entries()
        return list(found) if detail else [info["name"] for info in found]

    def info(self, path: str, **_options: Any) -> _Info:
        """Return name, size, type (file or directory) and time of what is at `path`.

        By the entry's manifest: no file is read. ``created`` is left out where nobody knows.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        DamagedError
            If the entry's manifest is damaged.
        """
        path = self._strip_protocol(path)
        if not path:
            return _info("", None, None)
        prefix, key = _parts(path)
        found = self._look_up(prefix)
        size = found.values.size(key)
        if size is None and not _has_below(found.values.keys, key):
            raise FileNotFoundError(path)
        return _info(path, size, found.created)

    def exists(self, path: str, **_options: Any) -> bool:
        """Tell whether there is something at `path`.

        Raises
        ------
        DamagedError
            If the entry's manifest is damaged: that is not absence.
        """
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        """Tell whether there is a file at `path`; raises as `exists` does."""
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def created(self, path: str) -> datetime:
        """Return when the entry of `path` was published, by the server's clock.

        Raises
        ------
        FileNotFoundError
            If there is nothing at `path`, or it was removed meanwhile.
        """
        found: datetime | None = self.info(path).get("created")
        if found is None:
            raise FileNotFoundError(path)
        return found

    def modified(self, path: str) -> datetime:
        """Return the same: an entry never changes."""
        return self.created(path)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_options: Any
    ) -> bytes:
        """Return what is at `path`, or a part of it; only the parts of a blob it lies in are read.

        Parameters
        ----------
        path : str
            A file.
        start, end : int, optional
            As of a Python slice: from the end where negative.

        Raises
        ------
        FileNotFoundError
            If there is nothing: of a chunk, if it was left out on purpose.
        IsADirectoryError
            If it is a directory.
        DamagedError
            If it is missing or not what was stored, or is below an array and neither there nor
            left out.
        """
        values, key = self._file(self._strip_protocol(path))
        first, last, _ = slice(start, end).indices(values.size(key) or 0)
        return bytes(values.read(key, first, last) or b"")

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any
    ) -> Any:
        """Return what is at one or more paths; with `recursive`, all files below directories."""
        if recursive:
            path = [one for one in self.expand_path(path, recursive=True) if self.isfile(one)]
        return super().cat(path, on_error=on_error, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _File:
        if mode not in _READING:
            self._refuse(path)
        self._file(path)
        # Blobs are mapped: reading ahead would copy what nobody asked for.
        return _File(self, path, mode, **{"cache_type": "none", **options})

    def _refuse(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Refuse to write.

        Raises
        ------
        ReadOnlyError
            Always.
        """
        msg = (
            f"{self.protocol}:// reads entries of {self.url}, which are immutable: write into "
            "store.zarr_store() and commit that as another entry"
        )
        raise ReadOnlyError(msg)

    mkdir = makedirs = rmdir = touch = _refuse
    pipe = pipe_file = put = put_file = _refuse
    copy = cp_file = mv = rm = rm_file = _rm = _refuse

    def _entries(self) -> Iterator[_Info]:
        for one in self._backend.list(layout.TABLES):
            if key := layout.key_of(one.name):
                yield _info(key, None, datetime.fromtimestamp(one.modified, UTC))

    def _below(self, path: str) -> Iterator[_Info]:
        """Yield what is right below `path`, by name; where that is a file, itself."""
        prefix, folder = _parts(path)
        found = self._look_up(prefix)
        size, keys = found.values.size(folder), found.values.keys
        if size is not None:
            yield _info(path, size, found.created)
            return
        names = _children(keys, folder)
        if not names:
            raise FileNotFoundError(path)
        for name in names:
            size = found.values.size(f"{folder}/{name}" if folder else name)
            yield _info(f"{path}/{name}", size, found.created)

    def _file(self, path: str) -> tuple[Values, str]:
        """Return the entry of a file, and the Zarr key.

        Raises
        ------
        FileNotFoundError, IsADirectoryError, DamagedError
            As `cat_file` does.
        """
        prefix, key = _parts(path)
        values = self._look_up(prefix).values if prefix else None
        if values is None or _is_folder(values, key):
            raise IsADirectoryError(path)
        if key not in values and values.read(key) is None:  # which raises, where it ought to be
            raise FileNotFoundError(path)
        return values, key

    def _look_up(self, prefix: str) -> _Found:
        found = self._found.get(prefix)
        if found is None:
            try:
                entry = catalog.find(self._backend, prefix)
            except NotFoundError as error:
                raise FileNotFoundError(str(error)) from error
            seen = catalog.created(entry)
            known = None if seen != seen else datetime.fromtimestamp(seen, UTC)  # noqa: PLR0124  NaN
            found = self._found[prefix] = _Found(Values(entry), known)
        return found


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is open for reading."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = self.fs.cat_file(self.path, start, end)
        return found


def _make(kind: type[CastoreFileSystem], url: str, options: dict[str, Any]) -> CastoreFileSystem:
    return kind(**{**options, "store": url})


def _info(name: str, size: int | None, created: datetime | None) -> _Info:
    kind = "directory" if size is None else "file"
    times = {} if created is None else {"created": created}
    return {"name": name, "size": size or 0, "type": kind, **times}


def _parts(path: str) -> tuple[str, str]:
    """Return the first digits of a key, and the Zarr key below."""
    prefix, _, key = path.partition("/")
    return prefix, key


def _is_folder(values: Values, key: str) -> bool:
    return key not in values and _has_below(values.keys, key)


def _has_below(keys: Sequence[str], folder: str) -> bool:
    """Tell whether some of sorted `keys` are below `folder`."""
    start = f"{folder}/" if folder else ""
    place = bisect_left(keys, start)
    return place < len(keys) and keys[place].startswith(start)


def _children(keys: Sequence[str], folder: str) -> list[str]:
    """Return the names right below `folder`, each once, in order of `keys`, which are sorted."""
    start = f"{folder}/" if folder else ""
    last = bisect_left(keys, f"{start}\U0010ffff")
    names = (key[len(start) :].partition("/")[0] for key in keys[bisect_left(keys, start) : last])
    return list(dict.fromkeys(names))
