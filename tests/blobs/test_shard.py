"""Shards: sizes, tails and row checks, held against zarr and against a second opinion."""

from __future__ import annotations

import asyncio
import itertools
import math

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
import xxhash
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.core.buffer import default_buffer_prototype

from castore import arrays
from castore.blobs.parts import Checks
from castore.blobs.shard import GROUP_NBYTES, Shard, checks, rows_per_group
from castore.canonical import dumps
from castore.table.column import Column

DTYPES = [
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("datetime64[ns]", "datetime64[D]", "datetime64[25s]", "timedelta64[ms]"),
]
SHAPES = [
    *((), (0,), (1,), (5,), (0, 3), (4, 0), (0, 0), (3, 1, 2), (2, 0, 3), (1000, 7)),
    *((70_000,), (5, 70_000), (3, 66, 1000), (40, 100, 9)),
]
ones = st.integers(1, 300)
shards = st.builds(
    Shard,
    rows=ones | st.sampled_from([2**16, 2**17 + 1]),
    row_nbytes=ones | st.sampled_from([GROUP_NBYTES // 2, GROUP_NBYTES - 1, GROUP_NBYTES]),
)


def bits(dtype, shape):
    """Random bits of `dtype`, NaN payloads among them; booleans are 0 or 1."""
    size = math.prod(shape) * dtype.itemsize
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    return (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(shape)


def value_of(column, array):
    """The value castore stores under the column's chunk key."""
    return arrays.raw(array).tobytes() + column.tail()


def stored(column, array):
    """A Zarr store in memory that has the column as castore writes it."""
    store = zarr.storage.MemoryStore()
    values = {column.metadata_key: dumps(column.metadata())}
    if column.chunk_key:
        values[column.chunk_key] = value_of(column, array)

    async def fill():
        for key, value in values.items():
            await store.set(key, default_buffer_prototype().buffer.from_bytes(value))

    asyncio.run(fill())
    return store


def written_by_zarr(column, array):
    """The value zarr itself writes for `array` under the column's metadata."""
    store = zarr.storage.MemoryStore()
    shard = column.shard
    zarr.create_array(
        store,
        name=column.name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(shard.group_rows, *array.shape[1:]),
        shards=(shard.groups * shard.group_rows, *array.shape[1:]),
        compressors=None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )[...] = array

    async def read():
        return await store.get(column.chunk_key, default_buffer_prototype())

    return asyncio.run(read()).to_bytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
def test_zarr_reads_what_castore_writes(name, shape):
    """Zarr reads a column of any dtype and shape bit by bit, where it lies and as its own type."""
    array = bits(arrays.dtype_named(name), shape)
    column = Column.of("features", array)
    found = zarr.open_array(stored(column, array), path="features", mode="r")
    assert found.shape == shape
    assert found.dtype == arrays.carrier(name)
    assert np.asarray(found[...]).tobytes() == array.tobytes()
    marked = found.attrs.get("castore", {}).get("dtype", found.dtype.name)
    assert marked == name


@given(hnp.arrays(st.sampled_from(["<f4", "<i8", "u1", "<c8"]), hnp.array_shapes(min_dims=1)))
def test_zarr_reads_any_small_array(array):
    """Zarr reads small arrays of any number of axes element by element."""
    column = Column.of("a", array)
    found = zarr.open_array(stored(column, array), path="a", mode="r")
    assert found[...].tobytes() == array.tobytes()
    assert found[-1].tobytes() == array[-1].tobytes()


@pytest.mark.parametrize("shape", [(1,), (7, 3), (1000, 7), (70_000,), (3, 70_000), (40, 100, 9)])
@pytest.mark.parametrize("name", ["float32", "uint8", "complex128"])
def test_zarr_writes_what_castore_writes(name, shape):
    """A shard has exactly the bytes that zarr's own sharding codec writes for the array."""
    array = bits(np.dtype(name), shape)
    column = Column.of("features", array)
    assert value_of(column, array) == written_by_zarr(column, array)


def test_bfloat16_is_read_as_its_bits():
    """A reader without castore has bfloat16 values after one view of the integers it reads."""
    array = np.array([1.5, -0.0, np.inf, np.nan, 3e38], ml_dtypes.bfloat16)
    column = Column.of("a", array)
    found = zarr.open_array(stored(column, array), path="a", mode="r")[...]
    assert found.dtype == np.uint16
    assert found.view(ml_dtypes.bfloat16).tobytes() == array.tobytes()


def test_zarr_notices_a_damaged_index():
    """The index of a shard has a check of its own, which zarr compares."""
    array = np.arange(10, dtype="<i4")
    column = Column.of("a", array)
    store = stored(column, array)
    value = bytearray(value_of(column, array))
    value[-10] ^= 1
    asyncio.run(store.set(column.chunk_key, default_buffer_prototype().buffer.from_bytes(value)))
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(store, path="a", mode="r")[...]


@given(shards)
def test_sizes_agree_with_each_other(shard):
    """Data and tail are the whole shard, and its groups hold every row once."""
    assert shard.data_nbytes + len(shard.tail()) == shard.nbytes
    assert (shard.groups - 1) * shard.group_rows < shard.rows <= shard.groups * shard.group_rows
    assert 1 <= shard.group_rows <= shard.rows
    assert shard.group_rows == 1 or shard.group_rows * shard.row_nbytes <= GROUP_NBYTES


@given(shards)
def test_tails_say_where_each_group_lies(shard):
    """A tail is zeros, then offset and length of each full group, then the CRC-32C of those."""
    tail = shard.tail()
    crc, index = tail[-4:], tail[-4 - 16 * shard.groups : -4]
    assert int.from_bytes(crc, "little") == google_crc32c.value(index)
    group = shard.group_rows * shard.row_nbytes
    pairs = np.frombuffer(index, "<u8").reshape(-1, 2).tolist()
    assert pairs == [[n * group, group] for n in range(shard.groups)]
    assert not any(tail[: len(tail) - len(index) - 4])


@given(st.integers(1, 4 * GROUP_NBYTES))
def test_a_group_is_as_many_rows_as_fit(row_nbytes):
    """A full group is as many rows as fit 64 KiB, and at least one."""
    rows = rows_per_group(row_nbytes)
    assert rows == 1 or rows * row_nbytes <= GROUP_NBYTES
    assert (rows + 1) * row_nbytes > GROUP_NBYTES


@given(st.binary(max_size=300), st.sampled_from([1, 3, 1000, GROUP_NBYTES, GROUP_NBYTES + 1]))
def test_row_checks_are_those_of_each_group(seed, row_nbytes):
    """Row checks are xxh3-64 of each group of rows; the last may be short."""
    rows = 2 * rows_per_group(row_nbytes) + 1
    data = np.resize(np.frombuffer(seed + b"x", np.uint8), rows * row_nbytes)
    group = rows_per_group(row_nbytes)
    expected = [
        xxhash.xxh3_64(data[start * row_nbytes : (start + group) * row_nbytes]).intdigest()
        for start in (0, group, 2 * group)
    ]
    assert checks(data, row_nbytes).tolist() == expected
    assert checks(data, row_nbytes).dtype == np.dtype("<u8")


@given(
    rows=st.integers(0, 9),
    row_nbytes=st.sampled_from([1, 5000, 20_000, 40_000, 70_000]),
    cuts=st.lists(st.floats(0, 1), max_size=8),
)
def test_row_checks_do_not_depend_on_the_pieces(rows, row_nbytes, cuts):
    """Rows that arrive in pieces of any length have the checks they have as a whole."""
    data = bits(np.dtype("u1"), (rows * row_nbytes,))
    ends = [0, *sorted(int(cut * data.size) for cut in cuts), data.size]
    running = Checks(rows_per_group(row_nbytes) * row_nbytes)
    for start, end in itertools.pairwise(ends):
        running.update(data[start:end])
    found = running.finish()
    assert found.tolist() == checks(data, row_nbytes).tolist()
    assert found.dtype == np.dtype("<u8")


def test_row_checks_take_any_buffer():
    """A batch counts by its bytes, whatever its item size."""
    running = Checks(rows_per_group(8) * 8)
    running.update(np.arange(3, dtype="<f8"))
    running.update(np.arange(3, 5, dtype="<f8").tobytes())
    assert running.finish().tolist() == checks(arrays.raw(np.arange(5.0)), 8).tolist()
