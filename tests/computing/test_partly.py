"""A request put together from rows: how the missing ones are computed, and what if that fails."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.errors import CastoreWarning, CommitError
from castore.stats import Stats


class Seen(list):
    """What a function was given; no part of what it computes."""

    castore_infrastructure = True


class Few:
    """What a function does with few numbers, where no key sees it."""

    castore_infrastructure = True

    def __init__(self, call):
        self.call = call


class Work:
    """A function of an array of numbers; what it does with few of them is a test's own."""

    def __init__(self, few=None):
        self.few = Few(few)
        self.seen = Seen()

    def __call__(self, numbers):
        """Return each number doubled."""
        self.seen.append(numbers.tolist())
        if self.few.call is not None and len(numbers) < 4:
            return self.few.call(numbers)
        return numbers * 2.0


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path / "store")


def ask(store, work, numbers, **options):
    """Ask for some numbers, row by row; return the result as a list."""
    found = store.get_or_compute(
        np.array(numbers), work, "t", model=None, **{"rowwise": True, **options}
    )
    return np.asarray(found).tolist()


def doubled(numbers):
    """Return what a request must come to."""
    return [number * 2.0 for number in numbers]


def changed(before, after):
    """Return the counters that differ, without times and bytes."""
    skipped = ("seconds", "bytes", "wait")
    names = [n for n in vars(Stats()) if not any(part in n for part in skipped)]
    return {n: getattr(after, n) for n in names if getattr(after, n) != getattr(before, n)}


def test_only_missing_rows_are_computed_and_counted(store):
    """Known rows are gathered, others computed over just those, and the counters say so."""
    work = Work()
    ask(store, work, [0, 1, 2, 3])
    before = store.stats()
    assert ask(store, work, [9, 2, 8, 0]) == doubled([9, 2, 8, 0])
    assert work.seen == [[0, 1, 2, 3], [9, 8]]
    assert changed(before, store.stats()) == {
        "partial_hits": 1, "computations": 2, "rows_computed": 6, "rows_reused": 2, "commits": 2,
    }  # fmt: skip


def test_a_repeated_row_is_computed_once(store):
    """A row asked for several times is computed once, also by a request of nothing known."""
    work = Work()
    assert ask(store, work, [5, 5, 6, 5]) == doubled([5, 5, 6, 5])
    assert work.seen == [[5, 6]]


def test_a_request_of_known_rows_computes_and_stores_nothing(store):
    """It is a hit, and no entry of its own."""
    work = Work()
    ask(store, work, [0, 1, 2, 3])
    assert ask(store, work, [3, 1, 1]) == doubled([3, 1, 1])
    assert (len(work.seen), store.stats().hits, len([*store.entries()])) == (1, 1, 1)


def test_a_materialized_request_is_an_entry_of_its_own(store):
    """``materialize=True`` stores what was put together, and the next call finds it whole."""
    work = Work()
    ask(store, work, [0, 1, 2, 3])
    for _ in range(2):
        assert ask(store, work, [3, 1, 7], materialize=True) == doubled([3, 1, 7])
        assert [entry.rows for entry in sorted(store.entries(), key=lambda e: e.created)] == [
            4,
            1,
            3,
        ]
    assert work.seen == [[0, 1, 2, 3], [7]]


def test_what_fails_on_some_rows_runs_over_all(store):
    """A function that raises over the missing rows alone runs over the whole, which is stored."""

    def few(numbers):
        raise ValueError("too few")

    work = Work(few)
    ask(store, work, [0, 1, 2, 3])
    for _ in range(2):
        assert ask(store, work, [0, 1, 2, 3, 4]) == doubled([0, 1, 2, 3, 4])
    assert work.seen == [[0, 1, 2, 3], [4], [0, 1, 2, 3, 4]]


def test_an_exception_comes_out_once_all_rows_raise_too(store):
    """What a function raises over the whole is what its caller sees, and nothing is stored."""

    def few(numbers):
        raise ValueError(f"{len(numbers)} are too few")

    work = Work(few)
    ask(store, work, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="3 are too few"):
        ask(store, work, [1, 2, 9])
    assert work.seen[1:] == [[9], [1, 2, 9]]
    assert [entry.rows for entry in store.entries()] == [4]
    assert ask(store, Work(), [1, 2, 9]) == doubled([1, 2, 9])


@pytest.mark.parametrize(
    "few",
    [
        lambda x: (x * 2.0).astype(np.float32),
        lambda x: np.repeat(x[:, None] * 2.0, 2, 1),
        lambda x: (x * 2.0)[:-1],
        lambda x: np.append(x * 2.0, 0),
        lambda x: {"x": x * 2.0},
        lambda x: (x * 2.0, 5),
        lambda x: [x * 2.0],
        lambda x: None,
        lambda x: object(),
        lambda x: iter([]),
    ],
    ids=["dtype", "shape", "fewer", "more", "form", "number", "list", "none", "object", "nothing"],
)
def test_rows_of_another_kind_are_computed_whole(store, few):
    """What returns another dtype, row shape, count or form for some rows is run over all."""
    work = Work(few)
    ask(store, work, [0, 1, 2, 3])
    assert ask(store, work, [0, 1, 2, 3, 4, 5]) == doubled([0, 1, 2, 3, 4, 5])
    assert work.seen[1:] == [[4, 5], [0, 1, 2, 3, 4, 5]]


