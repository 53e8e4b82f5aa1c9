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
dict                 ``{"dict": [[key, value], …]}``, sorted by encoded key
range, slice         ``{"range": [start, stop, step]}``, ``{"slice": …}``
ndarray              ``{"array": [dtype, shape, digest]}``; tensor: ``"tensor"``
numpy scalar         ``{"scalar": [dtype, hex of its bytes]}``
dtype                ``{"dtype": name or parts}``; of torch: ``{"torch.dtype": name}``
Enum member          ``{"enum": [type, name, value]}``
type                 ``{"type": name}``; builtin or library function ``{"function": name}``
dataclass            ``{"dataclass": [type, [[field, value], …]]}``
===================  =========================================================
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json, dumps
from castore.digest import identity, identity_hasher
from castore.errors import FingerprintError

__all__ = ["digest_array", "digest_value", "encode", "type_name"]

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
    return _encode(value, what, 0)


def digest_value(domain: str, value: Any, what: str = "value") -> str:
    """Digest of the document of `value`, 32 hex digits."""
    return identity(domain, dumps(encode(value, what)))


def digest_array(array: arrays.AnyArray) -> str:
    """Digest of the bytes of a little-endian, C-contiguous `array`, 32 hex digits."""
    state = identity_hasher("array")
    state.update(arrays.raw(array))
    return state.hexdigest()


def type_name(kind: type) -> str:
    """Name of a type without the module of the script it was defined in."""
    module = "" if kind.__module__ == "__main__" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def _encode(value: Any, what: str, depth: int) -> Json:
    if depth > _MAX_DEPTH:
        msg = f"{what} is nested more than {_MAX_DEPTH} deep, or contains itself"
        raise FingerprintError(msg)
    rule = _RULES.get(type(value))
    if rule is not None:
        return rule(value, what, depth + 1)
    for kind, general in _general_rules():
        if isinstance(value, kind):
            return general(value, what, depth + 1)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _fields("named", value, value._fields, what, depth + 1)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return _fields("dataclass", value, names, what, depth + 1)
    if isinstance(value, types.BuiltinFunctionType) and value.__module__ and not _owner(value):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    msg = f"{what} is a {type_name(type(value))}, for which castore has no rule"
    raise FingerprintError(msg)


_Rule = Callable[[Any, str, int], Json]


def _itself(value: Any, _what: str, _depth: int) -> Json:
    return value


def _text(value: str, _what: str, _depth: int) -> Json:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON would write a pair of surrogates as the character it means
        return {"str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _owner(value: Any) -> object:
    """Return the object a builtin method is bound to, if any."""
    bound = getattr(value, "__self__", None)
    return None if isinstance(bound, types.ModuleType) else bound


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


def _integer(value: int, _what: str, _depth: int) -> Json:
    return value if -(2**63) <= value < 2**64 else {"int": hex(value)}


def _float(value: float, _what: str, _depth: int) -> Json:
    text = repr(value) if value == value else f"nan:{struct.pack('>d', value).hex()}"  # noqa: PLR0124
    return {"float": text}


def _complex(value: complex, what: str, depth: int) -> Json:
    return {"complex": [_float(value.real, what, depth), _float(value.imag, what, depth)]}


def _bytes(tag: str) -> _Rule:
    return lambda value, _what, _depth: {tag: [len(value), identity("bytes", value)]}


def _sequence(tag: str) -> _Rule:
    def encode_items(value: Any, what: str, depth: int) -> Json:
        items = [_encode(item, f"{what}[{i}]", depth) for i, item in enumerate(value)]
        return {tag: items} if tag else items

    return encode_items


def _set(tag: str) -> _Rule:
    def encode_items(value: Any, what: str, depth: int) -> Json:
        items = (_encode(item, f"an item of {what}", depth) for item in value)
        return {tag: sorted(items, key=dumps)}

    return encode_items


def _dict(value: dict[Any, Any], what: str, depth: int) -> Json:
    items = [
        [_encode(key, f"a key of {what}", depth), _encode(item, f"{what}[{key!r}]", depth)]
        for key, item in value.items()
    ]
    return {"dict": sorted(items, key=lambda item: dumps(item[0]))}


def _range(value: range, _what: str, _depth: int) -> Json:
    return {"range": [value.start, value.stop, value.step]}


def _slice(value: slice, what: str, depth: int) -> Json:
    return {"slice": [_encode(v, what, depth) for v in (value.start, value.stop, value.step)]}


def _enum(value: enum.Enum, what: str, depth: int) -> Json:
    return {"enum": [type_name(type(value)), value.name, _encode(value.value, what, depth)]}


def _fields(tag: str, value: Any, names: Iterable[str], what: str, depth: int) -> Json:
    fields = [[name, _encode(getattr(value, name), f"{what}.{name}", depth)] for name in names]
    return {tag: [type_name(type(value)), fields]}


def _as_array(value: Any, what: str) -> arrays.AnyArray:
    try:
        array = arrays.as_array(value)
    except TypeError as error:
        msg = f"{what}: {error}"
        raise FingerprintError(msg) from error
    assert array is not None
    return array


def _array(value: Any, what: str, depth: int) -> Json:
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        items = _encode(value.tolist(), what, depth)
        return {"array": [value.dtype.kind, list(value.shape), items]}
    array = _as_array(value, what)
    tag = "tensor" if arrays.is_tensor(value) else "array"
    return {tag: [arrays.name_of(array.dtype), list(array.shape), digest_array(array)]}


def _scalar(value: Any, what: str) -> Json:
    if isinstance(value, (np.str_, np.bytes_)):
        return {"scalar": [value.dtype.kind, _encode(value.item(), what, 1)]}
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


def _general_rules() -> list[tuple[type, _Rule]]:
    """Rules that hold for subclasses too, most special first."""
    rules: list[tuple[type, _Rule]] = [
        (enum.Enum, _enum),
        (np.generic, lambda value, what, _: _scalar(value, what)),
        (np.dtype, lambda value, _what, _depth: {"dtype": _dtype(value)}),
        (np.ndarray, _array),
        (type, lambda value, _what, _depth: {"type": type_name(value)}),
    ]
    torch = arrays.torch()
    if torch is not None:
        rules += [
            (torch.Tensor, _array),
            (torch.dtype, lambda value, _what, _: {"torch.dtype": str(value).partition(".")[2]}),
            (torch.Size, lambda value, _what, _depth: {"torch.Size": list(value)}),
        ]
    return rules
