"""Python values as documents that keep apart what Python keeps apart.

``1``, ``"1"``, ``1.0``, ``True``, ``(1,)`` and ``[1]`` all encode differently. What has no
rule raises `FingerprintError`: nothing falls back to ``repr``, ``hash`` or pickle.

===================  =========================================================
value                document
===================  =========================================================
None, bool, str      itself; text with lone surrogates ``{"str": hex of its UTF-8}``
int                  itself, beyond 64 bits ``{"int": "0x…"}``
float                ``{"float": repr}``; NaN by its bits
complex              ``{"complex": [real, imaginary]}``
bytes                ``{"bytes": [length, digest]}``; likewise bytearray
list                 a list
tuple                ``{"tuple": […]}``; a named one ``{"named": [type, [[field, value], …]]}``
set                  ``{"set": […]}``, sorted by encoding; likewise frozenset
dict                 ``{"dict": [[key, value], …]}``, in its order, which code may follow
range, slice         ``{"range": [start, stop, step]}``, ``{"slice": …}``
ndarray              ``{"array": [dtype, shape, digest]}``; tensor: ``"tensor"``
numpy scalar         ``{"scalar": [dtype, hex of its bytes]}``
dtype                ``{"dtype": name or parts}``; of torch: ``{"torch.dtype": name}``
Enum member          ``{"enum": [type, name, value]}``
type                 ``{"type": name}``; a library's function ``{"function": name}``
dataclass            ``{"dataclass": [type, [[field, value], …]]}``
date, Decimal, ...   ``{"value": [type, parts]}``
castore.File         ``{"file": digest of its content}``
what says itself     ``{"fingerprint": [type, what it says]}``
===================  =========================================================

A type says what identifies its objects by a method ``__castore_fingerprint__()`` that returns a
value with a rule, or somebody says it for the type by `register`.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json, dumps
from castore.digest import identity, identity_hasher
from castore.errors import FingerprintError
from castore.identity.files.contents import File
from castore.identity.incidental import incidental
from castore.identity.libraries import name_in_library, type_name
from castore.identity.protocols import UNSAID, known, said_by

__all__ = ["Encoder", "digest_array", "digest_value", "encode", "type_name"]

_MAX_DEPTH = 200
_USER_DEFINED = 2  # what ``dtype.isbuiltin`` says of types such as those of ml_dtypes


def encode(value: Any, what: str = "value") -> Json:
    """Return the document of `value`.

    Parameters
    ----------
    value : Any
        The value.
    what : str
        How messages call it.

    Raises
    ------
    FingerprintError
        If it, or something in it, has no rule, or it contains itself.
    """
    return Encoder().encode(value, what)


def digest_value(domain: str, value: Any, what: str = "value") -> str:
    """Digest of the document of `value`, 32 hex digits."""
    return identity(domain, dumps(encode(value, what)))


def digest_array(array: arrays.AnyArray) -> str:
    """Digest of the bytes of a little-endian, C-contiguous `array`, 32 hex digits."""
    state = identity_hasher("array")
    state.update(arrays.raw(array))
    return state.hexdigest()


class Encoder:
    """Makes documents of values, and remembers the types it named in them.

    Parameters
    ----------
    named : callable
        What a type is called.
    """

    def __init__(self, named: Callable[[type], str] = type_name) -> None:
        self.kinds: dict[type, None] = {}
        self._named = named
        self._depth = 0

    def encode(self, value: Any, what: str) -> Json:
        """Return the document of `value`, as `castore.identity.values.encode` does."""
        if self._depth > _MAX_DEPTH:
            msg = f"{what[:80]}... is nested more than {_MAX_DEPTH} deep, or contains itself"
            raise FingerprintError(msg)
        self._depth += 1
        try:
            rule = _RULES.get(type(value))
            if rule is None:
                said = said_by(value, what)
                if said is not UNSAID:
                    name = self._named(type(value))
                    return {"fingerprint": [name, self.encode(said, what)]}
                rule = _general_rule(value)
            return rule(self, value, what)
        finally:
            self._depth -= 1

    def name(self, kind: type) -> str:
        """Return what `kind` is called."""
        self.kinds[kind] = None
        return self._named(kind)


_Rule = Callable[[Encoder, Any, str], Json]


def _general_rule(value: Any) -> _Rule:
    """Return the rule for what is known by more than its exact type, most special first."""
    if isinstance(value, File):
        return _file
    for kind, rule in _GENERAL_RULES:
        if isinstance(value, kind):
            return rule
    if arrays.is_tensor(value):
        return _array
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _named_tuple
    if dataclasses.is_dataclass(value):
        return _dataclass
    return _known


def _known(to: Encoder, value: Any, what: str) -> Json:
    """Encode what is told apart by plain values, and functions of libraries."""
    torch = arrays.torch()
    if torch is not None and isinstance(value, torch.dtype):
        return {"torch.dtype": str(value).partition(".")[2]}
    if torch is not None and isinstance(value, torch.Size):
        return {"torch.Size": list(value)}
    found = known(value)
    if found is not None:
        return {"value": [found[0], to.encode(found[1], what)]}
    function = name_in_library(value)
    if function is not None:
        return {"function": function}
    msg = f"{what} is a {type_name(type(value))}, for which castore has no rule"
    raise FingerprintError(msg)


def _file(_to: Encoder, value: File, _what: str) -> Json:
    return {"file": value.digest()}


def _itself(_to: Encoder, value: Any, _what: str) -> Json:
    return value


def _text(_to: Encoder, value: str, _what: str) -> Json:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON would write a pair of surrogates as the character it means
        return {"str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _dtype(dtype: np.dtype[Any]) -> Json:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_dtype(base), list(shape)]
    if dtype.names is not None and dtype.fields is not None:
        # What is left beside a field's type is its offset and, of some, a title.
        return [
            dtype.itemsize,
            [[n, _dtype(dtype.fields[n][0]), *dtype.fields[n][1:]] for n in dtype.names],
        ]
    return dtype.name if dtype.isbuiltin == _USER_DEFINED else dtype.str


def _integer(_to: Encoder, value: int, _what: str) -> Json:
    return value if -(2**63) <= value < 2**64 else {"int": hex(value)}


def _float(_to: Encoder, value: float, _what: str) -> Json:
    text = repr(value) if value == value else f"nan:{struct.pack('>d', value).hex()}"  # noqa: PLR0124
    return {"float": text}


def _complex(to: Encoder, value: complex, what: str) -> Json:
    return {"complex": [_float(to, value.real, what), _float(to, value.imag, what)]}


def _bytes(tag: str) -> _Rule:
    return lambda _to, value, _what: {tag: [len(value), identity("bytes", value)]}


def _sequence(tag: str) -> _Rule:
    def encode_items(to: Encoder, value: Any, what: str) -> Json:
        items = [to.encode(item, f"{what}[{i}]") for i, item in enumerate(value)]
        return {tag: items} if tag else items

    return encode_items


def _set(tag: str) -> _Rule:
    def encode_items(to: Encoder, value: Any, what: str) -> Json:
        items = (to.encode(item, f"an item of {what}") for item in value)
        return {tag: sorted(items, key=dumps)}

    return encode_items


def _dict(to: Encoder, value: dict[Any, Any], what: str) -> Json:
    items = [
        [to.encode(key, f"a key of {what}"), to.encode(item, f"{what}[{key!r}]")]
        for key, item in value.items()
    ]
    return {"dict": items}


def _range(_to: Encoder, value: range, _what: str) -> Json:
    return {"range": [value.start, value.stop, value.step]}


def _slice(to: Encoder, value: slice, what: str) -> Json:
    return {"slice": [to.encode(v, what) for v in (value.start, value.stop, value.step)]}


def _enum(to: Encoder, value: enum.Enum, what: str) -> Json:
    return {"enum": [to.name(type(value)), value.name, to.encode(value.value, what)]}


def _fields(to: Encoder, value: Any, names: list[str], what: str) -> Json:
    fields = [[name, to.encode(getattr(value, name), f"{what}.{name}")] for name in names]
    return [to.name(type(value)), fields]


def _named_tuple(to: Encoder, value: Any, what: str) -> Json:
    return {"named": _fields(to, value, value._fields, what)}


def _dataclass(to: Encoder, value: Any, what: str) -> Json:
    names = [field.name for field in dataclasses.fields(value)]
    more = getattr(value, "__dict__", {}).keys() - set(names)
    if more or incidental(type(value)):  # it is more, or less, than its fields
        msg = f"{what} is a {type_name(type(value))} with attributes beside its fields"
        raise FingerprintError(msg)
    return {"dataclass": _fields(to, value, names, what)}


def _as_array(value: Any, what: str) -> arrays.AnyArray:
    try:
        array = arrays.as_array(value)
    except TypeError as error:
        msg = f"{what}: {error}"
        raise FingerprintError(msg) from error
    assert array is not None
    return array


def _array(to: Encoder, value: Any, what: str) -> Json:
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        items = to.encode(value.tolist(), what)
        return {"array": [value.dtype.kind, list(value.shape), items]}
    array = _as_array(value, what)
    tag = "tensor" if arrays.is_tensor(value) else "array"
    return {tag: [arrays.name_of(array.dtype), list(array.shape), digest_array(array)]}


def _scalar(to: Encoder, value: Any, what: str) -> Json:
    if isinstance(value, (np.str_, np.bytes_)):
        return {"scalar": [value.dtype.kind, to.encode(value.item(), what)]}
    array = _as_array(value, what)
    return {"scalar": [arrays.name_of(array.dtype), array.tobytes().hex()]}


_RULES: dict[type, _Rule] = {
    type(None): _itself,
    bool: _itself,
    str: _text,
    int: _integer,
    float: _float,
    complex: _complex,
    bytes: _bytes("bytes"),
    bytearray: _bytes("bytearray"),
    list: _sequence(""),
    tuple: _sequence("tuple"),
    set: _set("set"),
    frozenset: _set("frozenset"),
    dict: _dict,
    range: _range,
    slice: _slice,
}
#: Rules that hold for subclasses too, most special first.
_GENERAL_RULES: tuple[tuple[type, _Rule], ...] = (
    (enum.Enum, _enum),
    (np.generic, _scalar),
    (np.dtype, lambda _to, value, _what: {"dtype": _dtype(value)}),
    (np.ndarray, _array),
    (type, lambda to, value, _what: {"type": to.name(value)}),
)
