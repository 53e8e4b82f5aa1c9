"""Rows of Arrow by what they say: chunks, slices and offsets make no difference."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from castore.errors import FingerprintError
from castore.identity.datasets import arrow

pa = pytest.importorskip("pyarrow")

LEAVES = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-2, 2),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): st.text(max_size=3),
    pa.binary(): st.binary(max_size=3),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.decimal128(4, 2): st.decimals(-9, 9, places=2),
    pa.date32(): st.dates(dt.date(1970, 1, 1)),
    pa.timestamp("us"): st.datetimes(dt.datetime(1970, 1, 1)),  # noqa: DTZ001  Arrow's has none either
    pa.null(): st.none(),
}


def nested(below):
    """A type made of a type, with what its values are made of."""

    def structs(fields):
        kind = pa.struct([(f"f{i}", kind) for i, (kind, _) in enumerate(fields)])
        values = {f"f{i}": optional(values) for i, (_, values) in enumerate(fields)}
        return kind, st.fixed_dictionaries(values)

    return st.one_of(
        below.map(lambda t: (pa.list_(t[0]), st.lists(optional(t[1]), max_size=3))),
        below.map(lambda t: (pa.list_(t[0], 2), st.lists(optional(t[1]), min_size=2, max_size=2))),
        st.lists(below, min_size=1, max_size=2).map(structs),
    )


def optional(values):
    """Some of the values are null."""
    return st.one_of(st.none(), values)


types = st.recursive(st.sampled_from(list(LEAVES.items())), nested, max_leaves=4)
columns = types.flatmap(lambda t: st.tuples(st.just(t[0]), st.lists(optional(t[1]), max_size=6)))


def rows(array, positions=None) -> list[bytes]:
    """The bytes of each of the rows of a column, or of some of them."""
    table = array if isinstance(array, pa.Table) else pa.table({"x": array})
    positions = np.arange(len(table)) if positions is None else np.asarray(positions, np.int64)
    found = [b""] * len(positions)
    for places, batch in arrow.batches(table, positions):
        for place, pieces in zip(places, arrow.read(batch).pieces(), strict=True):
            found[place] = b"".join(pieces)
    return found


def told_apart(value):
    """What tells values apart: a zero from a negative one, a number from a truth."""
    if isinstance(value, dict):
        return [(name, told_apart(item)) for name, item in sorted(value.items())]
    if isinstance(value, list):
        return [told_apart(item) for item in value]
    return repr(value)


def wide(kind):
    """The same type with offsets of 64 bits."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if kind == pa.binary():
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, wide(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(wide(kind.value_type), kind.list_size)
    return pa.large_list(wide(kind.value_type)) if pa.types.is_list(kind) else kind


@given(columns)
def test_rows_have_equal_bytes_exactly_where_they_are_equal(column):
    """Any two values of any type have the same bytes if and only if they are the same."""
    kind, values = column
    found = rows(pa.array(values, kind))
    for one, a in zip(values, found, strict=True):
        for two, b in zip(values, found, strict=True):
            assert (a == b) == (told_apart(one) == told_apart(two))


@given(columns, st.integers(0, 6))
@example((pa.binary(), [b"a", b"bc"]), 1)
@example((pa.list_(pa.string()), [["a"], ["bc", None], None]), 1)
def test_chunks_slices_and_widths_make_no_difference(column, cut):
    """A row has the same bytes sliced, in chunks, and under offsets of 64 bits."""
    kind, values = column
    array = pa.array(values, kind)
    found = rows(array)
    assert rows(array.slice(cut)) == found[cut:]
    assert rows(pa.chunked_array([array[:cut], array[cut:]], kind)) == found
    assert rows(pa.array(values, wide(kind))) == found
    assert rows(pa.array(values, wide(kind)).slice(cut)) == found[cut:]
    assert rows(pa.array([*values, *values], kind).slice(len(values))) == found


@given(columns, st.data())
def test_rows_are_read_in_any_order(column, data):
    """Each position gets its own row, also where one is asked for twice."""
    kind, values = column
    array = pa.chunked_array([pa.array(values, kind), pa.array(values[:2], kind)], kind)
    found = rows(array)
    positions = data.draw(st.lists(st.sampled_from(range(len(found))))) if found else []
    assert rows(array, positions) == [found[position] for position in positions]


@given(columns)
def test_types_of_other_widths_have_one_document(column):
    """A type is described alike with offsets of 32 and of 64 bits."""
    assert arrow.document(column[0]) == arrow.document(wide(column[0]))


def test_types_have_documents_of_their_own():
    """Types that are not the same but for their offsets are described differently."""
    kinds = [
        *LEAVES,
        pa.int16(),
        pa.float16(),
        pa.binary(3),
        pa.decimal128(4, 1),
        pa.timestamp("ns"),
        pa.timestamp("us", "UTC"),
        pa.list_(pa.int8()),
        pa.list_(pa.int8(), 2),
        pa.list_(pa.int8(), 3),
        pa.list_(pa.list_(pa.int8())),
        pa.struct([("a", pa.int8())]),
        pa.struct([("b", pa.int8())]),
        pa.struct([("a", pa.int8()), ("b", pa.int8())]),
        pa.struct([("b", pa.int8()), ("a", pa.int8())]),
        pa.json_(),
    ]
    assert len({str(arrow.document(kind)) for kind in kinds}) == len(kinds)


def test_the_name_of_a_lists_items_makes_no_difference():
    """Parquet calls the items of a list another name than Arrow does; the type is the same."""
    named = pa.list_(pa.field("element", pa.int8()))
    assert arrow.document(named) == arrow.document(pa.list_(pa.int8()))


def test_what_lies_below_a_null_makes_no_difference():
    """A null is a null, whatever its place in memory holds."""
    below = pa.StructArray.from_arrays(
        [pa.array([1, 2]), pa.array(["a", "b"])], ["n", "t"], mask=pa.array([False, True])
    )
    offsets, values = pa.array([0, 1, 3], pa.int32()), pa.array([1, 2, 3])
    listed = pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, True]))
    assert rows(below) == rows(pa.array(below.to_pylist(), below.type))
    assert rows(listed) == rows(pa.array(listed.to_pylist(), listed.type))


