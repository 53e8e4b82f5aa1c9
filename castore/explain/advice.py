"""What to write so that the nearest entry answers, where that can be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from castore.explain.difference import Difference
from castore.readable import readable

__all__ = ["advice"]

_EQUAL = "everything else is equal"
_ALONE = {
    "functions": "a suffix= names the function, and code is then recorded instead of keyed",
    "model": "see that the weights are the same, and eval() and train() as they were",
    "numeric": "set torch's switches as they were",
    "version": "version={} asks for it",
    "suffix": "suffix={} asks for it",
}


def advice(
    found: list[Difference], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[str]:
    """Yield lines of advice; none where too much differs.

    Parameters
    ----------
    found : list of Difference
        What is keyed and differs.
    before, after : mapping
        The derivations, stored and asked for.
    """
    ignorable = _ignorable(before, after)
    names = list(dict.fromkeys(name for d in found for name in ignorable if _is_in(d.path, name)))
    if names and all(any(_is_in(d.path, name) for name in names) for d in found):
        yield f"{_EQUAL}: ignore={tuple(names)!r} would have hit"
        return
    heads = {_head(difference.path, after) for difference in found}
    if len(heads) == 1:
        (head,) = heads
        if head in _ALONE:
            yield f"{_EQUAL}: {_ALONE[head].format(readable(found[0].before))}"
        elif head in after.get("table", {}).get("captured", {}):
            yield f"{_EQUAL}: if it does not matter, ignore={(head,)!r} leaves it out of the key"


def _ignorable(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what a request may ignore, and be answered by the entry that is there.

    Parts of the variant; values that the entry was stored without, because they were ignored.
    """
    one, two = (side.get("entry", {}).get("variant", {}) for side in (before, after))
    left = before.get("recorded", {}).get("ignored", {})
    captured = after.get("table", {}).get("captured", {})
    return [
        *(name for name in two if name in one),
        *(name for name in left if name in captured),
    ]


def _head(path: str, after: Mapping[str, Any]) -> str:
    """Return the part of the derivation that a path is in: a captured value by its own path."""
    captured = after.get("table", {}).get("captured", {})
    return next((name for name in captured if _is_in(path, name)), path.partition(".")[0])


def _is_in(path: str, name: str) -> bool:
    return path == name or path.startswith((f"{name}.", f"{name}["))
