"""Gathering: the rows that were stored, in the places asked for, or damage."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore import arrays
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import layout
from castore.blobs.blob import Bytes
from castore.blobs.shard import rows_per_group
from castore.canonical import seal
from castore.errors import DamagedError
from castore.identity.rows import from_integers
from castore.table import gather as module
from castore.table.draft import Draft
from castore.table.entry import Schema, find_entry
from castore.table.gather import allocate, gather, scatter
from castore.table.writer import Writer, initialise, origin

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
DTYPES = ["?", "u1", "<i8", "<f2", "<f4", "<c16", "<M8[ns]"]
#: Rows of a byte, of a few, of about a kilobyte, of several a row group, and longer than one.
SHAPES = [(), (1,), (3,), (2, 5), (0,), (1021,), (1024,), (3, 700), (33_000,), (9, 10_000)]


def ids(names):
    """Row ids of integer names."""
    return from_integers("5a" * 16, np.array(names, np.int64))


def commit(backend, columns, algorithm="xxh3-128"):
    """Publish columns of rows named by position, and return the entry."""
    initialise(backend, algorithm)
    draft = Draft(algorithm)
    for name, array in columns.items():
        draft.add(name, array)
    rows = len(next(iter(columns.values())))
    draft.add_rows(ids(range(rows)))
    header = {
        "table": TABLE,
        "key": KEY,
        "rows": rows,
        "aligned": True,
        "form": {"dict": [[name, {"array": name}] for name in columns]},
        "derivation": {},
        "origin": origin(0),
    }
    Writer(backend, TABLE, {}).publish(draft, header, force=True)
    return find_entry(backend, TABLE, KEY)


def apart(backend, entry, key):
    """Write the value under `key`, which is in the manifest itself, as a blob."""
    document = json.loads(entry.manifest.to_bytes())
    value = Bytes([entry.manifest.chunks[key]], "xxh3-128")
    value.store(backend, layout.blob(value.digest, 0))
    chunk = {"digest": value.digest, "generation": 0, "length": value.length}
    document["chunks"][key] = chunk
    del document["digest"]
    backend.put(entry.manifest.name, [seal(document)])
    return find_entry(backend, TABLE, KEY)


def random(shape, dtype="u1", seed=0):
    """Return an array of random bytes."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(seed).integers(0, 2 if dtype.kind == "b" else 256, count, np.uint8)
    return data.view(dtype).reshape(shape)


def whole(positions):
    """Positions as an array."""
    return np.array(positions, np.int64)


@pytest.fixture
def small_windows(monkeypatch):
    """Make a little data several windows, and few row ids several turns."""
    monkeypatch.setattr(module, "_WINDOW", 3 * 65536)
    monkeypatch.setattr(module, "_COMPARED", 7)


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return MemoryBackend(uuid.uuid4().hex)


