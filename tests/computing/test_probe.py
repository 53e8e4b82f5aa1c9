"""Which rows are computed again to see whether a function works row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.computing.probe import LEAST, MOST, alone, choose, sizes
from castore.computing.rows import Lent


@st.composite
def lenders(draw, most=4):
    """Return what entries lend to one request: some of their rows, some of them repeatedly."""
    found, place = [], 0
    for _ in range(draw(st.integers(0, most))):
        rows = draw(st.integers(1, 100))
        positions = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=80))
        places = np.arange(place, place + len(positions))
        place += len(positions)
        found.append(Lent(rows, np.array(positions), np.array(draw(st.permutations(places)))))
    return found


def rows_of(lent, chosen):
    """Return the positions in an entry of the chosen rows that are its own, in their order."""
    at = dict(zip(lent.places.tolist(), lent.positions.tolist(), strict=True))
    return [at[place] for place in chosen.tolist() if place in at]


@given(lenders())
def test_never_all_rows_of_an_entry_are_chosen(listed):
    """Of each entry at most half the rows are computed again: none of an entry of one row."""
    chosen = choose(listed)
    assert all(len(rows_of(lent, chosen)) <= lent.rows // 2 for lent in listed)


@given(lenders())
def test_no_row_is_chosen_twice_and_few_altogether(listed):
    """A row that is asked for repeatedly is computed again once, and no more than 32 rows are."""
    chosen = choose(listed)
    assert len(chosen) <= MOST
    assert len(set(chosen.tolist())) == len(chosen)
    for lent in listed:
        found = rows_of(lent, chosen)
        assert len(set(found)) == len(found)


@given(lenders())
def test_rows_further_back_are_computed_first(listed):
    """The rows of an entry are computed again in the opposite order."""
    chosen = choose(listed)
    for lent in listed:
        found = rows_of(lent, chosen)
        assert found == sorted(found, reverse=True)


@given(st.integers(2 * LEAST, 200))
def test_no_more_than_one_row_keeps_its_place(rows):
    """Of an entry that is asked for whole, its last row leads, and at most one row stays put."""
    everything = np.arange(rows)
    chosen = choose([Lent(rows, everything, everything)])
    assert chosen[0] == rows - 1
    assert (chosen == np.arange(len(chosen))).sum() <= 1
    assert len(chosen) == min(rows // 2, MOST)


@given(lenders(), st.data())
def test_every_entry_that_has_enough_has_its_share(listed, data):
    """Entries take turns, so that none of many is left out for another."""
    chosen = choose(listed)
    counts = [len(rows_of(lent, chosen)) for lent in listed]
    able = [min(lent.rows // 2, len(set(lent.positions.tolist()))) for lent in listed]
    for count, most in zip(counts, able, strict=True):
        assert count >= min(most, max(counts, default=0) - 1)


def test_nobody_to_lend_means_nothing_to_choose():
    """Without lenders there is nothing to compute again."""
    assert choose([]).tolist() == []
    assert alone({}) == []


@given(st.integers(0, 500))
def test_batches_are_uneven_and_hold_every_row(count):
    """The batches together have all rows, and are of several sizes as soon as can be."""
    found = sizes(count)
    assert sum(found) == count
    assert all(size > 0 for size in found)
    assert len(set(found)) > 1 or count <= 5


@given(st.integers(0, MOST), st.integers(1, 3), st.data())
def test_little_evidence_must_be_varied(count, columns, data):
    """Rows are computed alone if there are enough that differ; if few, in every column."""
    values = st.lists(st.integers(0, 1), min_size=count, max_size=count)
    stored = {str(n): np.array(data.draw(values), np.int64) for n in range(columns)}
    varied = [len(set(column.tolist())) > 1 for column in stored.values()]
    found = alone(stored)
    assert bool(found) == (any(varied) if count == MOST else count >= LEAST and all(varied))


@given(st.integers(LEAST, MOST), st.data())
def test_rows_alone_differ(count, data):
    """Few rows are computed alone, the least and the largest of a column among them."""
    column = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count)))
    found = alone({"a": column, "b": np.stack([column, column], 1)})
    assert len(found) == len(set(found)) <= 4
    if found:
        size = np.abs(column)
        assert len(set(column[found].tolist())) > 1
        assert {size.min(), size.max()} <= set(size[found].tolist())


@pytest.mark.parametrize("value", [float("nan"), -0.0])
def test_rows_are_told_apart_by_their_bytes(value):
    """A column of one value is constant, also where the value is not equal to itself."""
    assert alone({"a": np.full(MOST - 1, value)}) == []


def test_empty_columns_tell_nothing():
    """Rows without values are no evidence, and do no harm beside rows that have some."""
    assert alone({"a": np.empty((LEAST, 0))}) == []
    assert alone({"a": np.empty((LEAST, 0)), "b": np.arange(LEAST)}) == [0, LEAST - 1]
