"""What torch users see: loaders, models, tensors, twins."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest

import castore
from castore.errors import CastoreWarning, OrderError, ResultError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Subset, TensorDataset  # noqa: E402


def seeded(seed):
    """Return a generator of a seed."""
    return torch.Generator().manual_seed(seed)


DATA = TensorDataset(torch.rand(100, 3, 8, 8, generator=seeded(0)))


class Network(nn.Module):
    """A small network with a buffer that changes in training."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())

    def forward(self, images):
        """Return features."""
        return self.body(images)


class Extract:
    """Extracts features, and counts its calls where no key sees it."""

    def __init__(self, model, *, evaluate=True):
        self.model = model
        self.evaluate = evaluate
        self.calls = deque()

    def __call__(self, loader):
        """Return one row of features a sample."""
        self.calls.append(None)
        if self.evaluate:
            self.model.eval()
        with torch.no_grad():
            return torch.cat([self.model(images) for (images,) in loader])


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path)


@pytest.fixture
def extract():
    """Return an extractor with a model of its own."""
    torch.manual_seed(0)
    return Extract(Network())


def loader(dataset=DATA, **options):
    """Return a loader over `dataset`."""
    return DataLoader(dataset, **{"batch_size": 32, **options})


def test_features_of_a_model_are_found_again(store, extract):
    """A model found in the function is hashed; a hit returns its features bit for bit."""
    first = store.get_or_compute(loader(), extract, "net")
    again = store.get_or_compute(loader(), extract, "net")
    assert first.shape == (100, 144)
    assert first.tobytes() == again.tobytes()
    assert len(extract.calls) == 1
    with torch.no_grad():
        extract.model.body[0].weight[0, 0, 0, 0] += 1
    store.get_or_compute(loader(), extract, "net")
    assert len(extract.calls) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda: loader(batch_size=31),
        lambda: loader(drop_last=True),
        lambda: loader(Subset(DATA, range(99))),
        lambda: loader(Subset(DATA, range(99, -1, -1))),
        lambda: loader(TensorDataset(DATA.tensors[0] + 1)),
        lambda: loader(collate_fn=lambda rows: (torch.stack([row for (row,) in rows]),)),
    ],
)
def test_other_loaders_miss(store, extract, other):
    """Another batch size, order, subset, content or collate is another key."""
    store.get_or_compute(loader(), extract, "net")
    store.get_or_compute(other(), extract, "net")
    assert len(extract.calls) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda: loader(Subset(DATA, range(100))),
        lambda: loader(Subset(Subset(DATA, list(range(100))), torch.arange(100))),
        lambda: loader(sampler=np.arange(100)),
        lambda: loader(num_workers=1),
        lambda: loader(shuffle=True),
    ],
)
def test_equal_rows_hit(store, extract, other):
    """The same rows, however they are named or loaded, are the same key."""
    expected = store.get_or_compute(loader(), extract, "net")
    assert np.array_equal(store.get_or_compute(other(), extract, "net"), expected)
    assert len(extract.calls) == 1


def test_a_shuffled_loader_is_read_in_dataset_order(store, extract):
    """The function gets a sequential twin; its rows come back in dataset order."""
    shuffled = store.get_or_compute(loader(shuffle=True, generator=seeded(3)), extract, "net")
    assert np.array_equal(store.get_or_compute(loader(), extract, "net"), shuffled)
    assert len(extract.calls) == 1
    with pytest.raises(OrderError, match="4 random rows"):
        store.get_or_compute(loader(shuffle=True, drop_last=True), extract, "net")


def test_a_twin_that_is_not_read_stores_nothing(store):
    """A function that reads another loader than the one given is not believed."""
    shuffled = loader(shuffle=True)

    def extract(_given):
        return torch.cat([images for (images,) in shuffled])

    with pytest.warns(CastoreWarning, match="did not read the loader"):
        value = store.get_or_compute(shuffled, extract, "raw", model=None)
    assert value.shape == (100, 3, 8, 8)
    assert list(store.entries()) == []
    assert store.stats().uncached == {"input-changed": 1}


def test_a_model_that_changes_stores_nothing(store):
    """Batch norm in training changes its buffers: they are named, the result is not stored."""
    extract = Extract(Network(), evaluate=False)
    with pytest.warns(CastoreWarning, match=r"changed its model .*: body\.1\.running_mean"):
        store.get_or_compute(loader(), extract, "net")
    assert list(store.entries()) == []


def test_train_flags_and_generators_are_put_back(store, extract):
    """After a miss the model trains again, and every generator is where it was."""
    extract.model.train()
    own = seeded(5)
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        random.seed(1)
        store.get_or_compute(loader(generator=own), extract, "net")
        states.append((torch.rand(1).item(), random.random(), own.get_state().sum().item()))
    assert states[0] == states[1]
    assert all(module.training for module in extract.model.modules())
    assert len(extract.calls) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "bool", "uint8", "int64"])
def test_tensors_come_back_as_tensors(store, dtype):
    """``returns="torch"`` gives tensors of the dtype returned, on the miss and on the hit."""
    value = torch.arange(200).reshape(100, 2).to(getattr(torch, dtype))
    if value.is_floating_point():
        value.requires_grad_()

    def fn(_loader):
        return {"value": value.t().contiguous().t(), "n": 3}

    for _ in range(2):
        found = store.get_or_compute(loader(), fn, "t", model=None, returns="torch")
        assert found["value"].dtype == value.dtype
        assert torch.equal(found["value"], value.detach())
        assert not found["value"].requires_grad
        found["value"][0] = 0
    assert store.stats().hits == 1


def test_dtypes_torch_has_not_lose_no_result(store):
    """A result torch has no dtype for is in the error, as numpy."""
    times = np.arange(100).astype("datetime64[s]")
    with pytest.raises(ResultError, match="returns='numpy'") as raised:
        store.get_or_compute(loader(), lambda _: times, "t", model=None, returns="torch")
    assert np.array_equal(raised.value.result, times)


@pytest.mark.parametrize("nested", [False, True])
def test_lists_of_batches_say_what_to_do(store, nested):
    """A list with one tensor a batch is refused with ``torch.cat``, nested or not."""

    def fn(given):
        batches = [images for (images,) in given]
        return {"x": batches} if nested else batches

    with pytest.raises(ResultError, match=r"4 arrays, one a batch: return torch\.cat"):
        store.get_or_compute(loader(), fn, "t", model=None)


def test_nothing_of_torch_is_imported_by_the_store():
    """Identifying a model does not import torch's compiler, which takes a second."""
    import subprocess
    import sys

    script = (
        "import sys, torch, castore; castore.hash_model(torch.nn.Linear(2, 2));"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_model_that_loses_its_values_loses_no_result(store):
    """A function that leaves its model without values still returns what it computed."""
    model = Network().eval()

    def extract(given):
        features = torch.cat([images.flatten(1) for (images,) in given])
        model.to("meta")
        return features

    with pytest.warns(CastoreWarning, match="changed its model"):
        value = store.get_or_compute(loader(), extract, "net")
    assert value.shape == (100, 192)
    assert list(store.entries()) == []
