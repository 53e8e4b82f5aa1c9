"""What acts among what a dataset holds: transforms, functions, modules.

To vouch for a dataset names its items. What it does to them is found among its attributes, those
of its parts and of datasets it wraps, in containers, and in objects of its own package.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from castore.errors import FingerprintError
from castore.identity.datasets.combined import parts_of
from castore.identity.datasets.samples import length_of
from castore.identity.describe import is_users
from castore.identity.libraries import top
from castore.identity.members import attributes, is_special, items

__all__ = ["Search", "has_rows"]


class Search:
    """A search through a dataset.

    Attributes
    ----------
    datasets : list
        The dataset, and those it is made of or wraps, that were gone through.
    """

    def __init__(self, dataset: Any) -> None:
        self.datasets: list[Any] = []
        self._own: set[str | None] = {"__main__"}
        self._met: dict[int, Any] = {}  # holds what it met: ids are used again
        self._add(dataset)

    def _add(self, dataset: Any) -> None:
        self.datasets.append(dataset)
        package = top(type(dataset).__module__)
        if is_users(package):
            self._own.add(package)

    def within(self, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """Yield what acts among what `value` holds, by path."""
        self._met[id(value)] = value
        if _is_dataset(type(value)):
            self._add(value)
        for name, part in (parts_of(value) or {}).items():
            self._add(part)
            if id(part) not in self._met:
                yield from self.within(part, f"{path}.{name}".removeprefix("."))
        for place, item in _held(value).items():
            where = f"{path}{place}".removeprefix(".")
            if callable(item) or (_is_unordered(item) and self.reaches(item)):
                yield where, item
            elif id(item) not in self._met and self.reaches(item):
                yield from self.within(item, where)

    def reaches(self, value: Any) -> bool:
        """Tell whether `value` is gone through and may hold what acts.

        Containers of nothing but plain values, however deep, are told at little cost.
        """
        if not self._goes_through(type(value)):
            return False
        level, met = [value], {id(value)}
        while level:
            if not {type(held) for held in level} <= _PLAIN:
                return True
            found = list(chain.from_iterable(map(_items, level)))
            inner = {kind for kind in set(map(type, found)) if self._matters(kind)}
            level = [item for item in found if type(item) in inner and id(item) not in met]
            met.update(map(id, level))
        return False

    def _matters(self, kind: type) -> bool:
        acts = any("__call__" in vars(base) for base in kind.__mro__)
        return acts or self._goes_through(kind)

    def _goes_through(self, kind: type) -> bool:
        own = top(kind.__module__) in self._own or kind in _NAMESPACES
        return any((own, issubclass(kind, _CONTAINERS), _is_dataset(kind)))


def has_rows(value: Any, length: int) -> bool:
    """Tell whether `value` has as many items as there are samples."""
    if issubclass(type(value), (str, bytes)) or not hasattr(type(value), "__len__"):
        return False
    try:
        return len(value) == length
    except Exception:  # an array without axes has none
        return False


def _held(value: Any) -> dict[str, Any]:
    """Return what a container, a dataset or an object holds, by place."""
    if parts_of(value) is not None:
        return {}
    places = items(value) or {}
    if type(value) in _PLAIN:
        return places
    length = 0
    if _is_dataset(type(value)):
        with contextlib.suppress(FingerprintError):  # a stream has none
            length = length_of(value)
    for name, item in {**_set_on_class(type(value)), **attributes(value)}.items():
        if not (length > _FEW and has_rows(item, length)):  # one a sample: the items
            places[f".{name}"] = item
    return places


def _set_on_class(kind: type) -> dict[str, Any]:
    """Return what the user's classes have beside methods."""
    return {
        name: item
        for base in reversed(kind.__mro__)
        if is_users(top(base.__module__))
        for name, item in vars(base).items()
        if not (is_special(name) or isinstance(item, _DEFINED))
    }


def _is_dataset(kind: type) -> bool:
    modules = ("torch.utils.data", "datasets.arrow_dataset")
    return any(issubclass(kind, getattr(sys.modules.get(m), "Dataset", ())) for m in modules)


def _is_unordered(value: Any) -> bool:
    """Tell whether what a container holds has no place that could be told: it is taken whole."""
    kind = type(value)
    return kind in (set, frozenset) or (issubclass(kind, Mapping) and items(value) is None)


def _items(container: Any) -> Any:
    return container.values() if type(container) is dict else container


#: So few values might be the transforms of a dataset with as many samples.
_FEW = 1024
_PLAIN = frozenset([dict, frozenset, list, set, tuple])
_CONTAINERS = (Mapping, *_PLAIN)
_NAMESPACES = frozenset([argparse.Namespace, types.SimpleNamespace])
#: What defines a class rather than being held by it.
_DEFINED = (
    classmethod,
    functools.cached_property,
    property,
    staticmethod,
    type,
    types.FunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
