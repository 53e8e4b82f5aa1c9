"""Entries beside what is asked for: how far they are, and how many rows they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.explain.candidate import Subject, compare

ROWS = np.arange(40.0).reshape(20, 2)
LIMIT = 1000


def double(x):
    """Double."""
    return x * 2


def triple(x):
    """Triple."""
    return x * 3


def beside(shelf, key, loader, *args, limit=LIMIT, **what):
    """An entry beside a request, its rows counted."""
    subject = Subject.of_request(shelf.request(loader, *args, **what))
    return compare(shelf.entry(key), subject).counted(subject, limit)


def noted(candidate):
    """What is said of the rows."""
    (found,) = [d for d in candidate.differences if d.path == "rows"]
    return found.note


@pytest.mark.parametrize(
    ("picked", "note", "share"),
    [
        (range(9, -1, -1), "the same rows in another order", 1),
        ([*range(9), 10], "9 of the 10 rows are the same", 0.9),
        (range(10, 20), "none of the 10 rows are the same", 0),
        (range(4), "all 4 rows are among its 10", 1),
        ([0, 0, 1], "all 3 rows are among its 10", 1),
        (range(5, 20), "5 of the 15 rows are among its 10", 1 / 3),
        (range(12, 20), "none of the 8 rows are among its 10", 0),
    ],
    ids=str,
)
def test_rows_are_counted(shelf, picked, note, share):
    """How many of the rows asked for an entry has is said in a sentence."""
    key = shelf.put(ROWS[:10], double, "x")
    found = beside(shelf, key, ROWS[list(picked)], double, "x")
    assert noted(found) == note
    assert found.share == pytest.approx(share)


@given(st.lists(st.integers(0, 19), max_size=20), st.lists(st.integers(0, 19), max_size=20))
def test_the_share_is_that_of_the_rows_asked_for(new_shelf, known, asked):
    """The share is how many of the rows asked for, repeated ones too, are among those known."""
    shelf = new_shelf()
    key = shelf.put(ROWS[known], double, "x")
    found = beside(shelf, key, ROWS[asked], double, "x")
    if known != asked:
        common = sum(index in known for index in asked)
        assert found.share == pytest.approx(common / len(asked) if asked else 0)
    else:
        assert not found.differences


def test_rows_of_results_without_a_row_a_sample_are_not_counted(shelf):
    """An entry whose result is of the whole says only that the rows are others."""
    key = shelf.put(ROWS[:10], double, "x", rows=3)
    assert noted(beside(shelf, key, ROWS[10:], double, "x")) == "others, or in another order"
    assert noted(beside(shelf, key, ROWS[11:], double, "x")) == ""


def test_more_rows_than_the_limit_are_not_counted(shelf):
    """Rows beyond the limit are not read."""
    key = shelf.put(ROWS[:10], double, "x")
    assert noted(beside(shelf, key, ROWS[9:19], double, "x", limit=10)) != ""
    found = beside(shelf, key, ROWS[9:19], double, "x", limit=9)
    assert (noted(found), found.share) == ("others, or in another order", 0)


def test_damaged_row_ids_are_not_counted(shelf):
    """Row ids whose blob is gone are no reason to fail."""
    many = np.arange(20000.0).reshape(10000, 2)
    key = shelf.put(many, double, "x")
    for blob in shelf.entry(key).manifest.blobs:
        shelf.backend.path(blob.name).unlink()
    found = beside(shelf, key, many[::-1], double, "x", limit=20000)
    assert noted(found) == "others, or in another order"


def test_the_more_rows_the_nearer(shelf):
    """Distance falls with the rows an entry has, and its order alone is less than another part."""
    key = shelf.put(ROWS[:10], double, "x")
    far = [
        beside(shelf, key, loader, double, "x").distance
        for loader in (ROWS[:10], ROWS[9::-1], ROWS[1:11], ROWS[8:18], ROWS[10:])
    ]
    assert far == sorted(set(far))
    assert far[0] == 0
    assert beside(shelf, key, ROWS[9::-1], double, "x", version=2).distance > far[1]


@pytest.mark.parametrize(
    ("loader", "fn", "suffix", "alike"),
    [
        (ROWS[10:], triple, "x", True),  # a table of its own name
        (ROWS[:10], double, "y", True),  # the same code
        (ROWS[:10], triple, "y", False),
        (ROWS[:10], None, "y", True),  # all else is the same
    ],
)
def test_what_has_a_suffix_is_like_its_own_and_its_own_code(shelf, loader, fn, suffix, alike):
    """Under another suffix an entry is like what is asked for if the code, or all else, is."""
    key = shelf.put(ROWS[:10], double, "x")
    request = shelf.request(loader, fn, suffix)
    subject = Subject.of_request(request)
    assert compare(shelf.entry(key), subject).is_like(subject) == alike


def test_unknown_code_under_another_suffix_needs_all_else(shelf):
    """Where no code is known, another suffix with another version is something else."""
    key = shelf.put(ROWS[:10], None, "x")
    subject = Subject.of_request(shelf.request(ROWS[:10], None, "y", version=2))
    assert not compare(shelf.entry(key), subject).is_like(subject)


@pytest.mark.parametrize(
    ("loader", "alike"),
    [
        (ROWS[:10], True),
        (ROWS[5:15], True),
        (ROWS[10:], False),
        (list("ab"), False),
        (list(range(10)), False),
    ],
    ids=["same", "some", "none", "another dataset", "another of that length"],
)
def test_other_code_without_a_suffix_needs_rows_in_common(shelf, loader, alike):
    """Two functions without a suffix have to do with each other if they ran over the same rows."""
    key = shelf.put(ROWS[:10], double)
    subject = Subject.of_request(shelf.request(loader, triple))
    assert compare(shelf.entry(key), subject).counted(subject, LIMIT).is_like(subject) == alike


def test_an_entry_is_asked_for_as_its_request_was(shelf):
    """An entry stands for the request it was stored by."""
    key = shelf.put(ROWS[:10], double, "x", params={"n": 1})
    asked = Subject.of_request(shelf.request(ROWS[:10], double, "x", params={"n": 1}))
    stored = Subject.of_entry(shelf.entry(key))
    assert (stored.table, stored.key) == (asked.table, asked.key)
    assert stored.documents == asked.documents
    assert np.array_equal(stored.row_ids, asked.row_ids)
    assert (stored.name, asked.name) == ("x", "double")
