"""The form of a result: containers, and what hangs in them.

A result is taken apart into *leaves* (arrays, kept as columns) and a *form* (a document, kept
in the manifest), and put together again from both. So a miss and a hit return the same thing:
both come out of `assemble`.

A form is one of ``{"array": column}``, ``{"scalar": column}``, ``{"strings": [values, offsets]}``,
``{"numbers": column, "of": "int" | "float" | "bool"}``, ``{"value": …}`` for None, booleans,
integers, floats (as text) and strings, or a container: ``{"tuple": […]}``, ``{"list": […]}``,
``{"named": {"type": "module:Name", "fields": […], "items": […]}}``, ``{"dict": [[key, form], …]}``.

``{"zarr": "group" | "array"}`` is no result but a Zarr hierarchy, with a root of that kind: it has
no columns, and is read through `castore.zarrstore`.
"""

from __future__ import annotations

import collections
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from castore import arrays
from castore.arrays import AnyArray
from castore.canonical import Json
from castore.errors import DamagedError
from castore.table.column import column_name

__all__ = ["Parts", "Unstorable", "assemble", "columns_of", "take_apart"]

_Path = tuple[str | int, ...]
#: What can go wrong where a form was not made by `take_apart`.
_MISMATCH = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_INT64 = range(-(2**63), 2**63)
_KINDS = (
    "array", "scalar", "strings", "numbers", "value", "tuple", "list", "named", "dict", "zarr",
)  # fmt: skip


class Unstorable(Exception):  # noqa: N818  internal: the store turns it into ResultError
    """A part of a result castore has no form for; the text says which and what to do."""


@dataclass(frozen=True)
class Parts:
    """A result taken apart.

    Attributes
    ----------
    form : Json
        How it is put together.
    columns : dict[str, ndarray]
        Its arrays by column name, in order.
    """

    form: Json
    columns: dict[str, AnyArray]


def take_apart(result: Any, rows: int | None = None) -> Parts:
    """Take `result` apart.

    Parameters
    ----------
    result : Any
        An array, a tensor, or a container of them.
    rows : int, optional
        Number of samples it was computed over: tells a list of arrays from rows not yet joined.

    Raises
    ------
    Unstorable
        If it has a part castore cannot keep.
    """
    columns: dict[str, AnyArray] = {}

    def keep(path: _Path, array: AnyArray) -> str:
        name = column_name(path, set(columns))
        columns[name] = array
        return name

    try:
        return Parts(_Taking(rows, keep).form(result, ()), columns)
    except RecursionError as error:
        msg = "what it returned is nested too deep, or contains itself"
        raise Unstorable(msg) from error


@dataclass(frozen=True)
class _Taking:
    """One walk through a result."""

    rows: int | None
    keep: Callable[[_Path, AnyArray], str]

    def form(self, value: Any, path: _Path) -> Json:
        try:
            array = arrays.as_array(value)
        except TypeError as error:
            raise Unstorable(f"{_place(path)}: {error}") from error
        if array is not None:
            return {"scalar" if isinstance(value, np.generic) else "array": self.keep(path, array)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": _literal(value)}
        if isinstance(value, Mapping):
            items = [[_key(key, path), self.form(value[key], (*path, key))] for key in value]
            return {"dict": items}
        if isinstance(value, tuple):
            return self.tuple_form(value, path)
        if isinstance(value, list):
            return self.list_form(value, path)
        if hasattr(value, "dtype") and hasattr(value, "to_numpy"):
            msg = f"{_place(path)} is a {type(value).__name__}: return .to_numpy() of it"
            raise Unstorable(msg)
        msg = (
            f"{_place(path)} is a {type(value).__module__}.{type(value).__qualname__}: return "
            "arrays, tensors, numbers, lists of strings, or tuples, lists and dicts of them"
        )
        raise Unstorable(msg)

    def tuple_form(self, value: tuple[Any, ...], path: _Path) -> Json:
        fields = getattr(value, "_fields", None)
        names = fields if fields is not None else range(len(value))
        items = [self.form(item, (*path, name)) for name, item in zip(names, value, strict=True)]
        if fields is None:
            return {"tuple": items}
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"named": {"fields": list(fields), "items": items, "type": kind}}

    def list_form(self, value: list[Any], path: _Path) -> Json:
        kinds = {type(item) for item in value}
        if value and all(isinstance(item, str) for item in value):
            values, offsets = _pack_strings(value)
            names = self.keep((*path, "values"), values), self.keep((*path, "offsets"), offsets)
            return {"strings": list(names)}
        if kinds in ({int}, {float}, {bool}) and (kinds != {int} or _fit(value)):
            kind = kinds.pop()
            array = np.array(value, {int: "<i8", float: "<f8", bool: "?"}[kind])
            return {"numbers": self.keep(path, array), "of": kind.__name__}
        _refuse_unjoined(value, self.rows, path)
        return {"list": [self.form(item, (*path, index)) for index, item in enumerate(value)]}


