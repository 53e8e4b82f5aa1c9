"""What says of itself, or has been said, what identifies it.

A type has a method ``__castore_fingerprint__()`` that returns a value castore has a rule for, or
somebody registers a function for the type. A few types of Python's and of libraries are known
here by the same means: by a plain value that tells one from another.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import inspect
import operator
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from castore.canonical import Json
from castore.errors import ConfigError, FingerprintError

__all__ = ["UNSAID", "add_whole", "as_whole", "known", "register_fingerprint", "said_by"]

_Says: TypeAlias = Callable[[Any], Any]
_Whole: TypeAlias = Callable[[Any], Json]

_registered: dict[type, _Says] = {}
_wholes: list[_Whole] = []
#: Types that have a rule of their own, which nobody can take from them.
_PLAIN = frozenset(
    [type(None), bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set,
     slice, str, tuple]
)  # fmt: skip
#: What `said_by` returns of a value whose type says nothing.
UNSAID = object()


def register_fingerprint(kind: type[Any], function: Callable[[Any], Any]) -> None:
    """Say what identifies the objects of a type, and of its subclasses.

    Parameters
    ----------
    kind : type
        The type. A later call for it replaces an earlier one.
    function : callable
        Called with an object of the type; returns a value castore has a rule for: numbers,
        text, arrays, containers of them. Equal values mean equal objects, in every process.

    Raises
    ------
    ConfigError
        If `kind` is no type, or `function` not callable.

    Examples
    --------
    >>> import castore, fractions
    >>> castore.register_fingerprint(fractions.Fraction, lambda f: (f.numerator, f.denominator))
    """
    if not (inspect.isclass(kind) and callable(function)):
        msg = f"register_fingerprint({kind!r:.80}, {function!r:.80}): give a type and a function"
        raise ConfigError(msg)
    if kind in _PLAIN:
        msg = f"register_fingerprint({kind.__name__}, ...): a {kind.__name__} is what it holds"
        raise ConfigError(msg)
    _registered[kind] = function


def said_by(value: Any, what: str) -> Any:
    """Return what `value` says identifies it, or `UNSAID`.

    Raises
    ------
    FingerprintError
        If saying it fails.
    """
    says = next(filter(None, map(_speaker, type(value).__mro__)), None)
    if says is None:
        return UNSAID
    try:
        return says(value)
    except Exception as error:
        name = getattr(says, "__qualname__", says)
        msg = f"{what}: {name} raised {type(error).__name__}: {error}"
        raise FingerprintError(msg) from error


def _speaker(kind: type) -> _Says | None:
    """Return what says it for the objects of one type, whatever its bases do."""
    return _registered.get(kind) or vars(kind).get("__castore_fingerprint__")


def add_whole(rule: _Whole) -> _Whole:
    """Let `rule` describe datasets, or loaders, that are held as values.

    It returns a document, None for what is neither, or raises `FingerprintError`. A decorator:
    what describes them stands on the walk through functions and objects, which meets them.
    """
    _wholes.append(rule)
    return rule


def as_whole(value: Any) -> Json:
    """Return the document of a dataset or a loader, None of anything else."""
    for rule in _wholes:
        found = rule(value)
        if found is not None:
            return found
    return None


def _datetime(value: dt.datetime) -> Any:
    return [value.isoformat(), value.fold]


def _picture(value: Any) -> Any:
    palette = value.palette and [value.palette.mode, value.palette.palette]
    transparency = value.info.get("transparency")
    return [value.mode, value.size, value.tobytes(), palette, transparency]


def _added_token(value: Any) -> Any:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [value.content, *(getattr(value, flag) for flag in flags)]


def _frame(value: Any) -> Any:
    columns = [(name, column.to_numpy()) for name, column in value.items()]
    return [value.index.to_numpy(), list(value.index.names), columns]


#: Types of Python's by what tells their objects apart.
_KNOWN: dict[type, _Says] = {
    dt.date: dt.date.isoformat,
    dt.datetime: _datetime,
    dt.time: lambda value: [value.isoformat(), value.fold],
    dt.timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    dt.timezone: lambda value: list(value.__getinitargs__()),
    decimal.Decimal: str,
    operator.attrgetter: lambda value: value.__reduce__()[1],
    operator.itemgetter: lambda value: value.__reduce__()[1],
    fractions.Fraction: lambda value: [value.numerator, value.denominator],
    re.Pattern: lambda value: [value.pattern, value.flags],
    uuid.UUID: lambda value: value.hex,
}
#: Types of libraries, by module and name: they count only if the user has imported them.
_KNOWN_BY_NAME: tuple[tuple[str, str, _Says], ...] = (
    ("PIL.Image", "Image", _picture),
    ("pandas", "DataFrame", _frame),
    ("pandas", "Index", lambda value: [value.name, value.to_numpy()]),
    ("pandas", "Series", lambda value: [value.name, value.index.to_numpy(), value.to_numpy()]),
    ("tokenizers", "AddedToken", _added_token),
    ("tokenizers", "Tokenizer", lambda value: value.to_str().encode()),
    ("torch", "layout", str),
    ("torch._ops", "OpOverload", str),
    ("torch._ops", "OpOverloadPacket", str),
    ("torch", "memory_format", str),
)


def known(value: Any) -> tuple[str, Any] | None:
    """Return the name of a known type and what tells `value` from its others, or None."""
    says = _KNOWN.get(type(value))
    if says is not None:
        return f"{type(value).__module__}.{type(value).__qualname__}", says(value)
    for name, kind, says in _known_by_name():
        if isinstance(value, kind):
            return name, says(value)
    return None


def _known_by_name() -> Iterator[tuple[str, type, _Says]]:
    for module, name, says in _KNOWN_BY_NAME:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None:
            yield f"{module}.{name}", kind, says
