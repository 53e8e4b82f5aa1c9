"""Columns: metadata that only castore writes, and names that can live on any file system."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from castore import arrays
from castore.blobs.codec import CODECS
from castore.canonical import dumps
from castore.errors import DamagedError
from castore.table.column import CHECKS, ROWS, Column, column_name

DTYPES = [
    *("bool", "int8", "uint16", "int64", "float16", "float32", "complex64", "complex128"),
    *("bfloat16", "float8_e5m2", "datetime64[ns]", "datetime64[25s]", "timedelta64[D]"),
]
shapes = st.lists(st.sampled_from([0, 1, 2, 7, 1000, 70_000]), max_size=4).map(tuple)
plain = st.builds(Column, st.just("features"), st.sampled_from(DTYPES), shapes).filter(
    lambda column: column.nbytes < 2**50 and column.row_nbytes < 2**31 - 16
)
columns = st.builds(Column.with_codec, plain, st.sampled_from(CODECS))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)


INNER = ("codecs", 0, "configuration", "codecs")


def places(document, path=()):
    """Yield the path of every value in `document`."""
    yield path
    if isinstance(document, (dict, list)):
        keys = document if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield from places(document[key], (*path, key))


def replaced(document, path, value):
    """Return a copy of `document` with `value` at `path`."""
    if not path:
        return value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


@given(columns)
def test_metadata_are_read_back(column):
    """What a column says of itself is read back as the same column."""
    assert Column.from_metadata("features", column.metadata()) == column


@given(columns, st.data())
def test_changed_metadata_are_damaged(column, data):
    """Metadata with any value changed are those of another column, or no column's at all."""
    metadata = column.metadata()
    path = data.draw(st.sampled_from(list(places(metadata))))
    changed = replaced(metadata, path, data.draw(values))
    try:
        found = Column.from_metadata("features", changed)
    except DamagedError as error:
        assert "'features'" in str(error)  # noqa: PT017
    else:
        assert same(found.metadata(), changed)
        assert found.dtype in DTYPES or found.dtype == arrays.name_of(np.dtype(found.dtype))


@given(columns, st.data())
def test_metadata_without_a_part_are_damaged(column, data):
    """Metadata that lack any key are not those of a castore column."""
    metadata = column.metadata()
    path = data.draw(st.sampled_from([p for p in places(metadata) if p and isinstance(p[-1], str)]))
    changed = copy.deepcopy(metadata)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    assume(path[0] != "attributes" or "castore" in metadata["attributes"])
    try:
        found = Column.from_metadata("features", changed)
    except DamagedError:
        return
    assert found != column  # without its mark an extended type is its carrier
    assert same(found.metadata(), changed)


def same(one, two):
    """Tell whether two documents are the same text: 1, 1.0 and true are three numbers."""
    try:
        return dumps(one) == dumps(two)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("column", "path", "value"),
    [
        (Column("a", "int32", (3,)), ("fill_value",), False),
        (Column("a", "bool", (3,)), ("fill_value",), 0),
        (Column("a", "int32", (3,)), ("fill_value",), 0.0),
        (Column("a", "float32", (3, 1)), ("chunk_grid", "configuration", "chunk_shape", 1), True),
        (Column("a", "int32", (3,)), ("zarr_format",), 3.0),
        (Column("a", "int32", (1,)), ("shape", 0), True),
        (Column("a", "int32", (3,)), ("shape", 0), 3.0),
        (Column("a", "int32", (3,)), ("attributes",), {"mine": 1}),
        (Column("a", "int32", (3,)), ("attributes",), None),
        (Column("a", "int32", (3,)), ("attributes",), {"castore": {"dtype": "uint32"}}),
        (Column("a", "int32", (3,)), ("codecs",), []),
        (Column("a", "int32", (3,)), ("data_type",), "r32"),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "name"), "none"),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "name"), "gzip"),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "name"), ["zstd"]),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "configuration", "level"), 4),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "configuration", "level"), 3.0),
        (Column("a", "int32", (3,), "zstd"), (*INNER, 1, "configuration", "checksum"), False),
        (Column("a", "int32", (3,), "blosc"), (*INNER, 1, "configuration", "typesize"), 1),
        (Column("a", "int32", (3,), "blosc"), (*INNER, 1, "configuration", "shuffle"), 1),
        (Column("a", "int32", (3,), "blosc"), (*INNER, 2, "name"), "crc32"),
        (Column("a", "int32", (3,), "blosc"), (*INNER, 0, "name"), "transpose"),
    ],
    ids=str,
)
def test_metadata_of_nearly_a_column_are_damaged(column, path, value):
    """Metadata that Python finds equal, or that only zarr would take, are not castore's."""
    with pytest.raises(DamagedError, match="not those of a castore column"):
        Column.from_metadata("a", replaced(column.metadata(), path, value))


@pytest.mark.parametrize(
    "name", [None, "f4", ">f4", "<i8", "float", "int", "i4,(", "(2,i4", "O", 5]
)
def test_only_castores_own_names_of_dtypes_are_taken(name):
    """A dtype is called as castore calls it; what numpy would make of another name is not asked."""
    metadata = Column("a", "float64", (2,)).metadata()
    metadata["attributes"] = {"castore": {"dtype": name}}
    for data_type in ("float32", "float64", "int64", "uint32"):
        with pytest.raises(DamagedError):
            Column.from_metadata("a", {**metadata, "data_type": data_type})


