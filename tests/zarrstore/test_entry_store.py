"""An entry as a Zarr store: what zarr asks of stores that are read, and refusals of the rest.

Of `zarr.testing.store.StoreTests` those do not apply that write through the store while they
read it (``set``, ``delete``, ``clear``, ``set_if_not_exists``, their ``_sync`` forms and the
parity laws between them): an entry never changes. What they say of reading is said here.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import uuid

import numpy as np
import pytest
import zarr
from zarr.abc.store import (
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
    SupportsGetSync,
    SupportsSetSync,
)
from zarr.core.buffer import cpu, default_buffer_prototype

import castore
from castore.errors import ReadOnlyError
from castore.zarrstore.entry_store import EntryStore

PROTOTYPE = default_buffer_prototype()
BIG = bytes(range(256)) * 40_000  # a blob of several parts
FILES = {
    "zarr.json": b'{"attributes":{},"node_type":"group","zarr_format":3}',
    "foo/zarr.json": b'{"node_type": "group", "zarr_format": 3, "attributes": {"x": 1.0}}',
    "foo/c/0": b"\x01\x02\x03\x04",
    "foo/c/1": b"",
    "foo/big": BIG,
    "foo-bar/one": b"1",
}
RANGES = {
    "all": (None, slice(None)),
    "range": (RangeByteRequest(1, 4), slice(1, 4)),
    "range beyond": (RangeByteRequest(2, 2**40), slice(2, None)),
    "range behind": (RangeByteRequest(2**40, 2**41), slice(0, 0)),
    "far range": (RangeByteRequest(9_000_000, 9_000_005), slice(9_000_000, 9_000_005)),
    "across parts": (RangeByteRequest(4_000_000, 9_000_000), slice(4_000_000, 9_000_000)),
    "offset": (OffsetByteRequest(1), slice(1, None)),
    "offset beyond": (OffsetByteRequest(2**40), slice(0, 0)),
    "suffix": (SuffixByteRequest(1), slice(-1, None)),
    "suffix beyond": (SuffixByteRequest(2**40), slice(None)),
}


@pytest.fixture(scope="module", params=["local", "memory"])
def entry(request, tmp_path_factory):
    """Return an entry of the files, in a store of each kind."""
    tmp_path = tmp_path_factory.mktemp("entry")
    for key, data in FILES.items():
        path = tmp_path / "files" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    held = castore.open(url)
    return held.entry(held.import_zarr(tmp_path / "files", "s").key)


@pytest.fixture
def store(entry):
    """Return the entry as a Zarr store."""
    return entry.zarr_store()


async def collected(names):
    """What an iterator yields, sorted."""
    return sorted([name async for name in names])


def test_it_is_a_store_of_zarrs(store):
    """It says of itself what it can do."""
    assert isinstance(store, Store)
    assert isinstance(store, SupportsGetSync)
    assert isinstance(store, SupportsSetSync)  # zarr reads in step only from stores with both
    assert store.read_only
    assert store.supports_listing
    assert not any([store.supports_writes, store.supports_deletes, store.supports_partial_writes])


def test_it_names_its_entry(store, entry):
    """Text forms name the store and the entry's key."""
    assert str(store) == f"{entry.backend.url}#{entry.key}"
    assert repr(store) == f"EntryStore({store})"


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("name", RANGES)
async def test_each_range_of_each_key_is_read(store, key, name):
    """A range is what Python's slice of the value is, read either way, first and again."""
    wanted, part = RANGES[name]
    if name == "suffix" and not FILES[key]:
        part = slice(0, 0)
    for _ in range(2):
        found = await store.get(key, PROTOTYPE, wanted)
        assert found.to_bytes() == FILES[key][part]
        assert store.get_sync(key, byte_range=wanted).to_bytes() == FILES[key][part]
        assert isinstance(found, cpu.Buffer)


async def test_many_ranges_are_read_at_once(store):
    """Ranges of several keys, and several ranges of one, come in the places they were asked in."""
    wanted = [
        ("foo/c/0", RangeByteRequest(0, 2)),
        ("none", None),
        ("foo/c/0", SuffixByteRequest(1)),
    ]
    found = await store.get_partial_values(PROTOTYPE, (one for one in wanted))
    assert [one and one.to_bytes() for one in found] == [b"\x01\x02", None, b"\x04"]
    ranges = [RANGES[name][0] for name in RANGES]
    got = [
        pair
        async for group in store.get_ranges("foo/big", ranges, prototype=PROTOTYPE)
        for pair in group
    ]
    assert [place for place, _ in got] == list(range(len(RANGES)))
    assert [one.to_bytes() for _, one in got] == [BIG[part] for _, part in RANGES.values()]


async def test_ranges_of_nothing_are_told_as_zarr_tells_them(store):
    """Ranges of an absent key raise the group of a ``FileNotFoundError`` that zarr looks for."""
    with pytest.RaisesGroup(FileNotFoundError):
        [group async for group in store.get_ranges("none", [None], prototype=PROTOTYPE)]


async def test_no_range_of_zarrs_is_refused(store):
    """A range that is none of zarr's raises as zarr's own stores do."""
    with pytest.raises(TypeError, match="Unexpected byte_range, got"):
        await store.get("foo/c/0", PROTOTYPE, (0, 2))


@pytest.mark.parametrize(
    "key", ["none", "foo", "foo/", "", "foo/c", "zarr.json/", "/zarr.json", "../x"]
)
async def test_what_is_not_there_is_absent(store, key):
    """A key that nothing has, or a folder, is None, does not exist and has no size."""
    assert await store.get(key, PROTOTYPE) is None
    assert store.get_sync(key) is None
    assert not await store.exists(key)
    with pytest.raises(FileNotFoundError):
        await store.getsize(key)


