"""Which rule holds for a dataset, what is refused, and datasets that are held as values."""

from __future__ import annotations

import re
import socket
import threading

import numpy as np
import pytest

from castore.errors import ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.captures import capture
from castore.identity.datasets.rules import as_value, samples_of
from castore.identity.datasets.samples import Terms
from castore.identity.loader import plan

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")


class Unknown(data.Dataset):
    """A dataset castore knows nothing of."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return index


class Named(Unknown):
    """A dataset that names its rows."""

    def __castore_row_ids__(self, indices):
        return indices


class Stream(data.IterableDataset):
    """A dataset without samples that could be asked for."""

    def __iter__(self):
        return iter([1])


def numbers(*values, **attributes):
    """Make a dataset of numbers."""
    dataset = data.TensorDataset(torch.tensor(values))
    vars(dataset).update(attributes)
    return dataset


# Refusals


def test_unknown_datasets_are_refused_with_lines_to_paste(ids):
    """A dataset without a rule is refused: by type, file and line, with what to write instead."""
    with pytest.raises(FingerprintError) as caught:
        ids(Unknown())
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("cannot tell what Unknown (test_rules.py:")
    assert first.endswith("castore has no rule for its type.")
    assert [line.split(":")[0].strip() for line in lines] == [
        "by name",
        "by content",
        "for good",
        "uncached",
    ]


def test_datasets_without_a_file_are_refused_by_name(ids):
    """A dataset of a type that was never written to a file is refused as well."""
    space: dict = {"__name__": "nowhere"}
    exec("class Made:\n    def __len__(self): return 1", space)
    with pytest.raises(FingerprintError, match="cannot tell what Made contains"):
        ids(space["Made"]())


@pytest.mark.parametrize("vouched", [{}, {"dataset_id": "x@1"}], ids=["identified", "vouched"])
def test_refusals_come_once_and_with_their_lines(vouched):
    """Whatever is wrong with a dataset, the message has one first line and the lines to paste."""
    for dataset, indices in (
        (object(), [0]),
        (data.Subset(numbers(1), [3]), [0]),
        (numbers(1), [1]),
        (type("Odd", (Unknown,), {"__len__": lambda self: -1})(), [0]),
        (Stream(), [0]),
    ):
        with pytest.raises(FingerprintError) as caught:
            samples_of(dataset, np.array(indices), **vouched)
        assert str(caught.value).count("cannot tell what") == 1
        assert "\n  for good: " in str(caught.value)


def test_errors_of_the_dataset_are_refusals_and_keep_their_cause():
    """What a dataset raises is a refusal that names it, and the cause is chained."""

    class Broken(data.TensorDataset):
        """Lost what it reads."""

    dataset = Broken(torch.zeros(1))
    del dataset.tensors
    with pytest.raises(FingerprintError, match=r"Broken .* has no length .*AttributeError"):
        samples_of(dataset, np.arange(1))
    mixed = numbers(1, 2)
    mixed.tensors = (mixed.tensors[0], None)
    with pytest.raises(FingerprintError, match="an array of samples needs a first axis"):
        samples_of(mixed, np.arange(1))


def test_memory_that_runs_out_is_no_refusal():
    """To be out of memory says nothing about a dataset, and is not hidden."""

    def exhausted(self, indices):
        raise MemoryError

    kind = type("Large", (Unknown,), {"__castore_fingerprint__": lambda self: 1})
    kind.__castore_row_ids__ = exhausted
    dataset = data.StackDataset(kind())
    with pytest.raises((MemoryError, FingerprintError)):
        samples_of(dataset, np.arange(1))


def test_only_what_there_is_can_be_ignored(ids):
    """A part to be ignored that no sample has is a ConfigError that says what can be."""
    for dataset in (numbers(1), [1], Named(), np.zeros(2)):
        with pytest.raises(ConfigError, match="'path': of these samples nothing can be ignored"):
            ids(dataset, ignored=["path"])


# What no attribute may do


class GetattrRaises:
    """Raises for every attribute it does not have."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class GetattributeRaises:
    """Raises for every attribute."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


def raising(name, *, as_property=False):
    """Make an object with a method, or a property, that raises."""

    def fail(self, *_):
        raise RuntimeError(name)

    return type(name, (), {name: property(fail) if as_property else fail})()


class Items(dict):
    """A dict that cannot be gone through."""

    def items(self):
        """Raise."""
        raise RuntimeError("items")


def within_itself(container):
    """Put a container into itself."""
    if isinstance(container, dict):
        container["again"] = container
    else:
        container.append(container)
    return container


def nested(depth):
    """Make a list in a list in a list."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