@pytest.mark.parametrize("name", ["datetime64[s/0]", "timedelta64[D/0]", "datetime64[1000000ns/0]"])
def test_no_name_of_a_dtype_kills_the_process(name):
    """A crafted dtype on which numpy divides by zero is damaged, and nobody dies of it."""
    metadata = Column("a", "datetime64[s]", (2,)).metadata()
    metadata["attributes"] = {"castore": {"dtype": name}}
    script = (
        "import sys, json\nfrom castore.table.column import Column\n"
        "from castore.errors import DamagedError\n"
        "try: Column.from_metadata('a', json.loads(sys.argv[1]))\n"
        "except DamagedError: print('damaged')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, dumps(metadata).decode()],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (run.returncode, run.stdout) == (0, "damaged\n"), run.stderr[-500:]


@pytest.mark.parametrize(
    "shape",
    [(2**60,), (2**31, 2**31), (2**70,), (0, 2**70), (0, 2**62), (0, 2**40, 2**40), (1,) * 65],
    ids=lambda shape: str(shape)[:24],
)
def test_shapes_no_array_can_have_are_damaged(shape):
    """A shape that numpy has no array of is damaged, also where the array has no element."""
    column = Column("a", "float32", shape)
    with pytest.raises(DamagedError):
        Column.from_metadata("a", column.metadata()).view(np.empty(0, np.uint8))


@pytest.mark.parametrize("metadata", [None, [], {}, "text", 5, {"attributes": {}}, {"shape": [1]}])
def test_other_documents_are_damaged(metadata):
    """What is no Zarr array is damaged, told with the name of the column."""
    with pytest.raises(DamagedError, match="'features'"):
        Column.from_metadata("features", metadata)


@given(columns)
def test_a_codec_changes_nothing_but_the_codecs(column):
    """Metadata of a coded column are those of the plain one, with more codecs behind `bytes`."""
    bare = dataclasses.replace(column, codec="none")
    metadata, expected = column.metadata(), bare.metadata()
    if column.coded:
        inner = metadata["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in inner[:2]] == ["bytes", column.codec]
        del inner[1:]
    assert metadata == expected
    assert column.may_take(column.chunk_nbytes)
    assert column.may_take(column.chunk_nbytes + 1) == (column.coded is not None)
    assert not column.may_take(column.chunk_nbytes - 1)


@given(plain)
def test_sizes_agree_with_numpy(column):
    """Lengths are those of the numpy array; what has no element has no chunk."""
    itemsize = arrays.dtype_named(column.dtype).itemsize
    assert column.nbytes == math.prod(column.shape) * itemsize
    assert column.row_nbytes == math.prod(column.shape[1:]) * itemsize
    assert (column.chunk_key is None) == (column.nbytes == 0)
    assert (column.shard is None) == (not column.shape or column.nbytes == 0)
    assert column.chunk_nbytes == column.nbytes + (len(column.tail()) if column.nbytes else 0)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (4, 0), (2, 3, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_is_the_array(dtype, shape):
    """The bytes of an array and what follows them view as that array, bit for bit, in place."""
    size = math.prod(shape) * arrays.dtype_named(dtype).itemsize
    array = (np.arange(size) % 2).astype(np.uint8).view(arrays.dtype_named(dtype)).reshape(shape)
    column = Column.of("a", array)
    data = np.frombuffer(bytearray(arrays.raw(array).tobytes() + column.tail()), np.uint8)
    view = column.view(data)
    assert (view.dtype, view.shape) == (array.dtype, array.shape)
    assert view.tobytes() == array.tobytes()
    assert size == 0 or np.shares_memory(view, data)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "result"),
        (("features",), "features"),
        ((0,), "0"),
        (("a", 1, "b"), "a.1.b"),
        (("x" * 64,), "x" * 64),
        (("x" * 65,), "column-0"),
        (("",), "result"),
        (("a/b",), "column-0"),
        (("..",), "column-0"),
        ((".hidden",), "column-0"),
        (("_rows",), "column-0"),
        (("_checks",), "column-0"),
        (("__array__",), "column-0"),
        (("größe",), "column-0"),
        (("a b",), "column-0"),
        (("a\n",), "column-0"),
        (("\ud800",), "column-0"),
        ((True,), "True"),
        ((-1.5,), "column-0"),
    ],
    ids=ascii,
)
def test_names_are_paths_where_those_are_plain(path, name):
    """A column is called by its path in the result, or by a number where that is no plain name."""
    assert column_name(path, set()) == name


def test_names_are_not_those_of_documents():
    """No column has the name of a Zarr document, whose file would lie where its folder goes."""
    assert column_name(("zarr.json",), set()) != "zarr.json"
    assert column_name(("Zarr.JSON",), set()).lower() != "zarr.json"


parts = st.sampled_from(
    ["a", "A", "Column-0", "column-1", "COLUMN-2", "é", "", "..", "a/b", "zarr.json"]
)
paths = st.tuples(parts | st.integers(0, 3) | st.text(max_size=3), st.none() | parts).map(
    lambda pair: tuple(part for part in pair if part is not None)
)


@given(st.lists(paths, max_size=12))
@example([("Column-0",), ("é",)])
@example([("zarr.json",), ("ZARR.json",)])
def test_names_differ_in_more_than_case(found):
    """Whatever the paths, names are Zarr node names, and none differs from another in case only."""
    taken = set()
    for path in found:
        name = column_name(path, taken)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name)
        assert name.lower() not in {other.lower() for other in taken}
        assert name not in (ROWS, CHECKS)
        taken.add(name)
