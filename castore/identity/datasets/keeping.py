"""Leaving a dataset as it was found after a sample was loaded from it.

Datasets open files when the first sample is loaded, so that every worker opens its own. One
opened here would be inherited by the workers, which then share its position.
Source: https://man7.org/linux/man-pages/man2/fork.2.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from castore.identity.datasets.combined import parts_of

__all__ = ["attributes_kept"]


@contextlib.contextmanager
def attributes_kept(dataset: Any) -> Iterator[None]:
    """Put back, on the way out, what a dataset and its parts hold in attributes.

    What a dict, list or set among them holds is put back too, one level deep.
    """
    held = {id(part): _Held(part) for part in _with_parts(dataset)}
    try:
        yield
    finally:
        for part in held.values():
            part.put_back()


def _with_parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for part in (parts_of(dataset) or {}).values():
        yield from _with_parts(part)


class _Held:
    """What an object held when this was made."""

    def __init__(self, owner: Any) -> None:
        self._attributes: dict[str, Any] = getattr(owner, "__dict__", {})
        self._before = dict(self._attributes)
        self._copies = {
            name: type(value)(value)
            for name, value in self._before.items()
            if type(value) in (dict, list, set)
        }

    def put_back(self) -> None:
        """Undo what was set and what was added since."""
        for name in self._attributes.keys() - self._before.keys():
            del self._attributes[name]
        self._attributes.update(self._before)
        for name, copy in self._copies.items():
            value = self._before[name]
            if len(value) != len(copy):
                value.clear()
                value.extend(copy) if isinstance(value, list) else value.update(copy)
