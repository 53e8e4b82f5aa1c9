"""Coded shards: groups one after another, an index that is not believed, and zarr reads them."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from castore import arrays
from castore.blobs.codec import CODECS
from castore.blobs.coded import CodedShard, checks
from castore.blobs.shard import Shard
from castore.canonical import dumps
from castore.digest import check64
from castore.errors import DamagedError
from castore.table.column import Column

ROOT = Path(__file__).parents[2]
NAMES = CODECS[1:]
DTYPES = [
    *("bool", "int8", "uint16", "int32", "uint64", "float16", "float32", "float64"),
    *("complex64", "complex128", "bfloat16", "float8_e4m3fn", "datetime64[ns]", "timedelta64[D]"),
]
#: A row, several groups, a short last group, rows longer than a group, more axes.
SHAPES = [(1,), (7, 3), (70_000,), (1000, 7, 5), (3, 70_000), (5, 1, 9, 4), (200, 333)]
by_name = pytest.mark.parametrize("codec", NAMES)


def bits(dtype, shape):
    """Values of `dtype` that any codec can make shorter, NaN payloads among them."""
    size = math.prod(shape) * dtype.itemsize
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size, np.uint8) * rng.integers(0, 2, size, np.uint8)
    return (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(shape)


def shard_of(column, array):
    """The value castore stores under the column's chunk key, and its groups."""
    groups = column.coded.encode(arrays.raw(array))
    index = column.coded.index([len(group) for group in groups])
    return np.frombuffer(b"".join(groups) + index, np.uint8), groups


def decoded(coded, data):
    """The rows of a shard."""
    return coded.decode(data, lambda nbytes: np.empty(nbytes, np.uint8))


def opened(column, data):
    """The array that zarr finds where castore wrote a column."""
    values = {column.metadata_key: dumps(column.metadata()), column.chunk_key: data.tobytes()}
    buffers = {key: zarr.core.buffer.cpu.Buffer.from_bytes(v) for key, v in values.items()}
    return zarr.open_array(MemoryStore(buffers), path=column.name, mode="r")


@by_name
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_and_castore_read_the_same(dtype, shape, codec):
    """A coded column of any dtype and shape is read bit by bit, by zarr and by castore."""
    array = bits(arrays.dtype_named(dtype), shape)
    column = Column.of("features", array).with_codec(codec)
    data, _ = shard_of(column, array)
    assert column.may_take(len(data))
    assert column.view(decoded(column.coded, data)).tobytes() == array.tobytes()
    found = opened(column, data)
    assert (found.shape, found.dtype) == (shape, arrays.carrier(dtype))
    assert np.asarray(found[...]).tobytes() == array.tobytes()
    assert np.asarray(found[-1]).tobytes() == array[-1].tobytes()


@pytest.mark.parametrize("shape", [(1,), (1000, 7), (70_000,), (3, 70_000), (40, 100, 9)])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "complex128"])
@by_name
def test_zarr_writes_what_castore_writes(codec, dtype, shape):
    """A coded shard has exactly the bytes that zarr's own codecs write for the array."""
    array = bits(np.dtype(dtype), shape)
    column = Column.of("features", array).with_codec(codec)
    data, groups = shard_of(column, array)
    inner = column.metadata()["codecs"][0]["configuration"]["codecs"]
    store = MemoryStore()
    shard = column.shard
    zarr.create_array(
        store,
        name="features",
        shape=shape,
        dtype=array.dtype,
        chunks=(shard.group_rows, *shape[1:]),
        shards=(shard.groups * shard.group_rows, *shape[1:]),
        compressors=inner[1:],
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )[...] = array
    theirs = store._store_dict[column.chunk_key].to_bytes()
    # Zarr lays the groups in an order of its own: compared one by one.
    index = np.frombuffer(theirs[-16 * len(groups) - 4 : -4], "<u8").reshape(-1, 2).tolist()
    assert [theirs[start : start + length] for start, length in index] == groups
    assert len(theirs) == len(data)


@by_name
def test_the_index_is_what_the_format_says(codec):
    """Groups lie one after another, and the index has where and how long, with its CRC-32C."""
    array = bits(np.dtype("f4"), (1000, 100))
    column = Column.of("x", array).with_codec(codec)
    data, groups = shard_of(column, array)
    lengths = [len(group) for group in groups]
    starts = [0, *itertools.accumulate(lengths)]
    assert data[: starts[-1]].tobytes() == b"".join(groups)
    index = data[starts[-1] :].tobytes()
    pairs = np.frombuffer(index[:-4], "<u8").reshape(-1, 2).tolist()
    assert pairs == [[a, b] for a, b in zip(starts, lengths, strict=False)]
    assert index[-4:] == google_crc32c.value(index[:-4]).to_bytes(4, "little")
    assert column.coded.bounds(data) == starts
    assert checks(groups).tolist() == [check64(group) for group in groups]


