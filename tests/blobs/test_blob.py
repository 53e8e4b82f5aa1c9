"""Blobs: put once, put again where distrusted, and never under a condemned name."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import blob, layout
from castore.blobs.blob import BlobRef, Bytes, Streamed
from castore.canonical import seal
from castore.digest import hexdigest
from castore.errors import DamagedError

DATA = b"a few bytes" * 100
DIGEST = hexdigest([DATA])


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return MemoryBackend(uuid.uuid4().hex)


def condemn(backend, *names, run="run", prefix=None):
    """Write a tombstone as a collector does."""
    folder = layout.tombstones(prefix or names[0])
    backend.put(f"{folder}{run}", [seal({"condemned": sorted(names), "format": 1})])


@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256", "blake3"])
def test_a_payload_knows_its_digest_and_length(algorithm):
    """A payload of pieces has digest, length and bytes of the pieces one after another."""
    if algorithm == "blake3":
        pytest.importorskip("blake3")
    pieces = [np.arange(6, dtype="<u2").view(np.uint8), b"tail", b""]
    payload = Bytes(pieces, algorithm)
    whole = np.arange(6, dtype="<u2").tobytes() + b"tail"
    assert payload.digest == hexdigest([whole], algorithm)
    assert (payload.length, payload.to_bytes()) == (16, whole)


def test_put_names_a_blob_by_its_digest(backend):
    """A blob lies under its digest, is told with its length, and is opened by that."""
    ref, written = blob.put(backend, Bytes([DATA], "xxh3-128"))
    assert (ref, written) == (BlobRef(DIGEST, 0, len(DATA)), len(DATA))
    assert backend.get(ref.name) == DATA
    assert ref.name == layout.blob(DIGEST, 0)
    opened = blob.map_blob(backend, ref)
    assert opened.tobytes() == DATA
    assert opened.flags.writeable
    assert blob.map_blob(backend, ref, copy=True).tobytes() == DATA


def test_put_skips_what_is_there(backend):
    """A blob that is there, as long as it should be, is not written again."""
    ref, _ = blob.put(backend, Bytes([DATA], "xxh3-128"))
    marked = bytes(len(DATA))
    backend.put(ref.name, [marked])
    assert blob.put(backend, Bytes([DATA], "xxh3-128")) == (ref, 0)
    assert backend.get(ref.name) == marked


def test_put_replaces_another_length(backend):
    """A blob that is there and has another length is written again."""
    name = layout.blob(DIGEST, 0)
    backend.put(name, [DATA[:-1]])
    assert blob.put(backend, Bytes([DATA], "xxh3-128"))[1] == len(DATA)
    assert backend.get(name) == DATA


def test_put_replaces_what_is_distrusted_once(backend):
    """A blob that was seen damaged is written again by the next put, and only by that."""
    ref, _ = blob.put(backend, Bytes([DATA], "xxh3-128"))
    backend.put(ref.name, [bytes(len(DATA))])
    blob.distrust(backend, ref)
    assert blob.put(backend, Bytes([DATA], "xxh3-128")) == (ref, len(DATA))
    assert backend.get(ref.name) == DATA
    assert blob.put(backend, Bytes([DATA], "xxh3-128")) == (ref, 0)


def test_distrust_is_of_one_place_and_generation(backend):
    """What was seen damaged here says nothing of another store, nor of another generation."""
    payload = Bytes([DATA], "xxh3-128")
    ref, _ = blob.put(backend, payload)
    second, _ = blob.put(backend, payload, generation=1)
    other = MemoryBackend(uuid.uuid4().hex)
    blob.put(other, payload)
    blob.distrust(backend, ref)
    assert blob.put(backend, payload, generation=1) == (second, 0)
    assert blob.put(other, payload) == (ref, 0)
    assert blob.put(backend, payload) == (ref, len(DATA))


@pytest.mark.parametrize("length", [0, len(DATA) - 1, len(DATA) + 1, 2**60])
def test_a_blob_of_another_length_is_damaged(backend, length):
    """A blob that is not as long as promised is damaged, told by name, and put again next."""
    payload = Bytes([DATA], "xxh3-128")
    blob.put(backend, payload)
    with pytest.raises(DamagedError, match=f"{DIGEST} is missing or is not {length:,} bytes"):
        blob.map_blob(backend, BlobRef(DIGEST, 0, length))
    assert blob.put(backend, payload)[1] == len(DATA)


def test_a_missing_blob_is_damaged(backend):
    """A blob that is not there is damaged, told with the store and its name."""
    with pytest.raises(DamagedError, match=DIGEST) as caught:
        blob.map_blob(backend, BlobRef(DIGEST, 3, 5))
    assert backend.url in str(caught.value)


def test_a_stream_is_named_once_and_copied_after(backend):
    """What was written before its digest was known can be stored under any number of names."""
    with backend.upload() as upload:
        upload.write(DATA)
        payload = Streamed(upload, DIGEST, len(DATA))
        assert payload.to_bytes() == DATA
        refs = [blob.put(backend, payload, generation)[0] for generation in range(3)]
        assert payload.to_bytes() == DATA
    assert [ref.generation for ref in refs] == [0, 1, 2]
    assert [backend.get(ref.name) for ref in refs] == [DATA] * 3


def test_two_streams_of_equal_bytes_are_one_blob(backend):
    """A second stream of the same bytes finds the blob there and leaves no trace."""
    for expected in (len(DATA), 0):
        with backend.upload() as upload:
            upload.write(DATA)
            assert blob.put(backend, Streamed(upload, DIGEST, len(DATA)))[1] == expected
    assert [info.name for info in backend.list("")] == [layout.blob(DIGEST, 0)]


def test_nothing_is_condemned_without_tombstones(backend):
    """Without a tombstone, or without a blob, no name is forbidden."""
    assert blob.condemned(backend, [BlobRef(DIGEST, 0, 1)]) == set()
    assert blob.condemned(backend, []) == set()


def test_a_tombstone_condemns_the_names_it_lists(backend):
    """A name is forbidden if any tombstone under its prefix lists it, and only that generation."""
    other = DIGEST[:2] + "0" * 30
    condemn(backend, f"{DIGEST}~1", run="1")
    condemn(backend, other, run="2")
    refs = [BlobRef(DIGEST, generation, 1) for generation in range(3)]
    assert blob.condemned(backend, refs) == {layout.blob(DIGEST, 1)}
    assert blob.condemned(backend, [*refs, BlobRef(other, 0, 1)]) == {
        layout.blob(DIGEST, 1),
        layout.blob(other, 0),
    }


def test_tombstones_count_under_their_own_prefix(backend):
    """A tombstone is looked for under the prefix of the names it condemns, nowhere else."""
    one, two = "11" + DIGEST[2:], "22" + DIGEST[2:]
    condemn(backend, one, two, prefix=one)
    assert blob.condemned(backend, [BlobRef(two, 0, 1)]) == set()
    assert blob.condemned(backend, [BlobRef(one, 0, 1), BlobRef(two, 0, 1)]) == {
        layout.blob(one, 0)
    }


UNREADABLE = {
    "empty": b"",
    "cut": seal({"condemned": [], "format": 1})[:-1],
    "flipped": seal({"condemned": [], "format": 1}).replace(b"[]", b"{}"),
    "unsealed": json.dumps({"condemned": []}).encode(),
    "without names": seal({"format": 1}),
    "names are None": seal({"condemned": None, "format": 1}),
    "names are numbers": seal({"condemned": [1], "format": 1}),
    "names are one text": seal({"condemned": DIGEST, "format": 1}),
    "names are lists": seal({"condemned": [[DIGEST]], "format": 1}),
    "newer": seal({"condemned": [], "format": 2}),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_tombstone_condemns_its_prefix(backend, data):
    """A tombstone that cannot be read or understood forbids every name under its prefix."""
    near, far = BlobRef(DIGEST, 5, 1), BlobRef("00" + DIGEST[2:], 0, 1)
    backend.put(f"{layout.tombstones(DIGEST)}run", [data])
    assert blob.condemned(backend, [near, far]) == {near.name}


def test_a_tombstone_that_vanishes_while_it_is_looked_at_condemns_nothing(backend):
    """A tombstone that was listed and is gone when read has expired: it forbids nothing."""

    class Vanishing:
        """The backend, where every listed object is deleted before it can be read."""

        def list(self, prefix):
            found = list(backend.list(prefix))
            backend.delete(info.name for info in found)
            return iter(found)

        get = backend.get

    condemn(backend, DIGEST)
    assert blob.condemned(Vanishing(), [BlobRef(DIGEST, 0, 1)]) == set()


@given(
    condemned_names=st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 3))),
    asked=st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 3))),
)
def test_condemned_is_what_is_listed_and_asked_for(condemned_names, asked):
    """Of any names asked for, those are forbidden that any tombstone under their prefix lists."""
    backend = MemoryBackend(uuid.uuid4().hex)

    def digest(letter):
        return letter * 32

    for letter, generation in condemned_names:
        bare = Path(layout.blob(digest(letter), generation)).name
        condemn(backend, bare, run=f"{generation}")
    refs = [BlobRef(digest(letter), generation, 1) for letter, generation in asked]
    expected = {layout.blob(digest(x), generation) for x, generation in condemned_names & asked}
    assert blob.condemned(backend, refs) == expected
