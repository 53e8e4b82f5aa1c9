"""Which rows a loader gives and in which order: known or refused, and never found by trying."""

from __future__ import annotations

import random

import numpy as np
import pytest

from castore.errors import FingerprintError, OrderError
from castore.identity.loader import plan
from castore.identity.values import encode

torch = pytest.importorskip("torch")
data = torch.utils.data


class Unreadable(data.Dataset):
    """A dataset that must not be read."""

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        pytest.fail("fingerprinting read the dataset")


class Numbers(data.Dataset):
    """A dataset of its indices."""

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return int(index)


class Stream(data.IterableDataset):
    """A dataset that can only be iterated, and must not be."""

    def __iter__(self):
        pytest.fail("fingerprinting iterated the stream")


class Own:
    """A sampler of the user's."""

    def __init__(self, indices, *, told=True):
        self.indices = indices
        if told:
            self.__castore_indices__ = lambda: self.indices

    def __iter__(self):
        pytest.fail("fingerprinting iterated a sampler")

    def __len__(self):
        return len(self.indices)


class OwnBatches(Own):
    """A batch sampler of the user's."""

    def __init__(self, batches, *, told=True):
        super().__init__(batches, told=told)
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def states():
    """Return the state of every global generator."""
    return (
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
        torch.get_rng_state().tolist(),
    )


def found(loader):
    """Plan a loader, and see that no global generator moved."""
    before = states()
    try:
        return plan(loader)
    finally:
        assert states() == before


def loader_of(dataset=None, **options):
    """Make a loader of batches of 3."""
    if "batch_sampler" not in options:
        options.setdefault("batch_size", 3)
    return data.DataLoader(dataset or Unreadable(), **options)


def collate(items):
    """Put a batch together."""
    return items


def other_collate(items):
    """Put a batch together in another way."""
    return items[::-1]


KNOWN = {
    "plain": ({}, range(10)),
    "list": ({"sampler": [5, 1, 9]}, [5, 1, 9]),
    "repeated": ({"sampler": [5, 5, 5]}, [5, 5, 5]),
    "tuple": ({"sampler": (5, 1, 9)}, [5, 1, 9]),
    "range": ({"sampler": range(8, 2, -2)}, [8, 6, 4]),
    "array": ({"sampler": np.array([5, 1, 9])}, [5, 1, 9]),
    "tensor": ({"sampler": torch.tensor([5, 1, 9])}, [5, 1, 9]),
    "empty": ({"sampler": []}, []),
    "negative": ({"sampler": [-1, 0]}, [-1, 0]),
    "sequential sampler": ({"sampler": data.SequentialSampler(range(4))}, range(4)),
    "batch sampler": (
        {"batch_sampler": data.BatchSampler(data.SequentialSampler(range(10)), 4, drop_last=False)},
        range(10),
    ),
    "batch sampler of a list": (
        {"batch_sampler": data.BatchSampler([3, 1, 2], 2, drop_last=False)},
        [3, 1, 2],
    ),
    "batch sampler that drops": (
        {"batch_sampler": data.BatchSampler(range(10), 4, drop_last=True)},
        range(8),
    ),
    "drop_last": ({"drop_last": True}, range(9)),
    "drop_last without a remainder": ({"drop_last": True, "batch_size": 5}, range(10)),
    "drop_last of everything": ({"drop_last": True, "batch_size": 11}, []),
    "no batches": ({"batch_size": None}, range(10)),
    "own sampler": ({"sampler": Own([7, 3])}, [7, 3]),
    "own sampler of an array": ({"sampler": Own(np.array([7, 3]))}, [7, 3]),
    "own batch sampler": ({"batch_sampler": OwnBatches([[7, 3], [1]])}, [7, 3, 1]),
}