def test_bits_of_floats_count():
    """A negative zero, infinities and NaN are values of their own, and NaN equals itself."""
    found = rows(pa.array([0.0, -0.0, np.inf, -np.inf, np.nan, None, np.nan]))
    assert len(set(found)) == 6
    assert found[4] == found[6]


def test_extensions_go_by_what_they_store():
    """Values of an extension type are those of its storage."""
    stored = pa.array(["[1]", None, "{}"])
    found = pa.ExtensionArray.from_storage(pa.json_(), stored)
    assert rows(found) == rows(stored)
    assert rows(pa.array([decimal.Decimal("1.50")]), [0]) != rows(pa.array([None], pa.string()))


def test_rows_of_several_columns_keep_them_apart():
    """What one column ends with is not what the next begins with."""
    table = pa.table({"a": ["x", "xy", None, ""], "b": ["yz", "z", "", None]})
    assert len(set(rows(table))) == 4
    table = pa.table({"a": [[1], [1, 2], [], None], "b": [[2, 3], [3], [1, 2, 3], [1, 2, 3]]})
    assert len(set(rows(table))) == 4


@pytest.mark.parametrize("batch", [1, 50, 10_000])
def test_the_size_of_a_batch_makes_no_difference(batch, monkeypatch):
    """Rows have the same bytes read one by one, some at a time, and all at once."""
    array = pa.array([f"text {i}" * (i % 3) for i in range(100)])
    expected = rows(array)
    monkeypatch.setattr(arrow, "_BATCH", batch)
    assert rows(array) == expected
    assert rows(array, np.arange(100)[::-3]) == expected[::-3]


def test_tables_that_cannot_be_read_are_refused():
    """A table without the rows asked for, without columns, or of unknown types is refused."""
    with pytest.raises(FingerprintError, match="holds 2 rows"):
        rows(pa.array([1, 2]), [2])
    with pytest.raises(FingerprintError, match="0 columns"):
        rows(pa.table({"x": [1]}).select([]), [0])
    unknown = [
        pa.map_(pa.string(), pa.int8()),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.string_view(),
        pa.list_(pa.list_view(pa.int8())),
        pa.dictionary(pa.int8(), pa.string()),
    ]
    for kind in unknown:
        with pytest.raises(FingerprintError, match="no rule for Arrow's"):
            arrow.document(kind)
