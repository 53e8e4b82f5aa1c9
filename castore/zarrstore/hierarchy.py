"""A folder in plain Zarr v3 form, looked over: what is there, what is not, and that it is whole."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from castore.canonical import Json, dumps
from castore.errors import ResultError

__all__ = ["Hierarchy", "look_over"]

#: Chunks of one array that are named each if they are absent; more are named together.
_NAMED = 1000
_METADATA = "zarr.json"
_OLD = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
#: What zarr-python leaves beside a chunk when it is killed while it writes one.
_LEFT_OVER = re.compile(r".*\.[0-9a-f]{32}\.partial")


@dataclass(frozen=True)
class Hierarchy:
    """What a folder holds.

    Attributes
    ----------
    root : {"group", "array"}
        What the root is.
    metadata : dict
        Every ``zarr.json`` (`castore.table.keymap.KeyMap`).
    chunks : dict of str to Path
        Every other file, by Zarr key.
    absent : tuple of str
        Chunks within the grids of the arrays that are not there (`castore.table.keymap.KeyMap`).
    """

    root: Literal["group", "array"]
    metadata: dict[str, Json]
    chunks: dict[str, Path]
    absent: tuple[str, ...]


def look_over(folder: Path) -> Hierarchy:
    """Return what the Zarr hierarchy in `folder` holds.

    Raises
    ------
    ResultError
        If it is none of Zarr v3: no ``zarr.json`` at its root, one that cannot be read, a node of
        Zarr v2, or a file that is no file or has no name in Unicode.
    """
    files = dict(sorted(_files(folder)))
    nodes: dict[str, dict[str, Any]] = {}
    metadata: dict[str, Json] = {}
    for key in [key for key in files if key.rpartition("/")[2] == _METADATA]:
        text, document = _read_metadata(files.pop(key), key, folder)
        nodes[key.removesuffix(_METADATA).rstrip("/")] = document
        metadata[key] = document if _is_canonical(text) else text
    if "" not in nodes:
        msg = f"{folder} is no Zarr v3 hierarchy: it has no zarr.json at its root{_hint(files)}"
        raise ResultError(msg)
    if old := [key for key in files if key.rpartition("/")[2] in _OLD]:
        msg = f"{folder}: {old[0]} is of Zarr v2, which castore does not keep: convert it to v3"
        raise ResultError(msg)
    arrays = {path: node for path, node in nodes.items() if node["node_type"] == "array"}
    keys = list(files)
    absent = [key for path, node in arrays.items() for key in _absent(path, node, keys, files)]
    return Hierarchy(nodes[""]["node_type"], metadata, files, tuple(absent))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below `folder` by its Zarr key; links count as what they lead to."""
    todo = [folder]
    while todo:
        place = todo.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            msg = f"{place} cannot be listed: {error.strerror}"
            raise ResultError(msg) from error
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif not _LEFT_OVER.fullmatch(entry.name):
                yield _key(path, folder), path


def _key(path: Path, folder: Path) -> str:
    key = path.relative_to(folder).as_posix()
    try:
        key.encode()
        regular = stat.S_ISREG(path.stat().st_mode)
    except UnicodeEncodeError as error:
        msg = f"{folder}: {key!r} has no name in Unicode, as Zarr keys have: rename it"
        raise ResultError(msg) from error
    except OSError as error:
        msg = f"{folder}: {key!r} cannot be read: {error.strerror}"
        raise ResultError(msg) from error
    if not regular:
        msg = f"{folder}: {key!r} is no file and no folder: a Zarr hierarchy is made of those"
        raise ResultError(msg)
    return key


def _read_metadata(path: Path, key: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return a ``zarr.json``, as it is written and as it is meant."""
    try:
        text = path.read_bytes().decode()
        document = json.loads(text)
        known = document["zarr_format"] == 3 and document["node_type"] in ("group", "array")  # noqa: PLR2004
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        msg = f"{folder}: {key} is no Zarr metadata ({type(error).__name__}: {error!s:.80})"
        raise ResultError(msg) from error
    except OSError as error:
        msg = f"{folder}: {key} cannot be read: {error.strerror}"
        raise ResultError(msg) from error
    if not known:
        msg = (
            f"{folder}: {key} is of Zarr {document['zarr_format']!r} and of a "
            f"{document['node_type']!r}; castore keeps groups and arrays of Zarr 3"
        )
        raise ResultError(msg)
    return text, document


def _is_canonical(text: str) -> bool:
    """Tell whether the canonical form of a document without floats is just this text."""

    def refuse(number: str) -> Any:
        raise ValueError(number)

    try:
        document = json.loads(text, parse_float=refuse, parse_constant=refuse)
        return dumps(document) == text.encode()
    except (ValueError, RecursionError):
        return False


def _hint(files: dict[str, Path]) -> str:
    return "; it is of Zarr v2: convert it first" if any(name in files for name in _OLD) else ""


def _absent(
    path: str, node: dict[str, Any], keys: Sequence[str], files: Container[str]
) -> Sequence[str]:
    """Return the chunks of an array that are not there: each, or all at once where many are.

    Parameters
    ----------
    path : str
        Of the array.
    node : dict
        Its metadata.
    keys : sequence of str
        The keys of all files, sorted.
    files : container of str
        The same.
    """
    folder = f"{path}/" if path else ""
    try:
        encoding = node["chunk_key_encoding"]
        default = encoding["name"] == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
        grid = node["chunk_grid"]["configuration"]["chunk_shape"]
        extents = [-(-n // step) for n, step in zip(node["shape"], grid, strict=True)]
        regular = node["chunk_grid"]["name"] == "regular"
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        regular = False  # another grid than those there were when this was written
    prefix = f"{folder}c{separator}" if regular and default and extents else folder
    if not regular:
        return [folder or "/"]
    present = bisect_left(keys, prefix + "\U0010ffff") - bisect_left(keys, prefix)
    if math.prod(extents) - present > _NAMED:
        return [prefix if prefix.endswith("/") else folder or "/"]
    if not extents:
        names = [f"{folder}c" if default else f"{folder}0"]
    else:
        indices = itertools.product(*map(range, extents))
        names = [prefix + separator.join(map(str, index)) for index in indices]
    return [name for name in names if name not in files]