def test_read_only_gathers_and_stores_nothing(store, tmp_path):
    """A store opened read-only reuses rows, computes the others each time, and writes nothing."""
    work = Work()
    ask(store, work, [0, 1, 2, 3])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reader = castore.open(store.url, mode="ro")
    for _ in range(2):
        assert ask(reader, work, [1, 9], materialize=True) == doubled([1, 9])
    assert work.seen[1:] == [[9], [9]]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_global_generators_stay_where_they_are(store):
    """A partial hit draws nothing of Python's and numpy's generators, whatever is drawn in it."""
    work = Work(lambda x: x * 2.0 + 0 * random.random() + 0 * np.random.random())  # noqa: NPY002
    ask(store, work, [0, 1, 2, 3])
    kept = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    ask(store, work, [0, 1, 9], audit=0.5)
    assert len(work.seen) > 1
    assert (random.getstate(), str(np.random.get_state())) == kept  # noqa: NPY002


def test_an_audit_that_agrees_is_counted(store):
    """The share of reused rows asked for, rounded up, is computed again."""
    work = Work()
    ask(store, work, range(10))
    assert ask(store, work, range(10, -1, -1), audit=0.25) == doubled(range(10, -1, -1))
    assert [len(numbers) for numbers in work.seen] == [10, 1, 3]
    assert (store.stats().rows_audited, store.stats().audits_failed) == (3, 0)


def test_a_hit_by_rows_is_audited_too(store):
    """Where all rows are known an audit computes some again all the same; an exact hit not."""
    work = Work()
    ask(store, work, range(10))
    ask(store, work, [3, 2], audit=1)
    ask(store, work, range(10), audit=1)
    assert store.stats().rows_audited == 2


def test_an_audit_that_differs_overturns_the_callers_word(store):
    """Rows that differ are all computed again, and rows of the table are not reused any more."""
    work = Work(lambda x: x * 3.0)
    ask(store, work, [0, 1, 2, 3])
    assert ask(store, work, [3, 2, 1], audit=1) == [9, 6, 3]
    assert store.stats().audits_failed == 1
    del work.seen[:]
    other = castore.open(store.url)
    assert ask(other, work, [3, 2]) == [9, 6]
    assert ask(other, work, [0, 1, 2, 3, 4]) == doubled([0, 1, 2, 3, 4])
    assert work.seen == [[3, 2], [0, 1, 2, 3, 4]]


def test_nobody_is_waited_for_who_need_not_be(store):
    """With ``wait=False`` rows that somebody else is computing just now are computed too."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(numbers):
        begun.set()
        assert go_on.wait(60)
        return numbers * 2.0

    work = Work(slow)
    ask(store, work, [0, 1, 2, 3])
    thread = threading.Thread(target=ask, args=(store, work, [0, 8, 9]))
    thread.start()
    assert begun.wait(60)
    mine = Work()
    assert ask(store, mine, [0, 1, 2, 3, 9], wait=False) == doubled([0, 1, 2, 3, 9])
    go_on.set()
    thread.join()
    assert mine.seen == [[9]]


def lose(store):
    """Put a file in the place of the folder where a store writes what it will publish."""
    folder = Path(store.url, "tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.touch()


def test_rows_that_cannot_be_stored_are_not_lost(store):
    """If the rows computed cannot be stored, the error has the result of all that was asked."""

    def few(numbers):
        lose(store)
        return numbers * 2.0

    work = Work(few)
    ask(store, work, [0, 1, 2, 3])
    with pytest.raises(CommitError, match=r"computed but not stored .*\.result has it") as raised:
        ask(store, work, [3, 9, 1])
    assert raised.value.result.tolist() == doubled([3, 9, 1])


def test_rows_that_cannot_be_stored_are_returned_where_that_is_wanted(tmp_path):
    """With ``on_error="compute"`` that is a warning, and the result is returned."""
    store = castore.open(tmp_path / "store", on_error="compute")

    def few(numbers):
        lose(store)
        return numbers * 2.0

    work = Work(few)
    ask(store, work, [0, 1, 2, 3])
    with pytest.warns(CastoreWarning, match="returned and not stored"):
        assert ask(store, work, [3, 9, 1]) == doubled([3, 9, 1])


def blobs(store, tmp_path):
    """Return the large files of a store."""
    return [path for path in tmp_path.rglob("blobs/*/*") if path.is_file()]


def test_damaged_rows_are_computed_again(store, tmp_path):
    """Rows whose bytes changed are computed again, counted as mended, and found from then on."""
    numbers = [*range(9000)]
    work = Work()
    ask(store, work, numbers)
    (blob, *_) = sorted(blobs(store, tmp_path), key=lambda path: path.stat().st_size)[::-1]
    content = bytearray(blob.read_bytes())
    content[8 * 100] ^= 1
    blob.unlink()
    blob.write_bytes(content)
    assert ask(store, work, [100, 9500, 101]) == doubled([100, 9500, 101])
    del work.seen[:]
    assert ask(castore.open(store.url), work, [101, 100, 9500]) == doubled([101, 100, 9500])
    assert not work.seen


@pytest.mark.parametrize("rowwise", [True, "auto", False])
def test_no_rows_are_a_request_too(store, rowwise):
    """A request of no samples is computed, stored and found like any other."""
    ran = []

    def doubled(rows):
        ran.append(len(rows))
        return rows * 2

    for _ in range(2):
        found = store.get_or_compute(
            np.zeros((0, 4)), doubled, "none", model=None, rowwise=rowwise, ignore=("fn.ran",)
        )
        assert found.shape == (0, 4)
    assert ran == [0]
