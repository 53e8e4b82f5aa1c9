"""Random samples are refused, or one draw of them is kept on purpose."""

from __future__ import annotations

import os
import random
from collections import deque

import numpy as np
import pytest

import castore
from castore.errors import CastoreWarning, RandomError

torch = pytest.importorskip("torch")

from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset  # noqa: E402


class Samples(Dataset):
    """A custom dataset with a transform."""

    def __init__(self, transform, length=4):
        self.transform = transform
        self.length = length
        self.loads = deque()  # which no trial is taken back from

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.loads.append(index)
        return self.transform(float(index))

    def __castore_row_ids__(self, indices):
        return list(indices)

    def __castore_fingerprint__(self):
        return "samples"


def total(loader):
    """Return every sample as a row."""
    return torch.cat([batch.reshape(len(batch), -1) for batch in loader])


DRAWS = {
    "Python's": lambda x: x + random.random(),
    "numpy's": lambda x: x + np.random.rand(),  # noqa: NPY002
    "torch's": lambda x: x + float(torch.rand(())),
}


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path)


@pytest.mark.parametrize("whose", DRAWS)
def test_samples_that_draw_are_refused_before_the_function_runs(store, whose):
    """A sample whose loading moves a global generator is refused, and the generator put back."""
    loader = DataLoader(Samples(DRAWS[whose]), batch_size=2)
    random.seed(1)
    before = random.getstate()
    with pytest.raises(RandomError, match=f"sample 0 of Samples is random: .*{whose}"):
        store.get_or_compute(loader, total, "x", model=None)
    assert random.getstate() == before
    assert list(store.entries()) == []


def test_samples_that_differ_are_refused(store):
    """A sample that draws from a generator of its own differs between two loads."""
    own = np.random.default_rng(0)
    dataset = Samples(None)
    dataset.transform = own.normal
    with pytest.raises(RandomError, match="two loads of it differ"):
        store.get_or_compute(DataLoader(dataset, batch_size=2), total, "x", model=None)


def test_a_collate_that_draws_is_refused(store):
    """What a collate function of the user's draws is random too."""

    def noisy(samples):
        return torch.tensor(samples) + torch.rand(())

    loader = DataLoader(Samples(abs), batch_size=2, collate_fn=noisy)
    with pytest.raises(RandomError, match="torch's"):
        store.get_or_compute(loader, total, "x", model=None)


def test_one_draw_is_kept_on_purpose(store, caplog):
    """``random="freeze"`` computes one draw, keeps it, says so, and serves it to nobody else."""
    loader = DataLoader(Samples(DRAWS["torch's"]), batch_size=2)
    first = store.get_or_compute(loader, total, "x", model=None, random="freeze")
    again = store.get_or_compute(loader, total, "x", model=None, random="freeze")
    assert np.array_equal(first, again)
    assert caplog.text.count("random='freeze': one draw") == 1
    with pytest.raises(RandomError):
        store.get_or_compute(loader, total, "x", model=None)


def test_a_random_transform_is_frozen_by_name(store, caplog):
    """A transform known to be random is refused by name, or frozen and named."""
    transforms = pytest.importorskip("torchvision.transforms")
    dataset = Samples(transforms.Compose([torch.tensor, transforms.RandomApply([abs])]))
    loader = DataLoader(dataset, batch_size=2)
    with pytest.raises(RandomError, match="RandomApply"):
        store.get_or_compute(loader, total, "x", model=None)
    assert not dataset.loads
    store.get_or_compute(loader, total, "x", model=None, random="freeze")
    assert "RandomApply" in caplog.text


def test_each_source_is_tried_once(store):
    """One sample of each source is loaded twice, once; hits load none."""
    one, two = Samples(abs), Samples(float)
    loader = DataLoader(ConcatDataset([one, two]), batch_size=2)
    store.get_or_compute(loader, total, "x", model=None)
    assert one.loads.count(0) == two.loads.count(0) == 3
    store.get_or_compute(loader, total, "y", model=None)
    assert one.loads.count(0) == two.loads.count(0) == 4
    store.get_or_compute(loader, total, "y", model=None)
    assert one.loads.count(0) == 4


class Opened(Dataset):
    """A dataset that opens something when its first sample is loaded, and remembers where."""

    def __init__(self):
        self.opened = None
        self.cache = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.opened is None:
            self.opened = os.getpid()
        self.cache[index] = os.getpid()
        return torch.tensor([float(self.opened), float(self.cache.get(0, 0))])


def test_workers_inherit_nothing_that_was_opened_to_try(store):
    """What a dataset opens when it is tried is forgotten: every worker opens its own."""
    dataset = Opened()
    subset = torch.utils.data.Subset(dataset, range(8))
    loader = DataLoader(subset, batch_size=2, num_workers=2, multiprocessing_context="fork")
    found = store.get_or_compute(loader, total, "x", model=None, dataset_id="x@1")
    assert os.getpid() not in found
    assert dataset.opened is None
    assert dataset.cache == {}


def test_samples_in_memory_are_not_tried(store):
    """Nothing is loaded of a dataset that only indexes what it holds."""

    class Counted(TensorDataset):
        """Counts nothing: its methods are the type's own."""

    loader = DataLoader(Counted(torch.arange(4.0)), batch_size=2)
    store.get_or_compute(loader, lambda loader: torch.cat([x for (x,) in loader]), "x", model=None)
    assert store.stats().commits == 1


def test_a_refused_sample_is_computed_uncached_where_asked(tmp_path):
    """With ``on_error="compute"`` a random sample is computed, warned of, and not stored."""
    store = castore.open(tmp_path, on_error="compute")
    loader = DataLoader(Samples(DRAWS["torch's"]), batch_size=2)
    with pytest.warns(CastoreWarning, match="is random"):
        found = store.get_or_compute(loader, total, "x", model=None)
    assert found.shape == (4, 1)
    assert store.stats().uncached == {"random": 1}


def test_a_load_that_fails_is_left_to_the_function(store):
    """An error of the dataset's own reaches the user from the function, as without a store."""

    def broken(_):
        msg = "no such sample"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="no such sample"):
        store.get_or_compute(DataLoader(Samples(broken)), total, "x", model=None)
