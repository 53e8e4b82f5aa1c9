"""Gathering from coded columns: the rows that were stored, or damage."""

from __future__ import annotations

import itertools
import json
import uuid

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from castore import arrays
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import layout
from castore.blobs.codec import CODECS
from castore.blobs.shard import rows_per_group
from castore.canonical import seal
from castore.digest import hexdigest
from castore.errors import DamagedError
from castore.identity.rows import from_integers
from castore.table import decoding as module
from castore.table.column import Column
from castore.table.draft import Draft
from castore.table.entry import find_entry
from castore.table.gather import allocate, gather
from castore.table.writer import Writer, initialise, origin

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
NAMES = CODECS[1:]
DTYPES = [
    *("bool", "uint8", "int64", "float16", "float32", "float64", "complex64", "complex128"),
    *("bfloat16", "float8_e5m2", "datetime64[ns]"),
]
#: Rows of no byte, of one, of a few, of several a row group, and longer than one.
SHAPES = [(), (0,), (1,), (3,), (2, 5), (1021,), (1024,), (3, 700), (66_000,), (9, 10_000)]
by_codec = pytest.mark.parametrize("codec", NAMES)


def ids(names):
    """Row ids of integer names."""
    return from_integers("5a" * 16, np.array(names, np.int64))


def random(shape, dtype="uint8", seed=0):
    """Values, half of their bytes zero."""
    kind = arrays.dtype_named(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, size, np.uint8) * rng.integers(0, 2, size, np.uint8)
    return (data & 1 if kind.kind == "b" else data).view(kind).reshape(shape)


def commit(backend, columns, codec, algorithm="xxh3-128"):
    """Publish columns of rows named by position, and return the entry."""
    initialise(backend, algorithm)
    draft = Draft(algorithm)
    for name, array in columns.items():
        draft.add(name, array, codec)
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


def crafted(backend, value, codec="zstd"):
    """Let the entry name `value` as the blob of its column, sealed as it should be."""
    name = layout.entry(TABLE, KEY)
    document = json.loads(backend.get(name))
    digest = hexdigest([value])
    backend.put(layout.blob(digest, 0), [value])
    document["chunks"]["x/c/0/0"] = {"digest": digest, "generation": 0, "length": len(value)}
    del document["digest"]
    backend.put(name, [seal(document)])
    return find_entry(backend, TABLE, KEY)


def taken(entry, positions, places=None, room=None):
    """Rows at `positions`, in a result of `room` rows."""
    positions = np.array(positions, np.int64)
    into = allocate(entry.schema, len(positions) if room is None else room)
    places = np.arange(len(positions)) if places is None else places
    gather(entry, positions, ids(positions), into, places)
    return into


