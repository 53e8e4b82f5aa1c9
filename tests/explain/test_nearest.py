"""The nearest entry of a store, found within bounds, whatever is damaged."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from castore.blobs import layout
from castore.canonical import seal
from castore.explain.candidate import Subject
from castore.explain.nearest import GLANCE, SEARCH, nearest
from castore.table.keymap import KeyMap

ROWS = np.arange(80.0).reshape(40, 2)


def double(x):
    """Double."""
    return x * 2


def found(shelf, loader, fn=double, suffix="x", *, bounds=SEARCH, besides="", **what):
    """Key of the nearest entry."""
    subject = Subject.of_request(shelf.request(loader, fn, suffix, **what))
    candidate = nearest(shelf.backend, subject, bounds, besides=besides)
    return candidate and candidate.entry.key


def rewrite(shelf, name, data):
    """Replace an object of the store."""
    shelf.backend.put(name, [data])


def test_an_empty_store_has_nothing_near(shelf):
    """Where there is no store, or nothing in it, nothing is near."""
    assert found(shelf, ROWS) is None
    shelf.store.init()
    assert found(shelf, ROWS) is None


def test_the_own_table_comes_first(shelf):
    """An entry of the same function is nearer than the same rows of another version."""
    own = shelf.put(ROWS[:10], double, "x")
    shelf.put(ROWS[20:], double, "x", version=2)
    assert found(shelf, ROWS[20:]) == own


def test_most_rows_in_common_are_nearest(shelf):
    """Of one table's entries the one with the most rows asked for is nearest."""
    keys = [shelf.put(ROWS[start : start + 10], double, "x") for start in (0, 4, 20)]
    assert found(shelf, ROWS[5:15]) == keys[1]


def test_the_same_suffix_is_nearer_than_the_same_model(shelf):
    """A table of the same suffix is nearer, however much of it differs, than one of another."""
    shelf.put(ROWS, double, "y")
    same = shelf.put(ROWS, double, "x", version=2, model="0" * 32, params={"n": 1})
    assert found(shelf, ROWS) == same


def test_fewer_differences_are_nearer(shelf):
    """Of tables of one suffix the one that differs in fewer parts is nearest."""
    shelf.put(ROWS, double, "x", version=2, params={"n": 1})
    one = shelf.put(ROWS, double, "x", version=2)
    shelf.put(ROWS, double, "x", params={"n": 1, "m": 2})
    assert found(shelf, ROWS) == one


def test_tables_that_differ_least_are_read_first(shelf):
    """Where one manifest may be read, it is of the table that differs least, however old."""
    key = shelf.put(ROWS, double, "x", version=2)
    shelf.put(ROWS, double, "x", version=2, params={"n": 1})
    shelf.put(ROWS, double, "y")
    assert found(shelf, ROWS, bounds=dataclasses.replace(SEARCH, entries=1)) == key


def test_of_tables_equally_near_the_one_with_the_rows_counts(shelf):
    """Between two other versions the rows decide."""
    shelf.put(ROWS[20:], double, "x", version=3)
    rows = shelf.put(ROWS[:10], double, "x", version=2)
    shelf.put(ROWS[20:], double, "x", version=4)
    assert found(shelf, ROWS[:10]) == rows


def test_an_entry_can_be_left_out(shelf):
    """The entry that is to be explained is not its own neighbour."""
    own = shelf.put(ROWS[:10], double, "x")
    assert found(shelf, ROWS[:10]) == own
    assert found(shelf, ROWS[:10], besides=own) is None
    other = shelf.put(ROWS[:10], double, "x", version=2)
    assert found(shelf, ROWS[:10], besides=own) == other


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        seal({"a": 1}),
        seal({"derivation": 3}),
        seal({"derivation": {"params": 3, "captured": []}}),
    ],
    ids=repr,
)
def test_damaged_documents_are_passed_over(shelf, damage):
    """Table documents and manifests that are damaged or not well formed do not count."""
    keys = {version: shelf.put(ROWS, double, "x", version=version) for version in (1, 2, 3)}
    entries = {version: shelf.entry(key) for version, key in keys.items()}
    rewrite(shelf, layout.table(entries[1].manifest.table), damage)
    rewrite(shelf, entries[2].manifest.name, damage)
    assert found(shelf, ROWS) == keys[3]


@pytest.mark.parametrize(
    "change",
    [
        {"derivation": {}},
        {"derivation": {"table": 1}},
        {"derivation": {"entry": {"rows": 3}, "table": {"captured": 1}}},
        {"keys": KeyMap()},
    ],
    ids=str,
)
def test_manifests_that_say_nonsense_are_passed_over(shelf, change):
    """A manifest that is whole and makes no sense is no reason to fail."""
    own = shelf.put(ROWS[:10], double, "x")
    manifest = shelf.entry(own).manifest
    rewrite(shelf, manifest.name, dataclasses.replace(manifest, **change).to_bytes())
    assert found(shelf, ROWS[20:]) in (None, own)
    other = shelf.put(ROWS[:11], double, "x")
    assert found(shelf, ROWS[:12]) == other


def test_no_more_is_read_than_the_bounds_say(shelf):
    """Names, tables, manifests and their bytes stay within the bounds."""
    for version in range(10):
        for start in range(3):
            shelf.put(ROWS[start:], double, "x", version=version)

    class Watched:
        """A backend that counts what is read."""

        def __init__(self, backend):
            self.backend, self.read, self.listed = backend, [], 0

        def get(self, name):
            self.read.append(name)
            return self.backend.get(name)

        def list(self, prefix):
            for info in self.backend.list(prefix):
                self.listed += 1
                yield info

        def __getattr__(self, name):
            return getattr(self.backend, name)

    def reading(**bounds):
        watched = Watched(shelf.backend)
        subject = Subject.of_request(shelf.request(ROWS[5:], double, "x", version="new"))
        nearest(watched, subject, dataclasses.replace(SEARCH, **bounds))
        tables = [name for name in watched.read if name.endswith("table.json")]
        return watched.listed, len(tables), len(watched.read) - len(tables)

    listed, tables, entries = reading()
    assert (tables, entries) == (10, 30)
    assert listed >= 30
    assert reading(names=5)[0] <= 6
    assert reading(tables=2)[1] == 2
    assert 0 < reading(entries=8)[2] <= 8
    assert reading(nbytes=1)[2] == 0


def test_the_newest_are_read_first(shelf):
    """Where not all manifests may be read, the newest are."""
    keys = [shelf.put(ROWS[start : start + 10], double, "x") for start in range(5)]
    for age, key in enumerate(reversed(keys)):
        path = shelf.backend.path(shelf.entry(key).manifest.name)
        os.utime(path, (1000 - age, 1000 - age))
    one = dataclasses.replace(SEARCH, entries=1)
    assert found(shelf, ROWS[:10][::-1], bounds=one) == keys[-1]


def test_a_part_of_the_tables_says_nothing_of_other_suffixes(shelf):
    """Where not all tables were listed, one of another suffix is not called the nearest."""
    for suffix in "abc":
        shelf.put(ROWS, double, suffix)
    assert found(shelf, ROWS) is not None
    assert found(shelf, ROWS, bounds=dataclasses.replace(GLANCE, names=3)) is None