@st.composite
def wishes(draw, rows):
    """Draw positions of `rows` rows, in order, shuffled, strided, repeated; and places for them."""
    pick = draw(st.sampled_from(["all", "one missing", "some", "strided", "run", "repeated"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    positions = np.arange(rows)
    if pick == "one missing":
        positions = np.delete(positions, rng.integers(rows))
    elif pick == "some":
        positions = positions[rng.random(rows) < rng.random()]
    elif pick == "strided":
        positions = np.concatenate([np.arange(start, rows, 3) for start in range(3)])
    elif pick == "run":
        start, stop = sorted(rng.integers(0, rows + 1, 2).tolist())
        positions = positions[start:stop]
    elif pick == "repeated":
        positions = rng.integers(0, rows, rng.integers(0, 2 * rows))
    if draw(st.booleans()):
        positions = rng.permutation(positions)
    room = len(positions) + draw(st.integers(0, 5))
    places = rng.permutation(room)[: len(positions)]
    if draw(st.booleans()):
        places = np.sort(places)
    if draw(st.booleans()):
        places = np.arange(len(positions)) + (room - len(positions))
    return positions.astype(np.int64), places.astype(np.int64), room


@settings(max_examples=400)
@given(data=st.data(), shape=st.sampled_from(SHAPES), dtype=st.sampled_from(DTYPES))
def test_a_gather_is_numpys(data, shape, dtype):
    """For all dtypes, shapes, positions and places a gather does what numpy does."""
    nbytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    most = max(3, min(70_000, 700_000 // nbytes))
    rows = data.draw(st.sampled_from([1, 2, 3, most // 3, most - 1, most]))
    stored = {"x": random((rows, *shape), dtype), "y": random((rows,), "<u2", 1)}
    entry = commit(MemoryBackend(uuid.uuid4().hex), stored)
    positions, places, room = data.draw(wishes(rows))
    into = allocate(entry.schema, room)
    expected = {}
    for name, array in into.items():
        array[...] = np.zeros((), array.dtype)
        expected[name] = array.copy()
        expected[name][places] = stored[name][positions]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW", data.draw(st.sampled_from([65536, 200_000, 1 << 21])))
        gather(entry, positions, ids(positions), into, places)
    for name, array in into.items():
        assert array.tobytes() == expected[name].tobytes()


def test_rows_of_extended_dtypes(backend):
    """Rows of bfloat16 and float8 are gathered bit for bit."""
    pytest.importorskip("ml_dtypes")
    stored = {
        name: random((40_000, 3), f"u{size}").view(arrays.dtype_named(name))
        for name, size in (("bfloat16", 2), ("float8_e5m2", 1))
    }
    entry = commit(backend, stored)
    positions = np.random.default_rng(0).permutation(40_000)[:39_000]
    into = allocate(entry.schema, 39_000)
    gather(entry, positions, ids(positions), into, np.arange(39_000))
    for name, array in into.items():
        assert array.dtype == stored[name].dtype
        assert array.tobytes() == stored[name][positions].tobytes()


@pytest.mark.parametrize("copy", [False, True])
def test_rows_of_local_files(tmp_path, copy):
    """Mapped and read blobs give the same rows, and stay as they are."""
    stored = {"x": random((3000, 512), "<f4")}
    commit(LocalBackend(tmp_path), stored)
    entry = find_entry(LocalBackend(tmp_path), TABLE, KEY, copy=copy)
    positions = np.random.default_rng(0).permutation(3000)
    for _ in range(2):
        into = allocate(entry.schema, 3000)
        gather(entry, positions, ids(positions), into, np.arange(3000))
        assert into["x"].tobytes() == stored["x"][positions].tobytes()
        into["x"][...] = 7


def test_only_the_columns_wanted_are_read(backend):
    """Columns that are not in `into` are not looked at, whatever became of them."""
    entry = commit(backend, {"x": random((70_000,)), "y": random((70_000,), seed=1)})
    gone = entry.manifest.chunks["y/c/0"].name
    backend.delete([gone])
    into = {"x": np.zeros(70_000, np.uint8)}
    gather(entry, np.arange(70_000), ids(range(70_000)), into, np.arange(70_000))
    assert np.array_equal(into["x"], random((70_000,)))


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("row_nbytes", [8, 1000, 8192, 40_000, 300_000])
@pytest.mark.parametrize("order", ["in order", "one missing", "shuffled", "sparse"])
@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
def test_every_flip_among_the_groups_used_is_noticed(row_nbytes, order, algorithm):
    """A flipped bit in the row group of a wanted row is damage; in any other it goes unnoticed."""
    rows = max(5, 500_000 // row_nbytes)
    backend = MemoryBackend(uuid.uuid4().hex)
    stored = {"x": random((rows, row_nbytes))}
    entry = commit(backend, stored, algorithm)
    ref = entry.manifest.chunks["x/c/0/0"]
    sound = backend.get(ref.name)
    rng = np.random.default_rng(0)
    positions = np.arange(rows)
    if order == "one missing":
        positions = np.delete(positions, rows // 2)
    elif order == "shuffled":
        positions = rng.permutation(rows)
    elif order == "sparse":
        positions = rng.permutation(rows)[:2]
    group = rows_per_group(row_nbytes)
    used = set((positions // group).tolist())
    edges = [start + off for start in range(0, rows, group) for off in (-1, 0)]
    flips = [row * row_nbytes for row in edges if row > 0] + [0, rows * row_nbytes - 1]
    flips += rng.integers(0, rows * row_nbytes, 30).tolist()
    noticed = set()
    for place in flips:
        data = bytearray(sound)
        data[place] ^= 1 << rng.integers(8)
        backend.put(ref.name, [data])
        into = {"x": np.zeros((rows, row_nbytes), np.uint8)}
        ask = (entry, positions, ids(positions), into, np.arange(len(positions)))
        if place // row_nbytes // group in used:
            with pytest.raises(DamagedError, match=rf"{ref.digest} is damaged"):
                gather(*ask)
            noticed.add(True)
        else:
            gather(*ask)
            assert np.array_equal(into["x"][: len(positions)], stored["x"][positions])
            noticed.add(False)
    assert noticed == ({True, False} if len(used) <= (rows - 1) // group else {True})


@pytest.mark.parametrize("names", [range(70_000), range(5, 70_000)])
def test_the_copy_is_checked_not_the_source(monkeypatch, names):
    """What becomes of the source once it was copied neither passes for damage nor hides any."""
    stored = random((70_000,))
    entry = commit(MemoryBackend(uuid.uuid4().hex), {"x": stored})
    data, checks = entry.unchecked("x")
    monkeypatch.setattr(type(entry), "unchecked", lambda *_: (data, checks))
    check64 = module.check64

    def changing(view):
        data[...] = 0
        return check64(view)

    monkeypatch.setattr(module, "check64", changing)
    into = allocate(entry.schema, len(names))
    gather(entry, np.array(names), ids(names), into, np.arange(len(names)))
    assert np.array_equal(into["x"], stored[names])
    with pytest.raises(DamagedError):
        gather(entry, np.array(names), ids(names), into, np.arange(len(names)))


def test_what_follows_the_rows_is_not_used(backend):
    """Damage to the padding or the shard index behind the rows does not matter to a gather."""
    entry = commit(backend, {"x": random((100_000,))})
    ref = entry.manifest.chunks["x/c/0"]
    data = bytearray(backend.get(ref.name))
    data[100_000:] = bytes(len(data) - 100_000 - 1) + b"x"
    backend.put(ref.name, [data])
    into = allocate(entry.schema, 100_000)
    gather(entry, np.arange(100_000), ids(range(100_000)), into, np.arange(100_000))
    assert np.array_equal(into["x"], random((100_000,)))


def test_a_damaged_blob_is_put_again(backend):
    """What a gather saw damaged is written again by the next commit, though it has its length."""
    stored = {"x": random((100_000,))}
    entry = commit(backend, stored)
    ref = entry.manifest.chunks["x/c/0"]
    backend.put(ref.name, [bytes(ref.length)])
    into = allocate(entry.schema, 1)
    with pytest.raises(DamagedError):
        gather(entry, whole([5]), ids([5]), into, whole([0]))
    gather(commit(backend, stored), whole([5]), ids([5]), into, whole([0]))
    assert into["x"][0] == stored["x"][5]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("positions", "names"),
    [([0, 2], [0, 1]), ([-1], [9]), ([10], [10]), ([3, 3], [3, 4]), ([2**40], [1]), ([0], [77])],
)
def test_other_rows_than_asked_for_are_damage(backend, positions, names, large):
    """Positions that are outside the entry, or hold other rows, are not served."""
    entry = commit(backend, {"x": random((10, 20_000 if large else 2))})
    into = allocate(entry.schema, 2)
    with pytest.raises(DamagedError, match="other rows than the index says"):
        gather(entry, whole(positions), ids(names), into, np.arange(len(positions)))


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 2, 1), (4, 4)])
@pytest.mark.parametrize("dtype", ["<f4", "<i4", "<f2", "<f8", ">f8"])
def test_rows_of_another_kind_are_damage(backend, shape, dtype):
    """Where dtype or row shape is not the entry's, though bytes may fit, nothing is served."""
    entry = commit(backend, {"x": random((4, 2), "<f8")})
    with pytest.raises(DamagedError, match="has not the rows that are wanted"):
        gather(entry, np.arange(4), ids(range(4)), {"x": np.zeros(shape, dtype)}, np.arange(4))
    with pytest.raises(DamagedError, match="'z' has not the rows"):
        gather(entry, np.arange(4), ids(range(4)), {"z": np.zeros((4, 2))}, np.arange(4))


@pytest.mark.parametrize("part", ["blob", "row ids", "checks"])
@pytest.mark.parametrize("change", ["missing", "cut", "zeros"])
def test_what_a_gather_needs_may_be_gone(backend, part, change):
    """Rows, row ids or checks that are missing, short or changed are damage, of that blob."""
    stored = random((9000, 20))
    entry = apart(backend, commit(backend, {"x": stored}), "_checks/x/c/0")
    into = allocate(entry.schema, 1)
    gather(entry, whole([5]), ids([5]), into, whole([0]))
    assert np.array_equal(into["x"][0], stored[5])
    key = {"blob": "x/c/0/0", "row ids": "_rows/c/0/0", "checks": "_checks/x/c/0"}[part]
    name, length = entry.manifest.chunks[key].name, entry.manifest.chunks[key].length
    if change == "missing":
        backend.delete([name])
    else:
        backend.put(name, [bytes(length - (change == "cut"))])
    with pytest.raises(DamagedError, match=name):
        gather(entry, whole([5]), ids([5]), into, whole([0]))


def test_an_entry_without_rows_a_sample_lends_none(backend):
    """A result that is not row-aligned has no rows to gather."""
    initialise(backend)
    draft = Draft("xxh3-128")
    draft.add("x", np.zeros((4, 2)))
    header = {"rows": 9, "aligned": False, "form": {"array": "x"}, "derivation": {}, "origin": {}}
    Writer(backend, TABLE, {}).publish(draft, {**header, "table": TABLE, "key": KEY})
    entry = find_entry(backend, TABLE, KEY)
    with pytest.raises(DamagedError, match="other rows"):
        gather(entry, whole([0]), ids([0]), {"x": np.zeros((1, 2))}, whole([0]))


@given(data=st.data(), shape=st.sampled_from(SHAPES), dtype=st.sampled_from(DTYPES))
def test_a_scatter_is_numpys(data, shape, dtype):
    """For all dtypes, shapes, rows and places a scatter does what numpy does."""
    nbytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    rows = data.draw(st.integers(1, max(3, min(9000, 300_000 // nbytes))))
    source = {"x": random((rows, *shape), dtype), "unwanted": np.zeros(rows)}
    positions, places, room = data.draw(wishes(rows))
    into = {"x": random((room, *shape), dtype, 1)}
    expected = into["x"].copy()
    expected[places] = source["x"][positions]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW", data.draw(st.sampled_from([65536, 1 << 21])))
        scatter(source, positions, into, places)
    assert into["x"].tobytes() == expected.tobytes()


def test_allocated_rows_are_of_the_schema():
    """`allocate` gives an array a column, of its dtype and row shape, contiguous and writable."""
    schema = Schema(
        {}, {"a": ("float32", (3, 2)), "b": ("datetime64[ns]", ()), "c": ("bool", (0,))}
    )
    found = allocate(schema, 5)
    assert {name: (a.dtype.str, a.shape) for name, a in found.items()} == {
        "a": ("<f4", (5, 3, 2)),
        "b": ("<M8[ns]", (5,)),
        "c": ("|b1", (5, 0)),
    }
    assert all(a.flags.c_contiguous and a.flags.writeable for a in found.values())
