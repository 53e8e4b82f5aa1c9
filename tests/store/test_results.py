"""The forms a result may have: the same on a miss and on a hit, bit for bit."""

from __future__ import annotations

import collections
import math

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

import castore
from castore.errors import ResultError

ROWS = np.arange(12)

Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024


def same(a, b):
    """Tell whether two results are of one form, dtype and bits."""
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (math.isnan(a) and math.isnan(b)))


@pytest.fixture
def keep(tmp_path):
    """Return a function that keeps a result and returns it as put and as found."""
    store = castore.open(tmp_path)

    def kept(result):
        store.put(ROWS, result, "r", rowwise=False)
        return store.get(ROWS, suffix="r")

    return kept


DTYPES = [
    *[
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ],
    *["complex64", "complex128", "datetime64[ns]", "timedelta64[ms]"],
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(12, 3), (12,), (0, 3), (3, 0), (), (12, 2, 3, 1), (1, 40_000)])
def test_every_dtype_and_shape(keep, dtype, shape):
    """Arrays of every dtype and shape come back with equal dtype, shape and bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 2, size, np.uint8)
    array = raw.view(dtype).reshape(shape)
    assert same(keep(array), array)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int64, np.complex64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    )
)
def test_arbitrary_arrays(array):
    """Any array, NaN payloads and signed zeros included, comes back bit for bit."""
    store = castore.open("memory://arbitrary")
    store.put(ROWS, array, "r", rowwise=False)
    assert same(store.get(ROWS, suffix="r"), array)


def test_layouts_come_back_contiguous(keep):
    """Fortran order, strides and foreign byte order change nothing but the layout."""
    base = np.arange(60.0).reshape(12, 5)
    for array in (np.asfortranarray(base), np.repeat(base, 2, 0)[::2], base.astype(">f8")):
        found = keep(array)
        assert found.flags.c_contiguous
        assert same(found, base)


@pytest.mark.parametrize(
    "result",
    [
        (ROWS, ROWS * 2.0),
        [ROWS, ROWS.astype("f4")],
        Pair(ROWS, 3),
        {"a": ROWS, "b": {"c": (ROWS, None), "d": [1.5, 2.5]}},
        {1: ROWS, "1": ROWS + 1, 1.0e3: "text", True + 1: False},
        {"a/b": ROWS, "": ROWS, "Ä": ROWS, "..": ROWS, "A": ROWS, "a": ROWS},
        {"labels": ["cat", "", "ünïcode", "a" * 70_000], "n": 2**80, "f": -0.0, "t": True},
        {"nan": math.nan, "inf": math.inf, "numbers": [1, 2, 3], "flags": [True, False]},
        [[], (), {}],
        np.float32(2.5),
        3.0,
        "text",
        [2**70, 1],
        {f"column {i}": ROWS + i for i in range(100)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_container(keep, result):
    """Containers, numbers and strings come back as the same types with the same values."""
    assert same(keep(result), result)


def test_a_miss_returns_what_a_hit_returns(tmp_path):
    """The value of the computing call has the form and types of the value found."""
    store = castore.open(tmp_path)

    def results(loader):
        values = np.asfortranarray(np.arange(24.0).reshape(12, 2)).astype(">f4")
        values.flags.writeable = False
        return {"values": values, "names": ("x", 1), "pair": Pair(ROWS, [1.0])}

    computed = store.get_or_compute(ROWS, results, "r", model=None)
    found = store.get_or_compute(ROWS, results, "r", model=None)
    assert store.stats().hits == 1
    assert same(computed, found)
    assert computed["values"].flags.writeable
    assert found["values"].flags.writeable
    assert type(found["pair"]) is Pair


def test_batches_are_streamed_into_columns(tmp_path):
    """What a generator yields comes back as whole arrays, on the miss and on the hit."""
    store = castore.open(tmp_path)
    rows = np.arange(70_000)

    def batches(loader):
        for start in range(0, len(loader), 9_000):
            part = np.asarray(loader[start : start + 9_000])
            yield {"square": part**2, "image": np.repeat(part[:, None], 3, 1).astype("f4")}

    computed = store.get_or_compute(rows, batches, "b", model=None)
    found = store.get_or_compute(rows, batches, "b", model=None)
    assert same(computed, found)
    assert np.array_equal(found["square"], rows**2)
    assert found["image"].shape == (70_000, 3)
    assert computed["image"].flags.writeable


def test_streamed_and_whole_results_share_their_bytes(tmp_path):
    """The same rows, yielded or returned, make the same blobs."""
    store = castore.open(tmp_path)
    rows = np.arange(50_000.0)
    store.put(rows, rows, "whole")
    store.put(rows, iter([rows[:17], rows[17:30_000], rows[30_000:]]), "streamed")
    one, two = (store.entry(store.info(rows, suffix=s).key) for s in ("whole", "streamed"))
    assert one.manifest.same_content(two.manifest)
    assert one.manifest.blobs == two.manifest.blobs


BAD = {
    "nothing": (None, "returned None"),
    "object array": (np.array([{}, []], object), "dtype object"),
    "strings array": (np.array(["a", "b"]), "dtype <U1"),
    "masked": (np.ma.masked_array([1.0], [True]), "filled"),
    "unknown type": (object(), "builtins.object"),
    "set": ({1, 2}, "builtins.set"),
    "tuple key": ({(1, 2): ROWS}, "keys are strings or numbers"),
    "batches": ([np.zeros((5, 2)), np.zeros((5, 2)), np.zeros((2, 2))], "np.concatenate"),
    "rows": ([np.zeros(3)] * 12, "np.stack"),
    "ragged": ([np.zeros(n) for n in range(12)], "differing shape"),
    "dicts": ([{"a": np.zeros(1)}] * 12, "one dict of arrays"),
    "long double": (np.zeros(12, np.longdouble), "longdouble|float128"),
    "structured": (np.zeros(12, "i4,f4"), "dtype"),
    "lone surrogate": (["\ud800"], "Unicode"),
}


@pytest.mark.parametrize("name", BAD)
def test_unstorable_results_say_what_to_return(tmp_path, name):
    """What has no form is refused in words that help, with the result, and nothing is stored."""
    result, words = BAD[name]
    store = castore.open(tmp_path)
    with pytest.raises(ResultError, match=words) as raised:
        store.get_or_compute(ROWS, lambda _: result, "bad", model=None)
    assert raised.value.result is result
    assert list(store.entries()) == []


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "yielded nothing"),
        ([np.zeros((11, 2))], "11 rows for 12"),
        ([np.zeros((6, 2)), np.zeros((6, 3))], "another form"),
        ([np.zeros((6, 2)), np.zeros((6, 2), "f4")], "another form"),
        ([np.zeros((6, 2)), (np.zeros((6, 2)),)], "another form"),
        ([(np.zeros(6), np.zeros(5))], "equally many"),
        ([3.0], "no arrays of rows"),
        ([np.array(object())], "dtype object"),
    ],
)
def test_unstorable_batches_keep_the_rows_so_far(tmp_path, batches, words):
    """A generator that goes wrong is refused with the rows it had yielded."""
    store = castore.open(tmp_path)
    with pytest.raises(ResultError, match=words) as raised:
        store.get_or_compute(ROWS, lambda _: iter(batches), "bad", model=None)
    assert raised.value.partial
    if isinstance(batches[0] if batches else None, np.ndarray) and batches[0].dtype != object:
        assert np.array_equal(raised.value.result, batches[0])
    assert list(store.entries()) == []
    assert not list((tmp_path / "tmp").iterdir())


def test_row_counts_that_look_like_accidents(tmp_path):
    """``rowwise=True`` insists on a row a sample; by default only a lost batch is suspected."""
    store = castore.open(tmp_path)
    with pytest.raises(ResultError, match="11 rows for 12 samples"):
        store.get_or_compute(ROWS, lambda _: np.zeros(11), "a", model=None, rowwise=True)
    assert store.get_or_compute(ROWS, lambda _: np.zeros(11), "a", model=None).shape == (11,)
    assert store.info(ROWS, suffix="a").rows == 12
