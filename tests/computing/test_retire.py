"""Rows computed anew on purpose: older values of them give way, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

import castore


class Times:
    """A function of numbers with a factor that no key sees."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, numbers):
        """Return the numbers times the factor."""
        return numbers * self.factor


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path / "store")


def ask(store, numbers, factor, *, suffix="t", **options):
    """Ask for some numbers, row by row; return the result as a list."""
    options = {"rowwise": True, "model": None, "ignore": ("fn.factor",), **options}
    return store.get_or_compute(np.array(numbers), Times(factor), suffix, **options).tolist()


def put(store, numbers, factor):
    """Put some numbers; rows of older entries stay where they are."""
    what = {"rowwise": True, "model": None, "ignore": ("fn.factor",)}
    store.put(np.array(numbers), np.array(numbers) * factor, "t", fn=Times(factor), **what)


def sizes(store):
    """Return the numbers of rows of all entries."""
    return sorted(entry.rows for entry in store.entries())


def test_other_entries_lose_the_rows_that_were_forced(store):
    """What else held them holds the rest, or is gone; nobody is served an older value."""
    ask(store, [1, 2, 3, 4], 10)
    ask(store, [5, 6], 10)
    assert ask(store, [4, 5, 6], 100, force=True) == [400, 500, 600]
    assert sizes(store) == [3, 3]
    assert ask(store, [1, 2, 3, 4], 0) == [10, 20, 30, 400]
    assert ask(store, [5, 6], 0) == [500, 600]


def test_what_is_left_keeps_its_codec(store):
    """The rest of an entry is stored with the codec that the entry had."""
    ask(store, [1, 2, 3, 4], 10, codec="zstd")
    ask(store, [4, 5], 100, force=True)
    columns = {entry.rows: entry.columns["result"] for entry in store.entries()}
    assert columns == {2: "int64 (2,)", 3: "int64 (3,), zstd"}


def test_refresh_is_force(store):
    """A store opened to refresh replaces rows for everybody."""
    ask(store, [1, 2, 3], 10)
    assert ask(castore.open(store.url, mode="refresh"), [2], 100) == [200]
    assert ask(store, [1, 2, 3], 0) == [10, 200, 30]


def test_entries_that_hold_no_such_row_stay(store):
    """Other rows, and the same rows of another table, are left as they are."""
    ask(store, [1, 2], 10)
    ask(store, [1, 2], 20, suffix="other")
    kept = {entry.key: entry.created for entry in store.entries()}
    ask(store, [3], 100, force=True)
    assert kept.items() <= {entry.key: entry.created for entry in store.entries()}.items()
    assert ask(store, [1, 2], 0, suffix="other") == [20, 40]


def test_nothing_gives_way_to_what_failed(store):
    """If the function raises, every older value stays."""

    def fails(numbers):
        raise ValueError("no")

    ask(store, [1, 2], 10)
    with pytest.raises(ValueError, match="no"):
        store.get_or_compute(np.array([1]), fails, "t", rowwise=True, model=None, force=True)
    assert ask(store, [2, 1], 0) == [20, 10]


def test_what_is_left_of_an_entry_is_not_newer_than_what_is(store):
    """To force one row brings back no older value of another, whichever entries hold it."""
    put(store, [1, 2], 10)
    put(store, [2, 3], 20)
    ask(store, [1], 100, force=True)
    assert ask(store, [1, 2, 3], 0) == [100, 40, 60]


def test_what_is_left_of_an_entry_replaces_what_is_older(store):
    """An older entry of just the rows that are left gives way to them."""
    put(store, [1], 10)
    put(store, [1, 2], 20)
    ask(store, [2], 100, force=True)
    assert ask(store, [1, 1], 0) == [20, 20]
    assert ask(store, [1], 0) == [20]


def test_an_entry_that_is_damaged_is_not_kept(store, tmp_path):
    """Of an entry whose bytes changed nothing is left, not even the rows nobody forced."""
    numbers = [*range(9000)]
    ask(store, numbers, 10)
    for blob in tmp_path.rglob("blobs/*/*"):
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.unlink()
        blob.write_bytes(content)
    ask(store, [0], 100, force=True)
    assert ask(castore.open(store.url), numbers, 1) == [0, *range(1, 9000)]


def test_exact_results_stay_where_rows_are_not_reused(store):
    """A result of the whole is replaced by force; results over some of its rows are not."""
    options = {"rowwise": False}
    ask(store, [1, 2], 10, **options)
    ask(store, [2], 10, **options)
    ask(store, [1, 2], 100, force=True, **options)
    assert ask(store, [2], 0, **options) == [20]
    assert ask(store, [1, 2], 0, **options) == [100, 200]


def test_results_under_another_collate_stay():
    """Rows through another collate function are other rows."""
    torch = pytest.importorskip("torch")
    from torch.utils import data

    def shifted(samples):
        return [torch.stack([row for (row,) in samples]) + 100]

    def fn(loader):
        return torch.cat([rows for (rows,) in loader])

    store = castore.open("memory://retire")
    rows = data.TensorDataset(torch.arange(6))
    options = {"rowwise": True, "model": None}
    plain, other = data.DataLoader(rows, 2), data.DataLoader(rows, 3, collate_fn=shifted)
    for loader in (plain, other):
        store.get_or_compute(loader, fn, "c", **options)
    kept = {entry.key: entry.created for entry in store.entries()}
    store.get_or_compute(data.DataLoader(rows, 4), fn, "c", force=True, **options)
    left = {entry.key: entry.created for entry in store.entries()}
    assert len(left.items() & kept.items()) == 1
    assert store.get(other, fn, "c", **options).tolist() == [*range(100, 106)]


def test_rows_of_an_interrupted_stream_do_not_come_back(tmp_path):
    """What a stream had sealed before other rows were forced is not adopted after that."""
    store = castore.open(tmp_path)
    samples = np.arange(20).reshape(20, 1)
    know = {"model": None, "rowwise": True}

    def broken(rows):
        yield rows[:15] * 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_compute(samples, broken, "a", **know)
    assert list(tmp_path.glob("segments/*/*.json"))
    store.get_or_compute(samples[:3], lambda rows: rows * 2, "a", force=True, **know)
    assert not list(tmp_path.glob("segments/*/*"))