@pytest.mark.parametrize(("options", "indices"), KNOWN.values(), ids=KNOWN)
def test_ordered_loaders_are_known(options, indices):
    """A loader with a known order is given to the function itself, and its rows are listed."""
    loader = loader_of(**options)
    plan_ = found(loader)
    assert plan_.indices.dtype == np.int64
    assert plan_.indices.tolist() == list(indices)
    assert plan_.loader is loader
    assert plan_.reading is None
    assert plan_.dataset is loader.dataset


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"shuffle": False}, {"drop_last": True}, {"seed": 3}], ids=str
)
def test_distributed_samplers_are_known(rank, options):
    """A DistributedSampler draws from a generator of its own, so its order is the loader's."""
    dataset = Numbers()
    sampler = data.distributed.DistributedSampler(dataset, num_replicas=3, rank=rank, **options)
    loader = loader_of(dataset, sampler=sampler)
    plan_ = found(loader)
    assert plan_.loader is loader
    assert plan_.indices.tolist() == torch.cat(list(loader)).tolist()
    sampler.set_epoch(1)
    assert found(loader).indices.tolist() == torch.cat(list(loader)).tolist()


UNORDERED = {
    "shuffle": ({"shuffle": True}, range(10)),
    "seeded shuffle": ({"shuffle": True, "generator": torch.Generator()}, range(10)),
    "random sampler": ({"sampler": data.RandomSampler(range(4))}, range(4)),
    "subset random sampler": ({"sampler": data.SubsetRandomSampler([5, 1, 9])}, [5, 1, 9]),
    "batch sampler of a random one": (
        {"batch_sampler": data.BatchSampler(data.RandomSampler(range(10)), 3, drop_last=False)},
        range(10),
    ),
    "drop_last without a remainder": (
        {"shuffle": True, "drop_last": True, "batch_size": 5},
        range(10),
    ),
    "out of order": ({"in_order": False}, range(10)),
    "a list out of order": ({"in_order": False, "sampler": [5, 1, 9]}, [5, 1, 9]),
    "drop_last out of order": ({"in_order": False, "drop_last": True}, range(9)),
}


@pytest.mark.parametrize(("options", "indices"), UNORDERED.values(), ids=UNORDERED)
def test_unordered_loaders_get_a_sequential_twin(options, indices):
    """Where the order is not promised the function reads a twin, which gives the rows in order."""
    original = loader_of(Numbers(), collate_fn=collate, **options)
    plan_ = found(original)
    twin, indices = plan_.loader, list(indices)
    assert twin is not original
    assert type(twin) is data.DataLoader
    assert plan_.indices.tolist() == indices
    size = plan_.variant["batch_size"]
    assert list(twin) == [indices[i : i + size] for i in range(0, len(indices), size)]
    assert plan_.reading.drawn == len(indices)


def test_twins_know_that_they_were_read():
    """A twin counts the rows drawn from it and tells each, so that an unread one is noticed."""
    plan_ = found(loader_of(Numbers(), shuffle=True))
    assert plan_.reading.drawn == 0
    told = []
    plan_.reading.on_draw = told.append
    list(plan_.loader)
    assert told == list(range(1, 11))
    assert len(plan_.reading) == 10
    assert len(plan_.loader) == 4


def test_twins_keep_what_shapes_a_batch():
    """A twin has the loader's dataset, batch size, collate, pinning, workers and their set-up."""
    original = loader_of(
        Numbers(),
        shuffle=True,
        collate_fn=collate,
        pin_memory=True,
        num_workers=1,
        prefetch_factor=5,
        timeout=7,
        worker_init_fn=print,
        multiprocessing_context="fork",
    )
    twin = found(original).loader
    for name in (
        *("dataset", "batch_size", "collate_fn", "pin_memory", "num_workers", "prefetch_factor"),
        *("timeout", "worker_init_fn", "multiprocessing_context"),
    ):
        assert getattr(twin, name) == getattr(original, name), name
    assert twin.in_order


def test_twins_draw_from_a_generator_of_their_own():
    """To read a twin moves no global generator, nor the loader's own."""
    generator = torch.Generator().manual_seed(3)
    twin = found(loader_of(Numbers(), shuffle=True, generator=generator)).loader
    before = (states(), generator.get_state().tolist())
    list(twin)
    assert (states(), generator.get_state().tolist()) == before