async def test_sizes_are_those_of_the_values(store):
    """Sizes are told of keys and of nodes, a sibling of a like name left out."""
    for key, data in FILES.items():
        assert await store.exists(key)
        assert await store.getsize(key) == len(data)
    below = sum(len(data) for key, data in FILES.items() if key.startswith("foo/"))
    assert await store.getsize_prefix("foo") == await store.getsize_prefix("foo/") == below
    assert await store.getsize_prefix("") == sum(map(len, FILES.values()))
    assert await store.getsize_prefix("fo") == 0


async def test_keys_are_listed_by_node(store):
    """Listing takes whole nodes, with a slash behind or without."""
    assert await collected(store.list()) == await collected(store.list_prefix("")) == sorted(FILES)
    foo = sorted(key for key in FILES if key.startswith("foo/"))
    assert (
        await collected(store.list_prefix("foo"))
        == await collected(store.list_prefix("foo/"))
        == foo
    )
    assert await collected(store.list_prefix("fo")) == []
    assert await collected(store.list_dir("")) == ["foo", "foo-bar", "zarr.json"]
    assert await collected(store.list_dir("foo")) == await collected(store.list_dir("foo/"))
    assert await collected(store.list_dir("foo")) == ["big", "c", "zarr.json"]
    assert await collected(store.list_dir("foo/c/0")) == await collected(store.list_dir("no")) == []


async def test_emptiness_is_told_by_node(store):
    """A node is empty if no key lies below it."""
    for node, empty in {"": False, "foo": False, "foo/": False, "fo": True, "spam/": True}.items():
        assert await store.is_empty(node) is empty


async def test_it_opens_and_closes(store):
    """It is a context manager, and reads open or not."""
    assert (await store.get("foo/c/0", PROTOTYPE)).to_bytes() == FILES["foo/c/0"]
    with await EntryStore.open(store.entry) as opened:
        assert opened._is_open
        with pytest.raises(ValueError, match="already open"):
            await opened._open()
        assert opened == store
    assert not opened._is_open


async def test_copies_are_equal(store, tmp_path):
    """Pickled and copied read-only stores read the same; other entries' are not equal."""
    for other in (
        pickle.loads(pickle.dumps(store)),
        store.with_read_only(True),
        EntryStore(store.entry),
    ):
        assert other == store
        assert other.read_only
        assert (await other.get("foo/big", PROTOTYPE)).to_bytes() == BIG
    (tmp_path / "zarr.json").write_bytes(FILES["zarr.json"])
    held = castore.open(store.entry.backend.url)
    assert held.zarr_store(held.import_zarr(tmp_path, "s").key) != store
    assert store != 1


async def test_it_refuses_to_be_changed(store):
    """Whatever would write raises, and nothing is changed."""
    value = cpu.Buffer.from_bytes(b"bar")
    refused = pytest.raises(ValueError, match="read-only mode and does not support writing")
    for act in (lambda: store.set_sync("foo/c/0", value), lambda: store.delete_sync("foo/c/0")):
        with refused:
            act()
    for act in (store.set("foo/c/0", value), store.delete("foo/c/0")):
        with refused:
            await act
    for act in (store.delete_dir("foo"), store.clear()):
        with pytest.raises(NotImplementedError):  # as zarr's own for stores that cannot delete
            await act
    with pytest.raises(ReadOnlyError, match=r"is immutable: write into store.zarr_store\(\)"):
        store.with_read_only(read_only=False)
    with pytest.raises(AttributeError):
        store.read_only = False
    assert (await store.get("foo/c/0", PROTOTYPE)).to_bytes() == FILES["foo/c/0"]


def test_zarr_cannot_write_through_it(store):
    """Groups opened to be written are refused before anything happens."""
    with pytest.raises(ValueError, match="Store is read-only"):
        zarr.open_group(store, mode="w")


def test_it_serves_several_event_loops_and_threads(store):
    """One store may be read from loops of several threads at once."""

    async def read():
        found = await asyncio.gather(*(store.get("foo/big", PROTOTYPE) for _ in range(4)))
        return [one.to_bytes() == BIG for one in found]

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, read()) for _ in range(4)))

    assert all(all(found) for found in asyncio.run(main()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_on(store):
    """A process that forks after reading, in threads too, reads right in the child."""
    assert zarr.open_group(store, mode="r")["foo"].attrs["x"] == 1.0
    asyncio.run(store.get("foo/big", PROTOTYPE))
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def child():
        found.put(store.get_sync("foo/big").to_bytes() == BIG)
        found.put(asyncio.run(store.get("foo/c/0", PROTOTYPE)).to_bytes() == FILES["foo/c/0"])

    process = context.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [found.get(), found.get()] == [True, True]


@pytest.mark.parametrize("pipeline", ["BatchedCodecPipeline", "FusedCodecPipeline"])
def test_each_of_zarrs_pipelines_reads_it(tmp_path, pipeline):
    """Whole and partial reads, sharded or not, are right through every pipeline zarr has."""
    if not hasattr(zarr.core.codec_pipeline, pipeline):
        pytest.skip("a newer zarr has it")
    held = castore.open(tmp_path)
    data = np.arange(10_000.0).reshape(100, 100)
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        stage = held.zarr_store()
        group = zarr.create_group(stage)
        group.create_array("plain", data=data, chunks=(30, 30))
        group.create_array("sharded", data=data, chunks=(10, 10), shards=(50, 50))
        found = held.entry(stage.commit("s").key).zarr()
        for name in ("plain", "sharded"):
            assert np.array_equal(found[name][...], data)
            assert np.array_equal(found[name][7:9, 40:77], data[7:9, 40:77])
            assert np.array_equal(
                found[name].oindex[[1, 99], [3, 50]], data[np.ix_([1, 99], [3, 50])]
            )
