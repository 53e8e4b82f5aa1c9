"""What every backend owes: the suites that castore ships, over each near one."""

from __future__ import annotations

import pickle
import uuid

import pytest

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.testing.objects import ObjectTests
from castore.testing.suite import NAME
from castore.testing.uploads import UploadTests


class TestLocal(ObjectTests, UploadTests):
    """A folder."""

    @pytest.fixture
    def fresh(self, tmp_path):
        """Give new folders."""
        return lambda: LocalBackend(tmp_path / uuid.uuid4().hex)


class TestMemory(ObjectTests, UploadTests):
    """A dict of this process."""

    @pytest.fixture
    def fresh(self):
        """Give new names."""
        return lambda: MemoryBackend(uuid.uuid4().hex)


def test_one_place_is_one_store(tmp_path):
    """Two backends with one URL see each other's objects."""
    for one in (LocalBackend(tmp_path / "store"), MemoryBackend(uuid.uuid4().hex)):
        two = pickle.loads(pickle.dumps(one))
        one.put(NAME, [b"value"])
        assert two.url == one.url
        assert two.get(NAME) == b"value"
        assert one.near