@settings(max_examples=250)
@given(
    data=st.data(),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(NAMES),
)
def test_what_is_written_is_read(data, shape, dtype, codec):
    """Rows of any dtype and shape come back bit by bit: whole, through zarr, and some by some."""
    nbytes = max(1, int(np.prod(shape)) * arrays.dtype_named(dtype).itemsize)
    most = max(3, min(20_000, 500_000 // nbytes))
    rows = data.draw(st.sampled_from([1, 2, 3, most // 3, most - 1, most]))
    stored = {"x": random((rows, *shape), dtype), "y": random((rows,), "uint16", 1)}
    entry = commit(MemoryBackend(uuid.uuid4().hex), stored, codec)

    for name, array in entry.arrays().items():
        assert (array.dtype, array.shape) == (stored[name].dtype, stored[name].shape)
        assert array.tobytes() == stored[name].tobytes()
        assert array.flags.writeable

    store = MemoryStore({key: Buffer.from_bytes(value) for key, value in entry.values()})
    group = zarr.open_group(store, mode="r")
    for name, array in stored.items():
        assert np.asarray(group[name][...]).tobytes() == array.tobytes()

    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    positions = rng.permutation(rows)[: data.draw(st.integers(0, rows))]
    if data.draw(st.booleans()):
        positions = np.sort(positions)
    places = rng.permutation(rows)[: len(positions)]
    if data.draw(st.booleans()):
        places = np.arange(len(positions))
    found = taken(entry, positions, places, rows)
    for name, array in stored.items():
        assert found[name][places].tobytes() == array[positions].tobytes()


@by_codec
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 0, 3], [2, 2, 0, 0], [1, 3]])
def test_groups_in_any_order(codec, order):
    """Groups that are wanted in any order, also twice, come to lie in that order."""
    stored = {"x": random((4 * 8, 8192))}
    entry = commit(MemoryBackend(uuid.uuid4().hex), stored, codec)
    positions = np.concatenate([np.arange(8 * group, 8 * group + 8) for group in order])
    assert np.array_equal(taken(entry, positions)["x"], stored["x"][positions])


@by_codec
@pytest.mark.parametrize("row_nbytes", [8, 1000, 8192, 70_000])
@pytest.mark.parametrize("order", ["in order", "shuffled", "sparse"])
@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
def test_every_flip_among_the_groups_used_is_noticed(codec, row_nbytes, order, algorithm):
    """A flipped bit in the encoded group of a wanted row is damage; in any other it is not read."""
    rows = max(8, 400_000 // row_nbytes)
    backend = MemoryBackend(uuid.uuid4().hex)
    stored = {"x": random((rows, row_nbytes))}
    entry = commit(backend, stored, codec, algorithm)
    ref = entry.manifest.chunks["x/c/0/0"]
    sound = backend.get(ref.name)
    bounds = entry.columns["x"].coded.bounds(np.frombuffer(sound, np.uint8))
    rng = np.random.default_rng(0)
    positions = {"in order": np.arange(rows), "shuffled": rng.permutation(rows)}.get(
        order, np.array([rows - 1, 0])
    )
    used = set((positions // rows_per_group(row_nbytes)).tolist())
    noticed = set()
    places = [at for start in bounds for at in (start - 1, start) if 0 <= at < len(sound)]
    for place in [*places, *rng.integers(0, len(sound), 30).tolist()]:
        data = bytearray(sound)
        data[place] ^= 1 << rng.integers(8)
        backend.put(ref.name, [data])
        group = int(np.searchsorted(bounds, place, side="right")) - 1
        if group in used or place >= bounds[-1]:
            with pytest.raises(DamagedError, match=rf"{ref.digest} is damaged"):
                taken(entry, positions)
            noticed.add(True)
        else:
            assert np.array_equal(taken(entry, positions)["x"], stored["x"][positions])
            noticed.add(False)
    assert noticed == ({True, False} if order == "sparse" and len(bounds) > 3 else {True})


def test_the_copy_is_checked_not_the_source(monkeypatch):
    """What becomes of the source once it was copied neither passes for damage nor hides any."""
    stored = random((2000, 100))
    entry = commit(MemoryBackend(uuid.uuid4().hex), {"x": stored}, "zstd")
    data, checks = entry.unchecked("x")
    monkeypatch.setattr(type(entry), "unchecked", lambda *_: (data, checks))
    check64, end = module.check64, entry.columns["x"].coded.bounds(data)[-1]

    def changing(piece):
        data[:end] = 0
        return check64(piece)

    monkeypatch.setattr(module, "check64", changing)
    assert np.array_equal(taken(entry, range(600))["x"], stored[:600])
    with pytest.raises(DamagedError):
        taken(entry, range(600))


@pytest.mark.parametrize("copy", [False, True])
@by_codec
def test_rows_of_local_files(tmp_path, codec, copy):
    """Mapped and read blobs give the same rows, and what is done to them changes nothing."""
    stored = {"x": random((3000, 512))}
    commit(LocalBackend(tmp_path), stored, codec)
    entry = find_entry(LocalBackend(tmp_path), TABLE, KEY, copy=copy)
    positions = np.random.default_rng(0).permutation(3000)
    for _ in range(2):
        found = taken(entry, positions)["x"]
        assert np.array_equal(found, stored["x"][positions])
        found[...] = 7
        whole = entry.arrays()["x"]
        assert np.array_equal(whole, stored["x"])
        whole[...] = 7


def test_equal_arrays_are_one_blob():
    """An array written twice, in any number of threads, is named by the same digest."""
    for codec in NAMES:
        found = set()
        for threads in (1, 2, 8):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("castore.threads._processors", lambda count=threads: count)
                backend = MemoryBackend(uuid.uuid4().hex)
                entry = commit(backend, {"x": random((40, 70_000), "float32")}, codec)
                found.add(entry.manifest.chunks["x/c/0/0"].digest)
        assert len(found) == 1


def outside(value, column):
    """Let the first group lie beyond the shard."""
    index = bytearray(value[-column.coded.index_nbytes :])
    index[:8] = (2**40).to_bytes(8, "little")
    import google_crc32c

    crc = google_crc32c.value(bytes(index[:-4])).to_bytes(4, "little")
    return value[: -column.coded.index_nbytes] + bytes(index[:-4]) + crc


def replaced(group):
    """Put `group` in place of the first."""

    def change(value, column):
        bounds = column.coded.bounds(np.frombuffer(value, np.uint8))
        groups = [value[a:b] for a, b in itertools.pairwise(bounds)]
        groups[0] = group
        return b"".join(groups) + column.coded.index(list(map(len, groups)))

    return change


CRAFTED = {
    "outside": ("zstd", outside),
    "cut": ("zstd", lambda value, _: value[:100]),
    "zeros": ("blosc", lambda value, _: bytes(len(value))),
    "zstd of 2**60": (
        "zstd",
        replaced(b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\1\0\0"),
    ),
    "blosc of 2**31": (
        "blosc",
        replaced(b"\2\1\x21\1" + b"\xff\xff\xff\x7f\0\0\1\0\x14\0\0\0" + bytes(8)),
    ),
}


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED)
def test_crafted_shards_are_damage(craft):
    """A shard that has its digest and leads nowhere is damage, whole and row by row."""
    codec, change = craft
    backend = MemoryBackend(uuid.uuid4().hex)
    entry = commit(backend, {"x": random((2000, 100))}, codec)
    value = backend.get(entry.manifest.chunks["x/c/0/0"].name)
    entry = crafted(backend, change(value, entry.columns["x"]))
    with pytest.raises(DamagedError, match="'x'"):
        entry.arrays()
    with pytest.raises(DamagedError):
        taken(entry, [0])


@by_codec
def test_another_group_of_the_codecs_is_damage(codec):
    """A group that decodes well, and is not the one whose check is stored, gives no row."""
    backend, stored = MemoryBackend(uuid.uuid4().hex), random((2000, 100))
    entry = commit(backend, {"x": stored}, codec)
    value = backend.get(entry.manifest.chunks["x/c/0/0"].name)
    column = entry.columns["x"]
    other = column.coded.encode(arrays.raw(stored[::-1].copy())[: column.coded.group_nbytes])
    entry = crafted(backend, replaced(other[0])(value, column))
    assert not np.array_equal(entry.arrays()["x"], stored)  # as its digest says
    with pytest.raises(DamagedError):
        taken(entry, [5])
    assert np.array_equal(taken(entry, [1999])["x"], stored[1999:])


@by_codec
def test_castores_own_arrays_are_never_coded(codec):
    """Row ids or row checks that are said to be coded are damage."""
    backend = MemoryBackend(uuid.uuid4().hex)
    commit(backend, {"x": random((2000, 100))}, codec)
    name = layout.entry(TABLE, KEY)
    for column, dtype, shape in (("_rows", "uint8", (2000, 16)), ("_checks/x", "uint64", (4,))):
        document = json.loads(backend.get(name))
        del document["digest"]
        said = Column(column, dtype, shape, codec).metadata()
        document["metadata"][f"{column}/zarr.json"] = said
        backend.put(name, [seal(document)])
        with pytest.raises(DamagedError, match=f"{column!r} are not those of a castore column"):
            taken(find_entry(backend, TABLE, KEY), [0])
        commit(backend, {"x": random((2000, 100))}, codec)
