"""Derivations as a person reads them: the way back from `castore.identity.values`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json
from castore.errors import CastoreError

__all__ = ["last", "readable"]

#: Of a digest that only tells one thing from another.
_DIGITS = 8


def readable(document: Json) -> str:
    """Return a document as Python would write the value it stands for.

    ``{"tuple": [1, {"float": "2.5"}]}`` is ``(1, 2.5)``. What is kept only as a digest is named
    by the first digits of it: ``<array float32 (6, 2) 0f3a5c1e>``. Any other document is written
    as what it is.
    """
    if isinstance(document, dict):
        if len(document) == 1:
            ((tag, content),) = document.items()
            if tag in _RULES:
                try:
                    return _RULES[tag](content)
                except (CastoreError, AttributeError, LookupError, TypeError, ValueError):
                    return json.dumps(document)
        return "{" + ", ".join(f"{name}: {readable(v)}" for name, v in document.items()) + "}"
    if isinstance(document, list):
        return f"[{_listed(document)}]"
    return repr(document)


def _listed(items: list[Json]) -> str:
    return ", ".join(readable(item) for item in items)


def _float(content: str) -> str:
    return "nan" if content.startswith("nan:") else content


def _complex(content: list[dict[str, str]]) -> str:
    real, imaginary = (_float(part["float"]) for part in content)
    return f"complex({real}, {imaginary})"


def _tuple(content: list[Json]) -> str:
    return f"({_listed(content)}{',' if len(content) == 1 else ''})"


def _set(content: list[Json]) -> str:
    return f"{{{_listed(content)}}}" if content else "set()"


def _frozenset(content: list[Json]) -> str:
    return f"frozenset({_set(content) if content else ''})"


def _text(content: str) -> str:
    return repr(bytes.fromhex(content).decode("utf-8", "surrogatepass"))


def _dict(content: list[list[Json]]) -> str:
    return "{" + ", ".join(f"{readable(key)}: {readable(value)}" for key, value in content) + "}"


def _call(name: str) -> Callable[[list[Json]], str]:
    return lambda content: f"{name}({_listed(content)})"


def _digested(name: str) -> Callable[[list[Json]], str]:
    def write(content: list[Json]) -> str:
        kind, shape, digest = content
        if not isinstance(digest, str):  # an array of strings is kept whole
            return f"{name}({readable(digest)})"
        return f"<{name} {kind} {tuple(shape)} {digest[:_DIGITS]}>"

    return write


def _bytes(content: list[Json]) -> str:
    length, digest = content
    return f"<{length:,} bytes {digest[:_DIGITS]}>"


def _one(name: str) -> Callable[[str], str]:
    return lambda digest: f"<{name} {digest[:_DIGITS]}>"


def _dataset(content: Any) -> str:
    if isinstance(content, dict):  # held by what it consists of
        level = content["same"]
        return "<the dataset itself>" if level == 0 else f"<the dataset {level} levels up>"
    length, digest = content
    return f"<dataset of {length:,} samples {digest[:_DIGITS]}>"


def _loader(content: dict[str, Any]) -> str:
    length, digest = content["rows"]
    size = readable(content["variant"]["batch_size"])
    return f"<loader of {length:,} samples {digest[:_DIGITS]}, batch_size={size}>"


def _scalar(content: list[Json]) -> str:
    kind, value = content
    if kind in "SU":
        return readable(value)
    number = np.frombuffer(bytes.fromhex(value), arrays.dtype_named(kind))
    return f"{kind}({number[0]})"


def last(name: str) -> str:
    """Return the name of a type or function without its module."""
    return name.rpartition(".")[2]


def _enum(content: list[str]) -> str:
    return f"{last(content[0])}.{content[1]}"


def _known(content: list[Any]) -> str:
    kind, parts = content
    return f"{last(kind)}({_listed(parts) if isinstance(parts, list) else readable(parts)})"


def _said(content: list[Any]) -> str:
    return f"<{last(content[0])} {readable(content[1])}>"


def _fields(content: list[Any]) -> str:
    fields = ", ".join(f"{name}={readable(value)}" for name, value in content[1])
    return f"{last(content[0])}({fields})"


_RULES: dict[str, Callable[[Any], str]] = {
    "array": _digested("array"),
    "bytearray": lambda content: f"bytearray({_bytes(content)})",
    "bytes": _bytes,
    "complex": _complex,
    "dataclass": _fields,
    "dataset": _dataset,
    "dict": _dict,
    "dtype": str,
    "enum": _enum,
    "file": _one("file"),
    "fingerprint": _said,
    "float": _float,
    "frozenset": _frozenset,
    "function": str,
    "int": lambda content: str(int(content, 16)),
    "loader": _loader,
    "model": _one("model"),
    "named": _fields,
    "range": _call("range"),
    "same": lambda content: f"<same as {content}>",
    "scalar": _scalar,
    "set": _set,
    "slice": _call("slice"),
    "str": _text,
    "tensor": _digested("tensor"),
    "torch.Size": lambda content: f"torch.Size({readable(content)})",
    "torch.dtype": lambda content: f"torch.{content}",
    "tuple": _tuple,
    "type": str,
    "value": _known,
}
