"""What a function returned, whole or batch by batch, in columns or refused with what there is."""

from __future__ import annotations

import contextlib
import itertools
import typing
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.errors import ConfigError, ResultError
from castore.table.result import LEAVES, Sink, collect
from castore.table.tree import assemble

ROWS = np.arange(60, dtype="<f4").reshape(20, 3)


class Pair(typing.NamedTuple):
    """Two arrays of rows."""

    first: typing.Any
    second: typing.Any


@pytest.fixture(params=["local", "memory", "nowhere"])
def sink(request, tmp_path):
    """Where streamed rows go: to a store, or, where none can be written, nowhere."""
    backend = {
        "local": lambda: LocalBackend(tmp_path / "store"),
        "memory": lambda: MemoryBackend(uuid.uuid4().hex),
        "nowhere": lambda: None,
    }[request.param]()
    with contextlib.ExitStack() as stack:
        yield Sink(lambda: backend and stack.enter_context(backend.upload()))


def batches(array, size=8):
    """Yield `array` some rows at a time."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def refusal(returned, sink, rows=None):
    """The error by which `returned` is refused."""
    with pytest.raises(ResultError) as caught:
        collect(returned, rows, "features", sink)
    return caught.value


def test_arrays_come_whole(sink):
    """A result that is no generator is kept as it is, without an upload."""
    result = collect({"x": ROWS, "n": 3}, 20, "features", sink)
    assert result.streams == {}
    assert result.extents() == {"x": 20}
    value = result.value("numpy")
    assert value["n"] == 3
    assert np.shares_memory(value["x"], ROWS)


def test_read_only_arrays_come_back_writable(sink):
    """A result that cannot be written to comes back as a copy that can, as it does from a hit."""
    frozen = ROWS.copy()
    frozen.flags.writeable = False
    value = collect(frozen, 20, "features", sink).value("numpy")
    value[0] = 7
    assert frozen[0, 0] == 0


def test_generators_are_joined(sink):
    """Batches of any length become one array of all rows, private and writable."""
    result = collect(batches(ROWS), 20, "features", sink)
    value = result.value("numpy")
    assert value.tobytes() == ROWS.tobytes()
    assert (value.dtype, value.shape) == (ROWS.dtype, ROWS.shape)
    value[...] = 0
    assert result.value("numpy").tobytes() == ROWS.tobytes()
    assert result.extents() == {"result": 20}


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"a": a, "b": {"c": b}},
        lambda a, b: Pair(a, (b,)),
    ],
    ids=["tuple", "list", "dict", "named"],
)
def test_generators_may_yield_containers(join, sink):
    """Batches of several arrays, in any container, become that container of joined arrays."""
    labels = np.arange(20)
    pairs = zip(batches(ROWS), batches(labels), strict=True)
    value = collect((join(a, b) for a, b in pairs), 20, "features", sink).value("numpy")
    expected = join(ROWS, labels)
    assert repr(value) == repr(expected)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_any_batch_sizes_give_the_same_rows(sizes):
    """However many rows come at a time, none among them, the joined rows are the same."""
    rows = np.arange(3 * sum(sizes)).reshape(-1, 3)
    ends = np.cumsum([0, *sizes])
    told = []
    sink = Sink(lambda: None, on_rows=told.append)
    pieces = (rows[a:b] for a, b in itertools.pairwise(ends))
    value = collect(pieces, len(rows), "features", sink).value("numpy")
    assert np.array_equal(value, rows)
    assert told == ends[1:].tolist()


def test_rows_are_aligned_where_every_array_has_one_a_sample(sink):
    """A result is aligned if it is of arrays with one row a sample and nothing else."""

    def aligned(returned, rows):
        return collect(returned, rows, "features", sink).is_aligned(rows)

    assert aligned(ROWS, 20)
    assert aligned({"x": ROWS, "y": ROWS[:, 0]}, 20)
    assert aligned(batches(ROWS), 20)
    assert not aligned(ROWS, 19)
    assert not aligned(ROWS, None)
    assert not aligned({"x": ROWS, "mean": np.float64(3)}, 20)
    assert not aligned((ROWS, ROWS[:3]), 20)
    assert not aligned([1.5, None], 2)
    assert not aligned(5, 1)


def test_drafts_have_row_ids_where_rows_are_aligned(sink):
    """Row ids are kept with rows they belong to, and only with those."""
    ids = np.zeros((20, 16), np.uint8)
    assert "_rows/zarr.json" in collect(ROWS, 20, "f", sink).draft("xxh3-128", ids).metadata
    assert "_rows/zarr.json" not in collect(ROWS[:3], 20, "f", sink).draft("xxh3-128", ids).metadata
    assert "_rows/zarr.json" not in collect(ROWS, 20, "f", sink).draft("xxh3-128", None).metadata
    stream = collect(batches(ROWS), 20, "f", sink).draft("xxh3-128", ids)
    assert sorted(stream.payloads) == ["_checks/result/c/0", "_rows/c/0/0", "result/c/0/0"]


def test_nothing_is_refused(sink):
    """A function that returns None is told to return arrays; one that yields nothing, to yield."""
    assert "features returned None: return the arrays" in str(refusal(None, sink))
    error = refusal(iter([]), sink)
    assert "features yielded nothing: yield arrays of rows" in str(error)
    assert error.partial


def test_what_cannot_be_kept_is_given_back(sink):
    """A result castore has no form for is refused by name and is in the error, whole."""
    returned = {"x": ROWS, "y": {1, 2}}
    error = refusal(returned, sink)
    assert "features cannot be kept: what it returned['y'] is a builtins.set" in str(error)
    assert error.result is returned
    assert not error.partial


WRONG = {
    "another dtype": (ROWS[8:].astype("<f8"), "batch 1 has another form, dtype or row shape"),
    "another row shape": (ROWS[8:, :2], "batch 1 has another form, dtype or row shape"),
    "another form": ({"x": ROWS[8:]}, "batch 1 has another form, dtype or row shape"),
    "a number": (3.5, "batch 1 is no arrays of rows"),
    "a point": (np.float32(1), "batch 1 is no arrays of rows"),
    "an array without an axis": (np.array(1), "batch 1 is no arrays of rows"),
    "unequal arrays": ((ROWS[:3], ROWS[:2]), "batch 1 is no arrays of rows, equally many in each"),
    "numbers": ([1, 2, 3], "batch 1 is no arrays of rows"),
    "strings": (["a", "b"], "batch 1 is no arrays of rows"),
    "arrays and numbers": ({"x": ROWS, "n": 3}, "batch 1 is no arrays of rows"),
    "an empty container": ({}, "batch 1 is no arrays of rows"),
    "nothing": (None, "batch 1 is no arrays of rows"),
    "an object array": (np.array([None]), "batch 1: what it returned: arrays of dtype object"),
}


@pytest.mark.parametrize(("batch", "words"), WRONG.values(), ids=WRONG)
def test_a_batch_that_does_not_fit_ends_the_stream(batch, words, sink):
    """A later batch of another kind is refused by its number; the error has the rows before it."""
    error = refusal(iter([ROWS[:8], batch]), sink, rows=20)
    assert words in str(error)
    assert error.partial
    assert np.array_equal(error.result, ROWS[:8])


@pytest.mark.parametrize("batch", [b for b, _ in list(WRONG.values())[3:]], ids=list(WRONG)[3:])
def test_a_first_batch_of_another_kind_is_refused(batch, sink):
    """A first batch that is no arrays of rows is refused, and there are no rows before it."""
    error = refusal(iter([batch, ROWS]), sink, rows=20)
    assert "batch 0" in str(error)
    assert error.partial
    assert error.result is None


@pytest.mark.parametrize(("rows", "count"), [(19, "19"), (21, "21"), (0, "0"), (10_000, "10,000")])
def test_another_number_of_rows_is_refused(rows, count, sink):
    """A stream of more or fewer rows than samples is refused with both; the error has the rows."""
    error = refusal(batches(ROWS), sink, rows=rows)
    assert f"it yielded 20 rows for {count} samples" in str(error)
    assert error.partial
    assert np.array_equal(error.result, ROWS)


def test_any_number_of_rows_will_do_without_samples(sink):
    """Where no samples are known a stream may have any number of rows."""
    assert np.array_equal(collect(batches(ROWS), None, "f", sink).value("numpy"), ROWS)


def test_errors_of_the_generator_come_out(sink):
    """What a generator raises comes out as it is."""

    def failing():
        yield ROWS
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(failing(), 20, "features", sink)


def test_several_columns_of_rows_without_bytes(sink):
    """Rows without elements are counted like others."""
    empty = np.empty((20, 0), "<f8")
    value = collect(zip(batches(empty), batches(ROWS), strict=True), 20, "f", sink).value("numpy")
    assert value[0].shape == (20, 0)
    assert np.array_equal(value[1], ROWS)


def test_tensors_are_asked_for_by_name(sink):
    """With tensors asked for arrays come as tensors, streamed ones too, of the same memory."""
    torch = pytest.importorskip("torch")
    for returned in (ROWS, batches(ROWS), batches(torch.from_numpy(ROWS))):
        value = collect(returned, 20, "features", sink).value("torch")
        assert torch.equal(value, torch.from_numpy(ROWS))


def test_dtypes_torch_has_not_are_told(sink):
    """Tensors asked of an array that torch has no dtype for are refused by that, not as damage."""
    pytest.importorskip("torch")
    result = collect(np.array(["2024-01-01"], "<M8[s]"), None, "features", sink)
    with pytest.raises((ConfigError, ResultError), match="datetime64"):
        result.value("torch")


def test_leaves_are_what_hits_use(sink):
    """A computed value and one put together from a form are made by the same leaves."""
    result = collect({"x": ROWS}, 20, "features", sink)
    again = assemble(result.form, result.columns, LEAVES["numpy"])
    assert np.array_equal(result.value("numpy")["x"], again["x"])