def test_twins_of_the_users_batches_give_the_users_batches():
    """A batch sampler that says its rows is asked for its batches, in order or not."""
    batches = [[7, 3], [1]]
    original = loader_of(
        Numbers(), batch_sampler=OwnBatches(batches), in_order=False, collate_fn=collate
    )
    assert list(found(original).loader) == batches


def test_another_cut_into_batches_is_another_variant():
    """Two batch samplers that say the same rows and cut them differently are told apart."""
    one = loader_of(batch_sampler=OwnBatches([[0, 1], [2, 3]]))
    two = loader_of(batch_sampler=OwnBatches([[0], [1, 2, 3]]))
    assert found(one).indices.tolist() == found(two).indices.tolist()
    assert found(one).variant != found(two).variant
    assert found(one).variant["batch_size"] == encode(np.array([2, 2]))
    assert found(one).batch_size is None


def test_batches_are_counted_by_their_rows():
    """A twin that gives the user's batches counts the rows in them."""
    batches = [[7, 3], [1]]
    plan_ = found(loader_of(Numbers(), batch_sampler=OwnBatches(batches), in_order=False))
    told = []
    plan_.reading.on_draw = told.append
    list(plan_.loader)
    assert told == [2, 3]
    assert len(plan_.reading) == len(plan_.loader) == 2


def test_an_own_batch_sampler_must_give_batches():
    """A batch sampler that lists single indices is refused, with what it is to list."""
    flat = OwnBatches([7, 3, 1])
    with pytest.raises(FingerprintError, match=r"the batches of __castore_indices__\(\)"):
        found(loader_of(batch_sampler=flat))


class OwnLoader(data.DataLoader):
    """A loader that iterates in its own way."""

    def __iter__(self):
        pytest.fail("fingerprinting iterated the loader")


class OwnIterator(data.DataLoader):
    """A loader with an iterator of its own."""

    def _get_iterator(self):
        pytest.fail("fingerprinting iterated the loader")


class OwnRandom(data.RandomSampler):
    """A subclass, which may draw in another way."""