def _fit(numbers: list[int]) -> bool:
    return min(numbers) in _INT64 and max(numbers) in _INT64


def _refuse_unjoined(value: list[Any], rows: int | None, path: _Path) -> None:
    """Refuse what a loop leaves behind: one array a batch, or one item a row, not yet joined."""
    extents = [_extent(item) for item in value]
    if rows is None or len(value) < 2 or all(extent == rows for extent in extents):  # noqa: PLR2004
        return
    tensors = any(arrays.is_tensor(item) for item in value)
    if None not in extents and sum(filter(None, extents)) == rows:
        what = f"{len(value):,} arrays, one a batch"
        how = "torch.cat(...) of them" if tensors else "np.concatenate(...) of them"
    elif len(value) == rows and None not in extents and len({item.shape for item in value}) == 1:
        what = f"{rows:,} arrays, one a row"
        how = "torch.stack(...) of them" if tensors else "np.stack(...) of them"
    elif len(value) == rows and any(extent is not None for extent in extents):
        what = f"{rows:,} arrays, one a row and of differing shape"
        how = "one padded array, or one array of all values and one of offsets"
    elif len(value) == rows and all(isinstance(item, Mapping) for item in value):
        what = f"{rows:,} dicts, one a row"
        how = "one dict of arrays with all rows"
    else:
        return
    msg = f"{_place(path)} is a list of {what}: return {how}, or yield them"
    raise Unstorable(msg)


def _extent(item: Any) -> int | None:
    """Length of the first axis of an array; None for anything else."""
    if isinstance(item, np.ndarray) or arrays.is_tensor(item):
        return int(item.shape[0]) if item.ndim else 1
    return None


def _place(path: _Path) -> str:
    return "what it returned" + "".join(f"[{part!r}]" for part in path)


