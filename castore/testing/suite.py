"""What the suites of backends share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from castore.backend.base import Backend, ObjectInfo

__all__ = ["NAME", "BackendSuite", "listed", "opened", "stat"]

NAME = "tables/ab/entries/cd.json"


def listed(backend: Backend, prefix: str = "") -> list[str]:
    """Return the names of all objects under `prefix`."""
    return [info.name for info in backend.list(prefix)]


def stat(backend: Backend, name: str) -> ObjectInfo:
    """Return what is known of an object that must be there."""
    found = backend.stat(name)
    assert found is not None
    return found


def opened(backend: Backend, name: str, length: int, *, copy: bool = False) -> NDArray[np.uint8]:
    """Open an object that must be there."""
    found = backend.open_private(name, length, copy=copy)
    assert found is not None
    return found


class BackendSuite:
    """What both suites stand on."""

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Backend]:
        """Return what makes an empty backend; each call another."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self, fresh: Callable[[], Backend]) -> Backend:
        """Return an empty backend."""
        return fresh()

    @pytest.fixture
    def restless(self) -> Iterator[None]:
        """Have threads take turns as often as Python can."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)
