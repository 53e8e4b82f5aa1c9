"""Files on their way to blobs: what is said of them is said of one and the same bytes."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from castore.backend.memory import MemoryBackend
from castore.blobs import parts
from castore.digest import hexdigest
from castore.errors import ResultError
from castore.zarrstore.files import FilePayload

SIZE = parts.PART_NBYTES * 2 + 5


@pytest.fixture
def data():
    """Return bytes of more than two parts."""
    return np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()


@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
@pytest.mark.parametrize("frozen", [False, True])
def test_digest_and_parts_are_of_the_same_bytes(tmp_path, data, algorithm, frozen):
    """A file that is written to after it was looked at keeps the digest and the parts it had."""
    path = tmp_path / "chunk"
    path.write_bytes(data)
    payload = FilePayload(path, algorithm, frozen=frozen)
    path.write_bytes(bytes(SIZE))
    assert payload.length == SIZE
    assert payload.digest == hexdigest([data], algorithm)
    assert payload.identity == hexdigest([data])
    assert payload.parts == parts.of([data])


def test_a_file_that_changed_is_not_stored(tmp_path, data):
    """No blob is put under the digest of what a file had before somebody wrote to it."""
    path, backend = tmp_path / "chunk", MemoryBackend(uuid.uuid4().hex)
    path.write_bytes(data)
    payload = FilePayload(path, "xxh3-128", frozen=False)
    path.write_bytes(bytes(SIZE))
    with pytest.raises(ResultError, match="changed while it was stored"):
        payload.store(backend, "blob")
    assert list(backend.list("")) == []
