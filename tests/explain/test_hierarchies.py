"""Zarr hierarchies beside results, in one store and in one table."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import castore
from castore.explain import compare_entries

ROWS = np.arange(12.0).reshape(6, 2)


def double(rows):
    """Give twice the rows."""
    return rows * 2


@pytest.fixture
def store(tmp_path):
    """A store."""
    return castore.open(tmp_path / "store")


def commit(store, value, suffix="double", **options):
    """Commit a hierarchy of one array; return its key."""
    stage = store.zarr_store()
    zarr.open_group(stage, mode="w").create_array("a", data=np.full(3, float(value)))
    return stage.commit(suffix, **options).key


def told(store, before, after):
    """In what two entries differ, as text."""
    found = compare_entries(store.entry(after), store.entry(before))
    return [str(one) for one in found.differences]


NO_RESULT = "(a Zarr hierarchy is no function's result)"


def test_a_table_may_hold_both(store):
    """Results and hierarchies of one table answer and explain calls without each other."""
    one = commit(store, 1)
    store.get_or_compute(ROWS, double, "double", model=None)
    two = commit(store, 2, inputs={"n": 1})
    result = store.info(ROWS, double, "double", model=None)
    assert {store.entry(key).manifest.table for key in (one, two)} == {result.table}
    assert store.explain(ROWS, double, "double", model=None).kind == "hit"
    found = store.get_or_compute(ROWS[::-1].copy(), double, "double", model=None, rowwise=True)
    np.testing.assert_array_equal(found, ROWS[::-1] * 2)
    assert store.stats().misses == {"absent": 1}, "rows come from the result"
    why = store.explain(ROWS + 100, double, "double", model=None)
    assert (why.kind, why.nearest.rows) == ("miss", 6)
    assert [one.path for one in why.differences] == ["rows"]


def test_a_call_beside_hierarchies_alone(store):
    """Where only a hierarchy has the suffix, the explanation says that this is why it misses."""
    key = commit(store, 1)
    why = store.explain(ROWS, double, "double", model=None)
    assert (why.kind, why.nearest.key, why.advice) == ("miss", key, [])
    assert [str(one) for one in why.differences] == [
        f"hierarchy by its content → absent {NO_RESULT}"
    ]
    assert why.short == f"absent; nearest {key[:8]} differs in hierarchy by its content → absent"
    assert "differs in  hierarchy by its content" in str(why)
    store.get_or_compute(ROWS, double, "double", model=None)


def test_hierarchies_differ_in_what_they_go_by(store):
    """Of two hierarchies the differing inputs, content, or kinds of key are told."""
    one, two = commit(store, 1), commit(store, 2)
    (difference,) = told(store, one, two)
    path, before, _, after = difference.split()
    assert path == "content"
    assert [len(digest) for digest in (before, after)] == [8, 8]
    third = commit(store, 3, inputs={"n": 1, "of": "x"})
    fourth = commit(store, 4, inputs={"n": 2, "of": "x"})
    assert told(store, third, fourth) == ["inputs.n 1 → 2"]
    assert told(store, one, third) == ["hierarchy by its content → by its inputs"]
    assert told(store, one, commit(store, 1, version=2)) == ["version None → 2"]
    assert compare_entries(store.entry(fourth)).before.key == third


def test_a_result_of_equal_inputs_is_no_hierarchy(store):
    """A hierarchy and a result of the same inputs differ in being one."""
    key = commit(store, 1, "shout", inputs={"x": "hello"})
    store.compute(lambda x: x + "!", suffix="shout", inputs={"x": "hello"})
    (result,) = (info.key for info in store.entries() if info.key != key)
    assert told(store, key, result) == [f"hierarchy by its inputs → absent {NO_RESULT}"]