REFUSED = {
    "replacement": (
        lambda: loader_of(sampler=data.RandomSampler(range(10), replacement=True)),
        "with replacement, or only some",
    ),
    "some samples": (
        lambda: loader_of(sampler=data.RandomSampler(range(10), num_samples=4)),
        "with replacement, or only some",
    ),
    "more samples": (
        lambda: loader_of(sampler=data.RandomSampler(range(10), num_samples=14)),
        "with replacement, or only some",
    ),
    "weights": (
        lambda: loader_of(sampler=data.WeightedRandomSampler([1.0, 1.0], 2)),
        "WeightedRandomSampler",
    ),
    "subclass of a sampler": (lambda: loader_of(sampler=OwnRandom(range(10))), "OwnRandom"),
    "own sampler": (lambda: loader_of(sampler=Own([1], told=False)), "its sampler is a .*Own"),
    "own batch sampler": (
        lambda: loader_of(batch_sampler=OwnBatches([[1]], told=False)),
        "its batch sampler is a .*OwnBatches",
    ),
    "own iterator": (
        lambda: OwnLoader(Unreadable(), batch_size=3),
        "OwnLoader has its own __iter__",
    ),
    "own inner iterator": (
        lambda: OwnIterator(Unreadable(), batch_size=3),
        "OwnIterator has its own _get_iterator",
    ),
    "random rows dropped": (
        lambda: loader_of(shuffle=True, drop_last=True),
        "leave out 1 random rows",
    ),
    "random rows dropped by a batch sampler": (
        lambda: loader_of(
            batch_sampler=data.BatchSampler(data.RandomSampler(range(10)), 4, drop_last=True)
        ),
        "leave out 2 random rows",
    ),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_unknowable_loaders_are_refused(build, message):
    """Where the rows or their order cannot be known the loader is refused, with lines to paste."""
    with pytest.raises(OrderError, match=message) as caught:
        found(build())
    assert "shuffle=False" in str(caught.value)
    assert "__castore_indices__" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [None, 3, "abc", iter([]), {1: 2}, range(3), Unreadable()],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_no_loader_is_refused(value):
    """Anything that castore does not know as a loader is an OrderError that says what to pass."""
    with pytest.raises(OrderError, match="no loader castore knows: pass a torch DataLoader"):
        found(value)


@pytest.mark.parametrize(
    "samples", [np.arange(3), [1, 2, 3], (1, 2, 3), torch.arange(3)], ids=lambda s: type(s).__name__
)
def test_samples_themselves_are_a_loader(samples):
    """An array, tensor, list or tuple is its own dataset, in order."""
    plan_ = found(samples)
    assert plan_.dataset is plan_.loader is samples
    assert plan_.indices.tolist() == [0, 1, 2]
    assert plan_.variant == {"batch_size": None, "collate": None, "whole": True}


def test_subclasses_that_iterate_alike_are_loaders():
    """A subclass of DataLoader that does not touch iteration is one."""
    kind = type("Named", (data.DataLoader,), {})
    assert found(kind(Unreadable(), batch_size=2)).indices.tolist() == list(range(10))


def test_the_batch_size_is_the_variant_wherever_it_is_set():
    """Batch sizes differ, and one given by a batch sampler is one given to the loader."""
    variants = [found(loader_of(batch_size=size)).variant for size in (1, 2, None)]
    assert [variant["batch_size"] for variant in variants] == [1, 2, None]
    batches = data.BatchSampler(data.SequentialSampler(range(10)), 2, drop_last=False)
    assert found(loader_of(batch_sampler=batches)).variant == variants[1]


def test_what_only_moves_data_is_in_no_variant():
    """Workers, pinning, prefetching and timeouts change no result."""
    plain = found(loader_of())
    other = found(
        loader_of(
            num_workers=2, prefetch_factor=4, pin_memory=True, timeout=3, worker_init_fn=print
        )
    )
    assert other.variant == plain.variant
    assert other.indices.tolist() == plain.indices.tolist()


def enclosing(value):
    """Make a collate function that captures a value."""

    def fn(items):
        return items, value

    return fn


def test_a_custom_collate_is_in_the_variant():
    """A collate function counts by its code and what it captures; torch's own are all one."""
    plain = found(loader_of()).variant
    assert plain["collate"] is None
    assert found(loader_of(collate_fn=data.default_collate)).variant == plain
    variants = [
        plain,
        *(found(loader_of(collate_fn=fn)).variant for fn in (collate, other_collate)),
        *(found(loader_of(collate_fn=enclosing(k))).variant for k in (1, 2)),
    ]
    assert all(a != b for i, a in enumerate(variants) for b in variants[:i])
    assert found(loader_of(collate_fn=enclosing(1))).variant == variants[3]


def test_what_a_collate_holds_without_a_rule_is_listed():
    """A captured value that cannot be encoded is not keyed, and said."""
    plan_ = found(loader_of(collate_fn=enclosing(iter([]))))
    assert plan_.not_keyed == {"collate_fn.value": "builtins.list_iterator"}


def test_a_collate_with_a_model_is_keyed_by_it():
    """A model hidden in the loader is part of the variant."""
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    built = [found(loader_of(collate_fn=enclosing(model))).variant for model in (one, two, one)]
    assert built[0] != built[1]
    assert built[0] == built[2]


def test_streams_have_no_indices():
    """A loader of an IterableDataset has a variant with all that may change its order."""
    plain = found(data.DataLoader(Stream(), batch_size=3))
    assert plain.indices is None
    others = [
        {"batch_size": 4},
        {"num_workers": 2},
        {"drop_last": True},
        {"collate_fn": collate},
        {"num_workers": 2, "worker_init_fn": collate},
    ]
    variants = [
        found(data.DataLoader(Stream(), **{"batch_size": 3, **options})).variant
        for options in others
    ]
    assert all(variant != plain.variant for variant in variants)
    assert variants[1] != variants[4]


def test_indices_of_a_sampler_must_be_integers():
    """A sampler of anything but integers is refused."""
    with pytest.raises(FingerprintError, match="one list of integers"):
        found(loader_of(sampler=["a", "b"]))