HOSTILE = {
    "__bool__": lambda: raising("__bool__"),
    "__class__": lambda: raising("__class__", as_property=True),
    "__dict__": lambda: raising("__dict__", as_property=True),
    "__eq__": lambda: raising("__eq__"),
    "__fspath__": lambda: raising("__fspath__"),
    "__getattr__": GetattrRaises,
    "__getattribute__": GetattributeRaises,
    "__hash__": lambda: raising("__hash__"),
    "__iter__": lambda: raising("__iter__"),
    "__len__": lambda: raising("__len__"),
    "__module__": lambda: raising("__module__", as_property=True),
    "__repr__": lambda: raising("__repr__"),
    "castore_fingerprint": lambda: raising("__castore_fingerprint__"),
    "dict in itself": lambda: within_itself({}),
    "generator": lambda: (index for index in range(3)),
    "items": lambda: Items(a=1),
    "keys": lambda: {(1, object()): iter([])},
    "list in itself": lambda: within_itself([]),
    "lock": threading.Lock,
    "nested": lambda: nested(100_000),
    "object": object,
    "property": lambda: raising("shown", as_property=True),
    "socket": socket.socket,
    "unknown dataset": Unknown,
    "stream": Stream,
}
#: What stands for the process, not for the samples.
LEFT_OUT = {"lock"}


@pytest.fixture(params=HOSTILE)
def hostile(request):
    """The name of a value that is trouble, and the value."""
    value = HOSTILE[request.param]()
    yield request.param, value
    if request.param == "socket":
        value.close()


def test_no_attribute_is_left_out_in_silence(hostile, ids):
    """An attribute is keyed, listed as not keyed, or a refusal by the dataset; never a crash."""
    name, value = hostile
    for build in (lambda **held: numbers(1, 2, **held), Named):
        dataset = build(odd=value)
        try:
            samples = samples_of(dataset, np.arange(2))
        except FingerprintError as error:
            assert type(dataset).__name__ in str(error).splitlines()[0]  # noqa: PT017  either way
            continue
        found = [row.tobytes().hex() for row in samples.row_ids]
        listed = any(
            path.startswith("dataset.odd") for path in {**samples.not_keyed, **samples.left}
        )
        assert listed or found != ids(build()) or name in LEFT_OUT


def test_no_attribute_breaks_what_is_vouched_for(hostile, ids):
    """A vouched dataset is named whatever it holds, or refused by its name; never a crash."""
    try:
        found = ids(Unknown(odd=hostile[1]), dataset_id="x@1")
    except FingerprintError as error:
        assert "Unknown (test_rules.py:" in str(error)  # noqa: PT017  either way
    else:
        assert len(set(found)) == 2


def test_no_item_breaks_a_list_of_samples(hostile, ids):
    """A list with an item that castore has no rule for is refused; never a crash."""
    with pytest.raises(FingerprintError, match="cannot tell what list contains"):
        ids([hostile[1]])


# Datasets held as values


def test_datasets_are_values_by_their_rows_in_order():
    """A dataset that something holds is its length and its rows, in its order."""
    dataset = numbers(3, 4)
    samples = samples_of(dataset, np.arange(2))
    assert as_value(dataset) == {"dataset": [2, rows.digest_rows(samples.row_ids)]}
    assert as_value(data.Subset(dataset, [0, 1])) == as_value(dataset)
    assert as_value(data.Subset(dataset, [1, 0])) != as_value(dataset)
    assert as_value(numbers()) == {"dataset": [0, rows.digest_rows(np.empty((0, 16), np.uint8))]}
    assert as_value(Named()) != as_value(Named(mode=1))