def _literal(value: Any) -> Json:
    """Wrap what JSON would not return as it was; subclasses become what they derive from."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return {"float": float.hex(value)}
    number = int.__int__(value)
    return number if number in _INT64 else {"int": str(number)}


def _key(key: Any, path: _Path) -> Json:
    if isinstance(key, (bool, int, float, str)):
        return _literal(key)
    msg = f"{_place(path)} has the key {key!r}: keys are strings or numbers"
    raise Unstorable(msg)


def _pack_strings(strings: list[str]) -> tuple[AnyArray, AnyArray]:
    try:
        encoded = [text.encode() for text in strings]
    except UnicodeEncodeError as error:
        msg = f"a string that is not Unicode text cannot be kept: {error.object!r}"
        raise Unstorable(msg) from error
    offsets = np.zeros(len(encoded) + 1, "<i8")
    np.cumsum([len(data) for data in encoded], out=offsets[1:])
    return np.frombuffer(bytearray().join(encoded), np.uint8), offsets


def columns_of(form: Json) -> Iterator[str]:
    """Yield the names of the columns that `form` puts together.

    Raises
    ------
    DamagedError
        If `form` is none that `take_apart` makes.
    """
    try:
        yield from _columns(form)
    except _MISMATCH as error:
        msg = f"the form of the result is unknown ({type(error).__name__})"
        raise DamagedError(msg) from error


def _columns(form: Json) -> Iterator[str]:
    kind = _kind(form)
    if kind in ("array", "scalar", "numbers"):
        yield _name(form[kind])
    elif kind == "strings":
        values, offsets = form[kind]
        yield from (_name(values), _name(offsets))
    elif kind in ("tuple", "list", "named", "dict"):
        for item in _items(form, kind):
            yield from _columns(item)


def _name(column: object) -> str:
    if not isinstance(column, str):
        msg = f"no column name: {column!r:.80}"
        raise TypeError(msg)
    return column


def _kind(form: Json) -> str:
    (kind,) = (name for name in _KINDS if name in form)
    return kind


def _items(form: Json, kind: str) -> list[Json]:
    if kind == "dict":
        return [item for _, item in form[kind]]
    found: list[Json] = form[kind]["items"] if kind == "named" else form[kind]
    return found


def assemble(form: Json, columns: Mapping[str, AnyArray], leaf: Callable[[AnyArray], Any]) -> Any:
    """Put a result together.

    Parameters
    ----------
    form : Json
        As `take_apart` made it.
    columns : mapping
        The arrays it names.
    leaf : callable
        What turns a numpy array into the caller's kind of array.

    Raises
    ------
    DamagedError
        If `form` and `columns` do not belong together.
    """
    try:
        return _assemble(form, columns, leaf)
    except _MISMATCH as error:
        msg = f"the result cannot be put together from its parts: {error}"
        raise DamagedError(msg) from error


def _assemble(form: Json, columns: Mapping[str, AnyArray], leaf: Callable[[AnyArray], Any]) -> Any:
    kind = _kind(form)
    if kind == "array":
        return leaf(columns[form[kind]])
    if kind == "scalar":
        return columns[form[kind]][()]
    if kind == "value":
        return _unwrap(form[kind])
    if kind == "numbers":
        return columns[form[kind]].tolist()
    if kind == "strings":
        values, offsets = (columns[name] for name in form[kind])
        data = values.tobytes()
        return [data[a:b].decode() for a, b in itertools.pairwise(offsets.tolist())]
    if kind == "zarr":
        msg = "a Zarr hierarchy is read through zarr"
        raise TypeError(msg)
    items = [_assemble(item, columns, leaf) for item in _items(form, kind)]
    if kind == "dict":
        return {_unwrap(key): item for (key, _), item in zip(form[kind], items, strict=True)}
    if kind == "named":
        return _named_tuple(form[kind])._make(items)
    return items if kind == "list" else tuple(items)


def _unwrap(literal: Json) -> Any:
    if isinstance(literal, dict):
        return float.fromhex(literal["float"]) if "float" in literal else int(literal["int"])
    return literal


def _named_tuple(spec: Json) -> Any:
    """Return the named tuple type of `spec`: the user's where it is loaded, else an equal one.

    Nothing is imported: a store must not choose what code runs.
    """
    module, _, qualified = spec["type"].partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, "__dict__", {}).get(part)  # no __getattr__ of anybody's runs
    fields = tuple(spec["fields"])
    if isinstance(found, type) and issubclass(found, tuple) and _fields(found) == fields:
        return found
    name = qualified.rpartition(".")[2]
    made: Any = collections.namedtuple(name, fields, rename=True)  # type: ignore[misc]  # noqa: PYI024
    if made._fields != fields:
        msg = f"no fields of a named tuple: {fields!r:.200}"
        raise ValueError(msg)
    return made


def _fields(kind: type) -> Any:
    return getattr(kind, "_fields", None)
