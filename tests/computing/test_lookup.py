"""Finding what a request asks for: whole or by rows, and only where it may answer."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import castore
from castore.computing import lookup
from castore.errors import CastoreWarning, CodeChangedError


def doubling(numbers):
    """Return each number doubled."""
    return numbers * 2


def shifting(numbers):
    """Return each number and one more."""
    return numbers + 1


def ask(store, numbers, fn=doubling, **options):
    """Ask for some numbers, row by row; return the result as a list."""
    options = {"rowwise": True, "model": None, **options}
    return store.get_or_compute(np.array(numbers), fn, "t", **options).tolist()


@pytest.fixture
def place(tmp_path):
    """Return where a store is that has three rows."""
    store = castore.open(tmp_path / "store")
    ask(store, [1, 2, 3])
    return store.url


@pytest.mark.parametrize("numbers", [[1, 2, 3], [3, 1], [3, 9]], ids=["whole", "rows", "some"])
def test_changed_code_is_reused_with_a_warning(place, numbers):
    """By default what other code computed is reused, and that is said once."""
    store = castore.open(place)
    with pytest.warns(CastoreWarning, match=r"shifting has changed since entry .* is reused"):
        found = ask(store, numbers, shifting)
    assert found == [number + 1 if number == 9 else number * 2 for number in numbers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(store, numbers, shifting)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [3, 1], [3, 9]], ids=["whole", "rows", "some"])
def test_changed_code_may_miss(place, numbers):
    """With ``on_code_change="miss"`` nothing of other code is served, whole or by rows."""
    store = castore.open(place, on_code_change="miss")
    assert ask(store, numbers, shifting) == [number + 1 for number in numbers]
    assert store.stats().rows_reused == 0
    assert ask(store, numbers[::-1], shifting) == [number + 1 for number in numbers[::-1]]
    assert store.stats().rows_computed == len(numbers)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [3, 1], [3, 9]], ids=["whole", "rows", "some"])
def test_changed_code_may_be_an_error(place, numbers):
    """With ``on_code_change="raise"`` a request that other code could answer is refused."""
    ran = []

    def counted(rows):
        ran.append(len(rows))
        return rows + 1

    store = castore.open(place, on_code_change="raise")
    with pytest.raises(CodeChangedError, match="has changed since entry"):
        ask(store, numbers, counted, ignore=("fn.ran",))
    assert not ran
    assert ask(store, [7, 8], shifting) == [8, 9]


def test_what_was_put_answers_for_any_code(place):
    """Nobody knows the code of what was put without a function: it is nobody's change."""
    store = castore.open(place, on_code_change="raise")
    store.put(np.array([7, 8]), np.array([70, 80]), "t", model=None, rowwise=True)
    assert ask(store, [7, 8], shifting) == [70, 80]
    assert ask(store, [8], shifting) == [80]


def test_a_manifest_is_read_again_once_it_was_replaced(place):
    """What another process put in place of an entry answers from then on, also by rows."""
    store, other = castore.open(place), castore.open(place)
    assert ask(store, [1, 2, 3]) == ask(store, [1, 2, 3]) == [2, 4, 6]
    assert ask(store, [2, 1]) == [4, 2]
    other.put(np.array([1, 2, 3]), np.array([5, 6, 7]), "t", fn=doubling, model=None)
    assert ask(store, [1, 2, 3]) == [5, 6, 7]
    assert ask(store, [2, 1]) == [6, 5]


def test_an_entry_that_was_deleted_lends_nothing(place):
    """Another process deletes an entry: its rows are missing at once."""
    store, other = castore.open(place), castore.open(place)
    assert ask(store, [2, 1]) == [4, 2]
    for entry in list(other.entries()):
        other.delete(entry.key)
    assert store.get(np.array([2, 1]), doubling, "t", model=None, rowwise=True) is None
    assert ask(store, [2, 1], shifting) == [3, 2]