def test_what_is_no_dataset_is_no_value_here():
    """Values of other types, and datasets of the user's own, are not described by their rows."""
    for value in ([1], torch.zeros(2), None, Unknown(), object(), {}, data.Dataset):
        assert as_value(value) is None


def test_datasets_that_cannot_be_told_are_refused_as_values():
    """A library's dataset without a rule, or one over an unknown, is refused."""
    chain = data.ChainDataset([])
    for dataset in (chain, data.Subset(Unknown(), [0]), data.ConcatDataset([Unknown()])):
        with pytest.raises(FingerprintError, match="cannot tell what"):
            as_value(dataset)


def captured(bank):
    """Describe a function that compares with a bank of samples."""

    def nearest(loader):
        return loader, bank

    return capture(nearest)


def test_banks_in_a_closure_are_keyed():
    """A dataset or loader in a closure is keyed by its rows; one that cannot be is listed."""
    for build in (
        numbers,
        lambda *values: data.Subset(numbers(*values), [0]),
        lambda *values: data.DataLoader(numbers(*values), batch_size=2),
    ):
        assert captured(build(1, 2)).values == captured(build(1, 2)).values
        assert captured(build(1, 2)).values != captured(build(2, 2)).values
        assert captured(build(1, 2)).not_keyed == {}
    shuffled = data.DataLoader(numbers(1, 2), batch_size=2, shuffle=True)
    ordered = data.DataLoader(numbers(1, 2), batch_size=2)
    smaller = data.DataLoader(numbers(1, 2), batch_size=1)
    assert plan(shuffled).indices.tolist() == plan(ordered).indices.tolist() == [0, 1]
    assert len({str(captured(bank).values) for bank in (shuffled, ordered, smaller)}) == 3


def test_banks_that_cannot_be_told_are_listed():
    """A dataset or loader in a closure that has no rule is listed as not keyed."""
    for bank in (
        data.Subset(Unknown(), [0]),
        data.DataLoader(Stream()),
        data.DataLoader(Unknown()),
        data.DataLoader(numbers(1), sampler=data.WeightedRandomSampler([1.0], 1)),
    ):
        assert [path for path in captured(bank).not_keyed if path.startswith("fn.bank")]


def test_own_datasets_in_a_closure_go_by_code_and_attributes():
    """A dataset of the user's own that a function holds is an object like any other."""
    assert captured(Unknown(mode=1)).values == captured(Unknown(mode=1)).values
    assert captured(Unknown(mode=1)).values != captured(Unknown(mode=2)).values
    assert any("__getitem__" in path for path in captured(Unknown()).functions)


def test_a_dataset_may_hold_what_holds_it(ids):
    """Datasets that hold each other have rows that do not depend on where one begins to look."""

    def build():
        one, two = numbers(1, 2), numbers(3)
        one.other, two.other = two, one
        return one, two

    one, two = build()
    assert ids(one) == ids(build()[0]) != ids(numbers(1, 2))
    assert ids(data.ConcatDataset([one, two])) == ids(one) + ids(two)
    three, _ = build()
    three.other.tensors = (torch.tensor([4]),)
    assert ids(three) != ids(one)


def test_random_transforms_of_a_bank_are_kept():
    """What a function holds is keyed as it is: its random transforms by their parameters."""
    pytest.importorskip("torchvision")
    from torchvision import datasets, transforms

    banks = [datasets.FakeData(2, transform=transforms.RandomCrop(size)) for size in (2, 2, 3)]
    one, two, three = (as_value(bank) for bank in banks)
    assert one == two != three
    with pytest.raises(FingerprintError, match="random"):
        samples_of(banks[0], np.arange(2), Terms())


def test_messages_name_no_path_of_this_machine(ids):
    """A refusal names the file of the class, not the folders it lies in."""
    with pytest.raises(FingerprintError) as caught:
        ids(Unknown())
    assert not re.search(r"/\w+/", str(caught.value).splitlines()[0])
