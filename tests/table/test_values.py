"""The Zarr keys of an entry as bytes: checked part by part, once, and never changed by a reader."""

from __future__ import annotations

import os
import pickle
import threading
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import parts
from castore.blobs.blob import Bytes
from castore.errors import DamagedError
from castore.table import values as module
from castore.table.draft import Draft
from castore.table.entry import find_entry
from castore.table.values import Values
from castore.table.writer import Writer, origin

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
BIG = np.random.default_rng(0).bytes(3 * parts.PART_NBYTES - 1000)
ARRAY = {"node_type": "array", "zarr_format": 3}
DATA = {"x/c/0": BIG, "x/c/1": BIG[:100_000], "x/c/2": b"small", "x/c/3": b""}


def publish(backend, metadata=None, absent=("x/c/9",)):
    """Publish an entry of the data."""
    writer = Writer(backend, TABLE, {})
    payloads = {key: Bytes([data], writer.algorithm) for key, data in DATA.items()}
    metadata = metadata or {"zarr.json": {"node_type": "group"}, "x/zarr.json": ARRAY}
    header = {
        "table": TABLE, "key": KEY, "rows": None, "aligned": False, "form": {"zarr": "group"},
        "derivation": {}, "origin": origin(0),
    }  # fmt: skip
    writer.publish(Draft(writer.algorithm, metadata, payloads, absent), header)


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Return a store of each kind with the entry."""
    made = LocalBackend(tmp_path) if request.param == "local" else MemoryBackend(uuid.uuid4().hex)
    publish(made)
    return made


def values(backend, *, copy=False):
    """The values of the entry, nothing opened yet."""
    return Values(find_entry(backend, TABLE, KEY, copy=copy))


@pytest.mark.parametrize("copy", [False, True])
def test_all_values_are_read(backend, copy):
    """Every key gives its bytes, its length and its place in the listing."""
    found = values(backend, copy=copy)
    assert found.keys == sorted([*DATA, "zarr.json", "x/zarr.json"])
    for key, data in DATA.items():
        assert found.read(key) == data
        assert found.size(key) == len(data)
        assert key in found
    assert bytes(found.read("x/zarr.json")) == b'{"node_type":"array","zarr_format":3}'


@settings(max_examples=60)
@given(st.sampled_from(list(DATA)), st.integers(0, 2**24), st.integers(0, 2**24) | st.none())
def test_any_range_is_a_slice(key, start, stop):
    """Whatever range is asked for, it is Python's slice of the value."""
    name = "castore-test-values"
    MemoryBackend._places.pop(name, None)
    backend = MemoryBackend(name)
    publish(backend)
    assert values(backend).read(key, start, stop) == DATA[key][start:stop]


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_given_out_is_read_only(backend, copy):
    """A reader can change nothing that another one reads."""
    found = values(backend, copy=copy)
    for key in (*DATA, "zarr.json"):
        view = found.read(key)
        assert view.readonly
        with pytest.raises(ValueError, match="read-only"):
            np.frombuffer(view, np.uint8)[:] = 0
    assert found.read("x/c/0") == BIG


def test_absent_is_none_and_forgotten_is_damage(backend):
    """A chunk left out on purpose is None, one that is neither there nor left out raises."""
    found = values(backend)
    for key in ("x/c/9", "none", "y/c/0", "x/.zarray", "x/y/zarr.json"):
        assert found.read(key) is None
        assert found.size(key) is None
        assert key not in found
    for key in ("x/c/4", "x/c", "x/0"):
        with pytest.raises(DamagedError, match="is neither there nor left out"):
            found.read(key)


def test_below_a_root_that_is_an_array_all_is_its_chunk(tmp_path):
    """Where the root is an array a chunk that is not there is damage wherever it lies."""
    backend = LocalBackend(tmp_path)
    publish(backend, {"zarr.json": ARRAY}, absent=("c/",))
    found = values(backend)
    assert found.read("c/5") is None
    with pytest.raises(DamagedError):
        found.read("d/5")


@pytest.mark.parametrize(
    "text", ["[]", "{", "1", "[" * 100_000], ids=["list", "half", "one", "deep"]
)
def test_metadata_that_are_none_are_damage(tmp_path, text):
    """A crafted entry whose metadata are no JSON object raises when its arrays are asked for."""
    backend = LocalBackend(tmp_path)
    publish(backend, {"zarr.json": {"node_type": "group"}, "x/zarr.json": text})
    with pytest.raises(DamagedError, match=r"x/zarr\.json is no Zarr metadata"):
        values(backend).arrays  # noqa: B018


