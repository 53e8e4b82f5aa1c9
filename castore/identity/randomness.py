"""Whether a sample is random, and the global generators that would tell.

A sample is loaded twice. It is random if that moved a global generator (Python's, numpy's or
torch's), or if the two are known to differ. What castore has no rule for is not compared. The
global generators are left as they were found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from castore import arrays
from castore.canonical import Json, dumps, identify
from castore.identity.values import encode, type_name

__all__ = ["generators_kept", "moves_or_differs"]

#: In the place of a value that is not compared.
_UNKNOWN: Json = {"unknown": None}


def moves_or_differs(load: Callable[[], Any]) -> str | None:
    """Tell in words whether what `load` returns is random, by calling it at most twice.

    Python's, numpy's and torch's global generators are left as they were found, also when
    `load` raises. A generator that the dataset owns moves on; its draws show in the values.

    Parameters
    ----------
    load : Callable[[], Any]
        Loads one sample, anew at each call.

    Returns
    -------
    str or None
        What is random about "it", the sample: ``"loading it moves numpy's global generator"``
        or ``"two loads of it differ"``. None if neither was seen, or if `load` raised an
        Exception: then whoever loads the sample next meets the error.
    """
    outlines = []
    with generators_kept():
        before = _states()
        for _ in range(2):
            try:
                sample = load()
            except Exception:
                return None
            # A generator that only came with the first load is seen to move with the second.
            after = _states()
            moved = [name for name in before if after.get(name) != before[name]]
            if moved:
                return f"loading it moves {' and '.join(moved)}"
            # At once: the second load may overwrite what the first gave.
            outlines.append(dumps(_Outlines().of(sample)))
            before = _states()
    return None if outlines[0] == outlines[1] else "two loads of it differ"


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put back, on the way out, the state of every global generator there was on the way in.

    These are Python's, numpy's and torch's, and those of all CUDA devices where CUDA is
    initialised.
    """
    with contextlib.ExitStack() as stack:
        for generator in _generators():
            stack.callback(generator.restore, generator.state())
        yield


class _Generator(NamedTuple):
    name: str
    state: Callable[[], Any]
    restore: Callable[[Any], object]


def _generators() -> Iterator[_Generator]:
    """Yield the global generators there are: nothing is drawn from what is not imported."""
    python: Any = sys.modules.get("random")
    if python is not None:
        yield _Generator("Python's global generator", python.getstate, python.setstate)
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        # As a dict: the tuple is for Mersenne twisters only, and numpy may be given another.
        state = lambda: numpy.get_state(legacy=False)  # noqa: E731
        yield _Generator("numpy's global generator", state, numpy.set_state)
    torch = arrays.torch()
    if torch is not None:
        yield _Generator("torch's global generator", torch.get_rng_state, torch.set_rng_state)
    if torch is not None and torch.cuda.is_initialized():
        states, restore = torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
        yield _Generator("torch's CUDA generators", states, restore)


def _states() -> dict[str, Json]:
    return {generator.name: encode(generator.state()) for generator in _generators()}


class _Outlines:
    """Makes documents that are unequal only for values known to differ."""

    def __init__(self) -> None:
        # The containers themselves too, so that their ids stay theirs.
        self._met: dict[int, tuple[Any, Json]] = {}

    def of(self, value: Any) -> Json:
        """Return the outline of `value`; of a container, a digest."""
        if not _is_container(value):
            return _leaf(value)
        if id(value) not in self._met:
            self._met[id(value)] = (value, _UNKNOWN)  # what it is within itself
            with contextlib.suppress(Exception):  # a property that raises, nesting without end
                digest = identify("outline", [type_name(type(value)), self._parts(value)])
                self._met[id(value)] = (value, digest)
        return self._met[id(value)][1]

    def _parts(self, value: Any) -> Json:
        if isinstance(value, (dict, UserDict)):
            return _sorted([self.of(key), self.of(item)] for key, item in value.items())
        if isinstance(value, (set, frozenset)):
            return _sorted(self.of(item) for item in value)
        if isinstance(value, _ARRAYS) and value.dtype.names is not None:
            return [self.of(value[name]) for name in value.dtype.names]
        if isinstance(value, np.ndarray):
            return [list(value.shape), [self.of(item) for item in value.flat]]
        if isinstance(value, _SEQUENCES):
            return [self.of(item) for item in value]
        return [self.of(getattr(value, field.name)) for field in dataclasses.fields(value)]


_ARRAYS = (np.ndarray, np.void)
_SEQUENCES = (list, tuple, deque, UserList)
_CONTAINERS = (dict, UserDict, set, frozenset, *_SEQUENCES)


def _is_container(value: Any) -> bool:
    if isinstance(value, _ARRAYS):
        return value.dtype.hasobject or value.dtype.names is not None
    if isinstance(value, _CONTAINERS):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _sorted(outlines: Iterable[Json]) -> list[Json]:
    return sorted(outlines, key=dumps)


def _leaf(value: Any) -> Json:
    image = getattr(sys.modules.get("PIL.Image"), "Image", ())
    try:
        if isinstance(value, image):
            return encode([value.mode, value.size, value.getpalette(), value.tobytes()])
        return encode(value)
    except Exception:  # no rule, or it cannot be read
        return _UNKNOWN