SHARD = CodedShard(Shard(40, 16_384), "zstd", 4)
ROWS = np.arange(40 * 4096, dtype="<u4").view(np.uint8)
GROUPS = SHARD.encode(ROWS)
DATA = np.frombuffer(b"".join(GROUPS) + SHARD.index(list(map(len, GROUPS))), np.uint8)


def reindexed(change):
    """The shard with its index changed, and a right checksum behind that."""
    pairs = np.frombuffer(DATA[-SHARD.index_nbytes : -4].tobytes(), "<u8").reshape(-1, 2).copy()
    change(pairs)
    index = pairs.tobytes()
    crc = google_crc32c.value(index).to_bytes(4, "little")
    return np.frombuffer(DATA[: -SHARD.index_nbytes].tobytes() + index + crc, np.uint8)


def put(place, value):
    """A change of one number."""

    def change(pairs):
        pairs[place] = value

    return change


def wrap(pairs):
    """Let the lengths of two groups reach around all numbers, and add up."""
    pairs[0, 1] = pairs[1, 0] = 2**63
    pairs[1, 1] = pairs[2, 0] + 2**63


def cut(pairs):
    """Let the last group end before the index."""
    pairs[9, 1] -= 1


def swap(pairs):
    """Let two groups change places."""
    pairs[[1, 2]] = pairs[[2, 1]]


CHANGES = {
    "outside": put((3, 0), 2**40),
    "at the end": put((9, 0), len(DATA)),
    "beyond any number": put((3, 0), 2**64 - 1),
    "missing, as zarr says it": put((3, slice(None)), 2**64 - 1),
    "as long as anything": put((3, 1), 2**64 - 1),
    "longer than the shard": put((9, 1), len(DATA)),
    "empty": put((3, 1), 0),
    "overlapping": put((3, 0), 0),
    "swapped": swap,
    "around all numbers": wrap,
    "not to the end": cut,
    "one byte late": put((0, 0), 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_index_that_leads_elsewhere_is_damage(change):
    """An index of groups outside the shard, or out of order, is damage, with a right crc too."""
    assert decoded(SHARD, reindexed(lambda _: None)).tobytes() == ROWS.tobytes()
    with pytest.raises(DamagedError, match="index"):
        decoded(SHARD, reindexed(change))


@given(st.integers(0, 8 * len(DATA) - 1))
def test_a_flipped_bit_is_damage(bit):
    """A flipped bit anywhere in a shard never gives other rows, whatever the digest of the blob."""
    data = DATA.copy()
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(DamagedError):
        assert decoded(SHARD, data).tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("length", [0, 3, SHARD.index_nbytes - 1, SHARD.index_nbytes, 1000])
def test_a_short_shard_is_damage(length):
    """A shard without room for its index, or for its groups, is damage."""
    with pytest.raises(DamagedError):
        decoded(SHARD, DATA[len(DATA) - length :])


HUGE = """
import resource, sys
import numpy as np
from castore.blobs.coded import CodedShard
from castore.blobs.shard import Shard
from castore.errors import DamagedError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for codec in ("zstd", "blosc"):
    shard = CodedShard(Shard(1, 2**45), codec, 1)
    group = CodedShard(Shard(1, 4096), codec, 1).encode(np.zeros(4096, np.uint8))
    data = np.frombuffer(group[0] + shard.index([len(group[0])]), np.uint8)
    try:
        shard.decode(data, lambda nbytes: np.empty(nbytes, np.uint8))
    except DamagedError:
        print("damaged")
"""


def test_nobody_makes_room_for_what_cannot_be():
    """A few bytes that are to be terabytes are damage before memory is asked for."""
    run = subprocess.run(
        [sys.executable, "-c", HUGE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (run.returncode, run.stdout) == (0, "damaged\n" * 2), run.stderr[-500:]


@by_name
def test_zeros_are_no_denser_than_is_believed(codec):
    """The most regular row there is still passes for what a codec makes of one."""
    rows = np.zeros((2, 40_000_000), np.uint8)
    column = Column.of("x", rows).with_codec(codec)
    data, _ = shard_of(column, rows)
    assert column.may_take(len(data))
    assert not decoded(column.coded, data).any()


def test_bfloat16_is_read_as_its_bits():
    """A reader without castore has bfloat16 values after one view of the integers it reads."""
    array = np.array([1.5, -0.0, np.inf, np.nan, 3e38], ml_dtypes.bfloat16)
    column = Column.of("a", array).with_codec("zstd")
    found = opened(column, shard_of(column, array)[0])[...]
    assert found.view(ml_dtypes.bfloat16).tobytes() == array.tobytes()