def damage(backend, position):
    """Flip a bit of the large blob."""
    ref = find_entry(backend, TABLE, KEY).manifest.chunks["x/c/0"]
    data = bytearray(backend.get(ref.name))
    data[position] ^= 1
    backend.put(ref.name, [data])


def test_only_the_parts_asked_for_are_checked(backend):
    """Damage in one part raises for every range that touches it, each time, and for no other."""
    damage(backend, parts.PART_NBYTES + 5)
    for copy in (False, True):
        found = values(backend, copy=copy)
        assert found.read("x/c/0", 0, parts.PART_NBYTES) == BIG[: parts.PART_NBYTES]
        assert found.read("x/c/0", 2 * parts.PART_NBYTES) == BIG[2 * parts.PART_NBYTES :]
        for start, stop in ((0, None), (parts.PART_NBYTES, parts.PART_NBYTES + 1), (7, 5_000_000)):
            for _ in range(2):
                with pytest.raises(DamagedError, match="damaged"):
                    found.read("x/c/0", start, stop)
        with pytest.raises(DamagedError):
            values(backend, copy=copy).read("x/c/0")


def test_what_was_checked_is_ready(backend):
    """A range is ready when its parts were checked; what lies in the manifest always is."""
    found = values(backend)
    assert found.is_ready("x/c/2")
    assert found.is_ready("none")
    assert not found.is_ready("x/c/0", 0, 10)
    found.read("x/c/0", 0, 10)
    assert found.is_ready("x/c/0", 5, parts.PART_NBYTES)
    assert not found.is_ready("x/c/0", 5, parts.PART_NBYTES + 1)
    assert not found.is_ready("x/c/0")
    found.read("x/c/0")
    assert found.is_ready("x/c/0")


def test_verifying_always_opens_copies(tmp_path):
    """With `copy` a file that changes in place after it was checked changes no value."""
    backend = LocalBackend(tmp_path)
    publish(backend)
    found = values(backend, copy=True)
    assert found.read("x/c/0") == BIG
    ref = found.entry.manifest.chunks["x/c/0"]
    with (tmp_path / ref.name).open("r+b") as file:
        file.write(bytes(100))
    assert found.read("x/c/0") == BIG


def test_few_blobs_stay_open(backend, monkeypatch):
    """Of many blobs only the newest stay open, and all of them read right."""
    monkeypatch.setattr(module, "_OPEN", 1)
    monkeypatch.setattr(module, "_COPIES", 1)
    found = values(backend)
    views = [(key, found.read(key)) for _ in range(2) for key in DATA]
    assert all(view == DATA[key] for key, view in views)
    assert len(found._open) + len(found._copies) <= 2


def test_few_large_copies_stay_in_memory(tmp_path, monkeypatch):
    """Where blobs are read and not mapped, the newest large ones are kept, and all are right."""
    monkeypatch.setattr(module, "_COPIES", 1)
    monkeypatch.setattr(module, "_LARGE", 100)
    backend = LocalBackend(tmp_path)
    publish(backend)
    found, mapped = values(backend, copy=True), values(backend)
    for _ in range(2):
        assert all(found.read(key) == mapped.read(key) == DATA[key] for key in DATA)
    assert len(found._copies) == 1
    assert BIG not in [opened._data.tobytes() for opened in mapped._copies.values()]


def test_a_copy_begins_anew(backend):
    """A pickled copy has nothing open, and checks for itself."""
    found = values(backend)
    found.read("x/c/0")
    again = pickle.loads(pickle.dumps(found))
    assert not again.is_ready("x/c/0")
    assert again.read("x/c/0") == BIG


def test_threads_share_the_values(backend):
    """Several threads read parts of one blob at once, each right."""
    found, wrong = values(backend), []

    def read(seed):
        starts = np.random.default_rng(seed).integers(0, len(BIG), 50).tolist()
        ends = [(start, start + 100_000) for start in starts]
        wrong.extend(end for end in ends if found.read("x/c/0", *end) != BIG[slice(*end)])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_on(backend):
    """A child forked after some reads reads those and others right."""
    found = values(backend)
    found.read("x/c/0", 0, 10)
    child = os.fork()
    if child == 0:
        os._exit(int(any(found.read(key) != data for key, data in DATA.items())))
    assert os.waitpid(child, 0)[1] == 0
