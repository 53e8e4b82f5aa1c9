"""Missing rows of a loader: through a loader of just those, and only if rows stand alone."""

from __future__ import annotations

import numpy as np
import pytest

import castore
from castore.errors import CastoreWarning

torch = pytest.importorskip("torch")

from torch.utils import data  # noqa: E402


class Seen(list):
    """What a function was given; no part of what it computes."""

    castore_infrastructure = True


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path / "store")


DATA = data.TensorDataset(torch.arange(300.0).reshape(100, 3))


def collated(samples):
    """Collate as usual, but by a function of the user's own."""
    return [torch.stack([row for (row,) in samples])]


class Batches:
    """A batch sampler that says which batches it gives."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        """Give them."""
        return iter(self.batches)

    def __len__(self):
        """Return how many there are."""
        return len(self.batches)

    def __castore_indices__(self):
        """Return them."""
        return self.batches


class Reads:
    """A function of a loader that remembers it, and its batches; else a test's own."""

    def __init__(self, model=None, around=None):
        self.model = model
        self.around = around
        self.loaders = Seen()
        self.batches = Seen()

    def __call__(self, loader):
        """Return the rows doubled."""
        self.loaders.append(loader)
        batches = [rows for (rows,) in loader]
        self.batches.append([len(rows) for rows in batches])
        if self.around is not None:
            self.around(loader)
        return torch.cat(batches) * 2


def over(indices, size=4, **options):
    """Return a loader over some samples."""
    return data.DataLoader(data.Subset(DATA, indices), size, **options)


def read(store, work, loader, **options):
    """Ask for what a loader gives, row by row."""
    return store.get_or_compute(loader, work, "t", **{"rowwise": True, "model": None, **options})


def rows(indices):
    """Return what a request must come to."""
    return (DATA.tensors[0][list(indices)] * 2).numpy()


def test_missing_rows_come_as_the_others_do(store):
    """The loader over missing rows has the batch size, collate and pinning of the user's."""
    work = Reads()
    options = {"collate_fn": collated, "pin_memory": False, "size": 3}
    read(store, work, over(range(10), **options))
    found = read(store, work, over([5, *range(20, 27)], **options))
    assert np.array_equal(found, rows([5, *range(20, 27)]))
    assert work.batches == [[3, 3, 3, 1], [3, 3, 1]]
    assert work.loaders[1].collate_fn is collated
    assert work.loaders[1].batch_size == 3


def test_the_dataset_of_missing_rows_is_just_those(store):
    """A function that makes room for ``len(loader.dataset)`` rows has the right room."""
    work = Reads()
    read(store, work, over(range(10)))
    read(store, work, over([5, 20, 21]))
    assert len(work.loaders[1].dataset) == 2


