"""Loaders in the place of the user's: over fixed rows, and else the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.identity.twin import Reading, pick, twin

torch = pytest.importorskip("torch")

from torch.utils import data  # noqa: E402

DATA = data.TensorDataset(torch.arange(40))


def collated(samples):
    """Collate, and show that it was."""
    return -torch.stack([row for (row,) in samples])


def started(_worker):
    """Do nothing in a worker."""


def batches_of(loader):
    """Return what a loader gives, batch by batch."""
    return [batch[0].tolist() for batch in loader]


@given(st.lists(st.integers(0, 39)), st.sampled_from([1, 3, 64]))
def test_rows_come_in_the_order_asked_for(indices, size):
    """A twin gives exactly these rows, in batches of its size."""
    made, _ = twin(data.DataLoader(DATA, 7, shuffle=True), size, np.array(indices, np.int64))
    cut = [indices[start : start + size] for start in range(0, len(indices), size)]
    assert batches_of(made) == cut


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_batches_have_the_lengths_asked_for(sizes):
    """Uneven batches are what they are to be."""
    indices = np.arange(sum(sizes)) % 40
    made, reading = twin(data.DataLoader(DATA, 7), None, indices, sizes)
    assert list(map(len, batches_of(made))) == sizes
    assert reading.drawn == sum(sizes)


def test_samples_come_one_by_one_where_there_are_no_batches():
    """Without a batch size each sample comes as it is."""
    made, _ = twin(data.DataLoader(DATA, batch_size=None), None, np.array([3, 1]))
    assert [row.item() for (row,) in made] == [3, 1]


@pytest.mark.parametrize("sizes", [None, [2, 1]])
def test_collate_and_pinning_are_kept(sizes):
    """A twin collates and pins as the user's loader does, and reads the same dataset."""
    loader = data.DataLoader(DATA, 7, collate_fn=collated, pin_memory=True)
    made, _ = twin(loader, 7, np.arange(3), sizes)
    assert (made.collate_fn, made.pin_memory, made.dataset) == (collated, True, DATA)
    assert type(made) is data.DataLoader


def test_another_dataset_may_be_given():
    """The rows may be of another dataset than the loader's."""
    other = data.TensorDataset(torch.arange(100, 140))
    made, _ = twin(data.DataLoader(DATA, 2), 2, np.array([5, 6, 7]), None, other)
    assert batches_of(made) == [[105, 106], [107]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@given(st.integers(0, 4), st.integers(0, 30), st.integers(1, 4))
def test_workers_are_started_from_two_batches_each(workers, rows, size):
    """A twin has the user's workers if each would get two batches, else none."""
    loader = data.DataLoader(DATA, 9, num_workers=workers)
    made, _ = twin(loader, size, np.arange(rows))
    assert made.num_workers == (workers if -(-rows // size) >= 2 * workers else 0)
    made, _ = twin(loader, None, np.arange(rows), [1] * rows)
    assert made.num_workers == (workers if rows >= 2 * workers else 0)


def test_workers_are_started_as_the_users_are():
    """What is said of workers is kept with them, except the order, which is the rows'."""
    loader = data.DataLoader(
        DATA, 2, num_workers=2, prefetch_factor=5, timeout=60, worker_init_fn=started,
        multiprocessing_context="spawn", in_order=False,
    )  # fmt: skip
    made, _ = twin(loader, 2, np.arange(8))
    assert (made.num_workers, made.prefetch_factor, made.timeout) == (2, 5, 60)
    assert made.worker_init_fn is started
    assert made.multiprocessing_context.get_start_method() == "spawn"
    assert made.in_order


def test_nothing_is_drawn_from_the_users_generators():
    """A twin has a generator of its own; the user's and torch's stay where they are."""
    own = torch.Generator().manual_seed(1)
    loader = data.DataLoader(DATA, 4, shuffle=True, generator=own)
    kept = [g.get_state().tolist() for g in (own, torch.default_generator)]
    made, _ = twin(loader, 4, np.arange(20))
    batches_of(made)
    assert made.generator is not own
    assert [g.get_state().tolist() for g in (own, torch.default_generator)] == kept


def test_a_reading_knows_what_was_drawn_and_how_often():
    """Rows are counted as they are drawn, batches by their rows, and passes as they begin."""
    told = []
    reading = Reading([[1, 2], [3], 4])
    reading.on_draw = told.append
    assert (reading.drawn, reading.passes, len(reading)) == (0, 0, 3)
    assert list(reading) == [[1, 2], [3], 4]
    next(iter(reading))
    assert (reading.drawn, reading.passes) == (6, 2)
    assert told == [2, 3, 4, 6]


@pytest.mark.parametrize(
    "samples",
    [[5, "b", None], (5, "b", None), np.array([[5], [6], [7]]), torch.tensor([5.0, 6, 7])],
    ids=["list", "tuple", "array", "tensor"],
)
def test_picked_samples_stay_what_they_were_in(samples):
    """Some items of an array, tensor, list or tuple come in one of the same type, in order."""
    found = pick(samples, np.array([2, 0, 2]))
    assert type(found) is type(samples)
    assert [str(item) for item in found] == [str(samples[n]) for n in (2, 0, 2)]
    assert len(pick(samples, np.array([], np.int64))) == 0