def test_damage_is_a_miss_that_says_so(tmp_path):
    """A manifest that is cut short does not answer, and the recomputation replaces it."""
    store = castore.open(tmp_path / "store")
    ask(store, [1, 2, 3])
    (manifest,) = tmp_path.rglob("entries/*.json")
    content = manifest.read_bytes()
    manifest.unlink()
    manifest.write_bytes(content[:-9])
    assert ask(store, [1, 2, 3]) == [2, 4, 6]
    assert store.stats().misses == {"absent": 1, "damaged": 1}
    assert ask(castore.open(store.url), [3]) == [6]
    assert store.stats().rows_mended == 3


def test_only_so_many_manifests_and_indexes_are_remembered():
    """What is kept of a store does not grow without end."""
    store = castore.open("memory://remembered")
    for number in range(lookup._REMEMBERED + 9):
        ask(store, [number], version=number % (lookup._INDEXES + 3))
        ask(store, [number], version=number % (lookup._INDEXES + 3))
    finder = store._resolver.finder
    assert len(finder._known) == lookup._REMEMBERED
    assert len(finder._indexes) == lookup._INDEXES


def loaders():
    """Return a function that makes loaders over numbers, and one that reads them."""
    torch = pytest.importorskip("torch")
    from torch.utils import data

    def over(numbers, size):
        return data.DataLoader(data.TensorDataset(torch.tensor(numbers)), size)

    def reading(loader):
        return torch.cat([rows for (rows,) in loader]) * 2

    return over, reading


def test_batch_sizes_are_compared_where_asked(tmp_path):
    """With ``compare=("batch_size",)`` rows come from results of that batch size alone."""
    over, reading = loaders()
    store = castore.open(tmp_path)
    options = {"rowwise": True, "model": None}
    store.get_or_compute(over([1, 2, 3, 4], 4), reading, "b", **options)
    compared = {**options, "compare": ("batch_size",)}
    assert store.get(over([3, 4], 2), reading, "b", **options).tolist() == [6, 8]
    assert store.get(over([3, 4], 2), reading, "b", **compared) is None
    assert store.get(over([3, 4], 4), reading, "b", **compared).tolist() == [6, 8]


def test_what_was_mixed_is_of_no_batch_size(tmp_path):
    """A request put together from several batch sizes answers nobody who compares them."""
    over, reading = loaders()
    store = castore.open(tmp_path)
    options = {"rowwise": True, "model": None}
    store.get_or_compute(over([1, 2], 1), reading, "b", **options)
    store.get_or_compute(over([2, 3], 2), reading, "b", materialize=True, **options)
    compared = {**options, "compare": ("batch_size",)}
    assert store.get(over([2, 3], 2), reading, "b", **compared) is None
    assert store.get(over([2], 2), reading, "b", **compared) is None
    assert store.get_or_compute(over([2, 3], 2), reading, "b", **compared).tolist() == [4, 6]
    assert store.stats().misses == {"absent": 1, "together": 1}
    assert store.get(over([2], 2), reading, "b", **compared).tolist() == [4]


def test_ignored_parts_match_any_value(tmp_path):
    """``ignore=("batch_size",)`` is answered by the newest entry of any batch size."""
    over, reading = loaders()
    store = castore.open(tmp_path)
    for size, factor in ((1, 10), (2, 20)):
        value = np.array([factor, factor])
        store.put(over([1, 2], size), value, "b", fn=reading, model=None)
    found = store.get(over([1, 2], 3), reading, "b", model=None, ignore=("batch_size",))
    assert found.tolist() == [20, 20]


def test_what_was_put_together_answers_only_where_rows_may(place):
    """A result stored by ``materialize`` is computed whole for who says that rows depend on all."""

    def centred(numbers):
        return numbers - numbers.mean()

    store = castore.open(place)
    ask(store, [1, 2, 3, 10], centred, version=2)
    assert ask(store, [1, 2, 3], centred, version=2, materialize=True) == [-3, -2, -1]
    assert ask(store, [1, 2, 3], centred, version=2) == [-3, -2, -1]
    assert ask(store, [1, 2, 3], centred, version=2, rowwise=False) == [-1, 0, 1]
    assert store.stats().misses == {"absent": 1, "together": 1}
