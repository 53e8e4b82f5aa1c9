"""Sizes, counts and times: how people read them, how they write them in a condition."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from fractions import Fraction

__all__ = [
    "age",
    "count",
    "local_date",
    "local_time",
    "named",
    "read_count",
    "read_duration",
    "read_seconds",
    "read_size",
    "rfc3339",
    "seconds",
    "size",
]

_NOTHING = "-"
_PREFIXES = "kMGTPE"
_STEP = 1000
#: Long enough for any quantity, short enough to be read at once.
_NUMBER = r"([0-9]{1,30}(?:\.[0-9]{1,30})?)"
_SIZE = re.compile(rf"{_NUMBER}\s*(?:([kmgtpe])(i?))?b?", re.IGNORECASE)
_DURATION = re.compile(rf"{_NUMBER}\s*([smhdw])")
_COUNT = re.compile(r"[0-9]{1,30}")
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


def size(nbytes: int) -> str:
    """Write a number of bytes: ``260 B``, ``41.0 MB``."""
    if nbytes < _STEP:
        return f"{nbytes} B"
    value = nbytes / _STEP
    for prefix in _PREFIXES:
        if round(value, 1) < _STEP or prefix == _PREFIXES[-1]:
            break
        value /= _STEP
    return f"{value:,.1f} {prefix}B"


def read_size(text: str) -> Fraction:
    """Read a number of bytes: ``1GB``, ``1.5 MiB``, ``260``; exact."""
    found = _SIZE.fullmatch(text)
    if not found:
        msg = f"{text!r} is no size: write it as 1GB, 1.5MiB or 260"
        raise ValueError(msg)
    number, prefix, binary = found.groups()
    power = _PREFIXES.lower().index(prefix.lower()) + 1 if prefix else 0
    scale: int = (1024 if binary else _STEP) ** power
    return Fraction(number) * scale


def count(number: int | None) -> str:
    """Write a number of things: ``12,000``."""
    return _NOTHING if number is None else f"{number:,}"


def read_count(text: str) -> int:
    """Read a number of things: ``5000``."""
    if not _COUNT.fullmatch(text):
        msg = f"{text!r} is no count: write it as 5000"
        raise ValueError(msg)
    return int(text)


def named(number: int, singular: str, plural: str) -> str:
    """Write a number with its noun: ``1 entry``, ``2 entries``."""
    return f"{number:,} {singular if number == 1 else plural}"


def seconds(duration: float) -> str:
    """Write a duration in seconds: ``0.071``, ``1,234.500``."""
    return f"{duration:,.3f}"


def read_seconds(text: str) -> Fraction:
    """Read a duration, which is in seconds where it names no unit: ``90``, ``1.5h``."""
    return read_duration(f"{text}s" if text[-1:].isdigit() else text)


def age(duration: float) -> str:
    """Write how long ago something was, in days or the largest unit that fits: ``3m``, ``12d``."""
    if math.isnan(duration):
        return _NOTHING
    unit = next((u for u in "dhm" if duration >= _UNITS[u]), "s")
    return f"{max(0, int(duration // _UNITS[unit]))}{unit}"


def read_duration(text: str) -> Fraction:
    """Read a length of time in seconds: ``90s``, ``7d``, ``1.5h``; exact."""
    found = _DURATION.fullmatch(text)
    if not found:
        msg = f"{text!r} is no length of time: write it as 90s, 5m, 12h, 7d or 2w"
        raise ValueError(msg)
    return Fraction(found[1]) * _UNITS[found[2]]


def local_time(moment: float) -> str:
    """Write a moment as a person here reads it: ``2026-11-20 10:35``."""
    if math.isnan(moment):
        return _NOTHING
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def local_date(moment: float) -> str:
    """Write the day of a moment: ``2026-11-20``."""
    return local_time(moment).partition(" ")[0]


def rfc3339(moment: float) -> str | None:
    """Write a moment as a program reads it, in UTC: ``2026-11-20T10:35:46.120Z``."""
    if math.isnan(moment):
        return None
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