@pytest.mark.parametrize(("missing", "workers"), [(7, 0), (8, 0), (9, 2)])
def test_few_missing_rows_start_no_workers(store, missing, workers):
    """Below two batches a worker the process loads by itself; from there on as the user says."""
    work = Reads()
    read(store, work, over(range(10)))
    asked = [*range(10), *range(20, 20 + missing)]
    size = 3 if workers else 4
    assert np.array_equal(
        read(store, work, over(asked, size, num_workers=workers or 2)), rows(asked)
    )
    assert work.loaders[1].num_workers == (0 if -(-missing // size) < 4 else 2)


def test_missing_rows_keep_what_is_left_of_their_batches(store):
    """Of a batch sampler's batches each gives the rows it misses, together."""
    work = Reads()
    read(store, work, over(range(10)))
    batches = [[0, 20, 21], [3, 4], [22], [23, 24, 25, 9]]
    found = read(store, work, data.DataLoader(DATA, batch_sampler=Batches(batches)))
    assert np.array_equal(found, rows([0, 20, 21, 3, 4, 22, 23, 24, 25, 9]))
    assert work.batches[1] == [2, 1, 3]


def test_training_flags_and_torchs_generator_are_put_back(store):
    """A partial hit leaves a model in training, and torch's generator where it was."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3)).train()

    def around(_loader):
        model.eval()
        torch.rand(3)

    work = Reads(model, around)
    read(store, work, over(range(10)), model="auto")
    kept = torch.get_rng_state().tolist()
    read(store, work, over([1, 50]), model="auto")
    assert len(work.loaders) == 2
    assert model[0].training
    assert torch.get_rng_state().tolist() == kept


def test_another_loader_read_is_noticed(store):
    """A function that reads a loader of its own is run over the whole, and believed no row."""
    mine = over([7, 8])
    work = Reads()
    read(store, work, over(range(10)))
    strange = store.get_or_compute(
        over([1, 50]),
        lambda _: torch.cat([r for (r,) in mine]) * 2,
        "t",
        model=None,
        rowwise=True,
        ignore=("fn.mine",),
    )
    assert np.array_equal(strange, rows([7, 8]))


def judged(store, work, indices, **options):
    """Ask for what a loader gives, with a model, for a probe to judge."""
    return read(store, work, over(indices, **options), rowwise="auto", model="auto")


def model():
    """Return a model in eval mode."""
    return torch.nn.Linear(3, 3).eval()


def test_a_probe_is_made_once_for_all_who_share_a_store(store):
    """Its verdict is kept in the store: nobody computes rows again to see once more."""
    work = Reads(model())
    judged(store, work, range(40))
    assert np.array_equal(judged(store, work, range(30, 60)), rows(range(30, 60)))
    assert store.stats().rows_probed > 0
    other = castore.open(store.url)
    del work.batches[:]
    assert np.array_equal(judged(other, work, range(50, 70)), rows(range(50, 70)))
    assert sum(map(sum, work.batches)) == 10
    assert other.stats().rows_probed == 0


def verdicts(tmp_path):
    """Return the files of verdicts."""
    return [*tmp_path.rglob("rowwise/*.json")]


def test_a_damaged_verdict_is_made_again(store, tmp_path):
    """Whoever finds a verdict damaged makes the probe once more, and stores another."""
    work = Reads(model())
    judged(store, work, range(40))
    judged(store, work, range(30, 60))
    (file,) = verdicts(tmp_path)
    good = file.read_bytes()
    file.unlink()
    file.write_bytes(good[:-1])
    other = castore.open(store.url)
    assert np.array_equal(judged(other, work, range(20, 70)), rows(range(20, 70)))
    assert other.stats().rows_probed > 0
    third = castore.open(store.url)
    assert np.array_equal(judged(third, work, range(69, 80)), rows(range(69, 80)))
    assert third.stats().rows_probed == 0


def test_a_function_of_the_whole_is_found_out_once(store):
    """A probe that differs makes the table exact-only: computed whole, and not probed again."""
    net = model()

    def centred(loader):
        net  # noqa: B018  the model that makes it a candidate
        x = torch.cat([rows for (rows,) in loader])
        return x - x.mean(0)

    for _ in range(2):
        for asked in (range(40), range(30, 60), range(60)):
            x = DATA.tensors[0][list(asked)]
            found = store.get_or_compute(over(asked), centred, "c")
            assert np.array_equal(found, x - x.mean(0))
    assert store.stats().rows_probed <= 36
    assert store.stats().computations == 3


def test_a_function_that_reads_twice_is_not_reused(store):
    """Under ``"auto"`` a function must pass over its loader once: else its rows may depend."""
    work = Reads(model(), around=list)
    judged(store, work, range(40))
    assert np.array_equal(judged(store, work, range(30, 60)), rows(range(30, 60)))
    assert (store.stats().partial_hits, store.stats().rows_reused) == (0, 0)


def test_a_function_may_read_twice_if_the_caller_says_so(store):
    """Under ``rowwise=True`` it is the caller's word."""
    work = Reads(around=list)
    read(store, work, over(range(10)))
    read(store, work, over(range(5, 15)))
    assert store.stats().rows_reused == 5


def test_a_model_changed_on_the_way_stores_nothing(store):
    """Rows computed while a model changes are returned, and no row is stored."""
    net = model()

    def around(loader):
        if len(loader.dataset) < 5:
            with torch.no_grad():
                net.bias += 1

    work = Reads(net, around)
    read(store, work, over(range(10)), model="auto")
    before = [entry.key for entry in store.entries()]
    with pytest.warns(CastoreWarning, match="changed its model"):
        found = read(store, work, over([1, 50]), model="auto")
    assert np.array_equal(found, rows([1, 50]))
    assert [entry.key for entry in store.entries()] == before


def test_batches_of_ones_own_that_are_compared_are_exact(store):
    """Where batch sizes are compared and a batch sampler cuts them, only the same request hits."""
    work = Reads()

    def ask(batches):
        loader = data.DataLoader(DATA, batch_sampler=Batches(batches))
        return read(store, work, loader, compare=("batch_size",))

    ask([[0, 1, 2], [3]])
    assert np.array_equal(ask([[0, 1], [2, 3, 4]]), rows(range(5)))
    assert np.array_equal(ask([[0, 1], [2, 3, 4]]), rows(range(5)))
    assert work.batches == [[3, 1], [2, 3]]
