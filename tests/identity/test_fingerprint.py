"""One digest for whatever castore can identify."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import castore
from castore.errors import FingerprintError
from castore.identity.models.snapshot import hash_model

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")


def numbers(*values):
    """Make a dataset of numbers."""
    return data.TensorDataset(torch.tensor(values))


def linear(seed=0):
    """Make a model."""
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 2)


def scaled(factor):
    """Make a function that holds a factor."""
    return lambda x: x * factor


class Steps:
    """An object of the user's that holds things."""

    def __init__(self, *held):
        self.held = held

    def first(self):
        """Give what it holds first."""
        return self.held[0]


class Stream(data.IterableDataset):
    """A dataset without samples that could be asked for."""

    def __iter__(self):
        return iter([1])


class Said:
    """An object that says what it is."""

    def __init__(self, version):
        self.version = version

    def __castore_fingerprint__(self):
        return self.version


#: By kind: what makes one of two that differ.
KINDS = {
    "array": lambda k: np.arange(3) + k,
    "closure": scaled,
    "container of everything": lambda k: {"a": [linear(), numbers(1), scaled(k)]},
    "dataset": lambda k: numbers(1, 2, k),
    "dataset in a function": lambda k: functools.partial(Steps, numbers(k)),
    "loader": lambda k: data.DataLoader(numbers(1, 2), batch_size=1 + k),
    "model": linear,
    "object": Steps,
    "object of models": lambda k: Steps(linear(k)),
    "order": lambda k: data.Subset(numbers(1, 2), [k, 1 - k]),
    "partial": lambda k: functools.partial(np.clip, a_min=k),
    "said": Said,
    "value": lambda k: {"a": [k, None, "text"]},
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_everything_that_can_be_keyed_has_a_digest(make):
    """Models, datasets, loaders, values, functions and objects: equal ones agree, others differ."""
    one, two, other = (castore.fingerprint(make(k)) for k in (0, 0, 1))
    assert re.fullmatch("[0-9a-f]{32}", one)
    assert one == two != other


def test_kinds_of_things_are_told_apart():
    """No two of them are one, even where they hold the same numbers."""
    torch_numbers = torch.arange(3)
    values = [
        [0, 1, 2],
        (0, 1, 2),
        np.arange(3),
        torch_numbers,
        data.TensorDataset(torch_numbers),
        data.DataLoader(data.TensorDataset(torch_numbers)),
        Steps(0, 1, 2),
        Said([0, 1, 2]),
        lambda: [0, 1, 2],
    ]
    assert len({castore.fingerprint(value) for value in values}) == len(values)


def test_models_have_the_digest_of_models():
    """A model's fingerprint is what `castore.hash_model` says."""
    assert castore.fingerprint(linear()) == castore.hash_model(linear()) == hash_model(linear())


def test_code_counts_and_its_looks_do_not():
    """Functions that differ in their code differ; a comment or a docstring changes nothing."""

    def one(x):
        return x + 1

    def two(x):
        """Add one."""
        return x + 1  # that is all

    def three(x):
        return x + 2

    two.__name__ = "one"
    assert castore.fingerprint(one) != castore.fingerprint(three)
    assert castore.fingerprint(lambda x: x) != castore.fingerprint(lambda y: y)


def test_code_of_objects_counts():
    """Objects of two types that have one name and differ in a method differ."""
    one, two, same = (
        type("Kind", (), {"__call__": call})()
        for call in (lambda self, x: x, lambda self, x: -x, lambda self, x: x)
    )
    assert castore.fingerprint(one) == castore.fingerprint(same) != castore.fingerprint(two)


@pytest.mark.parametrize("make", [lambda kind: kind(1), lambda kind: kind], ids=["object", "type"])
def test_code_of_data_classes_and_types_counts(make):
    """A data class, or a class itself, is its code too: methods read its fields."""
    one, two = (
        dataclasses.make_dataclass(
            "Kind", ["a"], namespace={"__call__": call, "__module__": __name__}
        )
        for call in (lambda self, x: x, lambda self, x: -x)
    )
    assert castore.fingerprint(make(one)) != castore.fingerprint(make(two))


def test_files_are_what_they_contain(tmp_path):
    """A file as a value is its content, wherever it lies and whatever holds it."""
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    for hold in (lambda file: file, lambda file: [file], Steps):
        a, b, c = (castore.fingerprint(hold(castore.file(tmp_path / name))) for name in "abc")
        assert a == b != c


def test_generic_functions_of_libraries_go_by_name():
    """A library's function is its name, whatever it is called here."""
    here = np.linalg.norm
    assert castore.fingerprint(here) == castore.fingerprint(np.linalg.norm)
    assert castore.fingerprint(here) != castore.fingerprint(np.linalg.det)


def test_loaders_are_their_rows_order_and_batches():
    """Loaders differ by dataset, rows, order, batch size and collate, not by workers."""
    dataset = numbers(1, 2, 3)
    different = [
        data.DataLoader(dataset, batch_size=2),
        data.DataLoader(dataset, batch_size=3),
        data.DataLoader(dataset, batch_size=2, shuffle=True),
        data.DataLoader(dataset, batch_size=2, sampler=[2, 1, 0]),
        data.DataLoader(dataset, batch_size=2, drop_last=True),
        data.DataLoader(dataset, batch_size=2, collate_fn=list),
        data.DataLoader(numbers(1, 2, 4), batch_size=2),
    ]
    assert len({castore.fingerprint(loader) for loader in different}) == len(different)
    workers = data.DataLoader(dataset, batch_size=2, num_workers=2, pin_memory=True)
    assert castore.fingerprint(workers) == castore.fingerprint(different[0])


@pytest.mark.parametrize(
    "make",
    [
        object,
        lambda: (index for index in range(3)),
        lambda: Steps(iter([])),
        lambda: [scaled(iter([]))],
        lambda: {"a": {1: object()}},
        lambda: data.DataLoader(Stream()),
        lambda: data.Subset(Stream(), [0]),
        lambda: linear().to("meta"),
        lambda: data.DataLoader(numbers(1), sampler=data.WeightedRandomSampler([1.0], 1)),
    ],
)
def test_what_has_no_rule_is_refused(make):
    """What holds anything castore has no rule for is refused, not left out."""
    with pytest.raises(FingerprintError):
        castore.fingerprint(make())


@pytest.mark.parametrize("value", [os, threading.Lock(), torch.device("cpu")], ids=type)
def test_what_is_left_out_elsewhere_has_no_digest(value):
    """A module, lock or device identifies nothing, and is no other thing either."""
    with pytest.raises(FingerprintError):
        castore.fingerprint(value)


def test_to_look_changes_nothing():
    """A fingerprint reads: it draws from no generator and loads no sample."""

    class Unread(data.TensorDataset):
        """A dataset whose samples are not to be read."""

    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    loader = data.DataLoader(Unread(torch.arange(3)), shuffle=True)
    castore.fingerprint(loader)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002


def test_digests_are_equal_in_every_process():
    """Another process, with another seed for its hashes, finds the same digests."""
    program = (
        "import castore, re, torch; from torch.utils.data import *\n"
        "d = TensorDataset(torch.arange(3))\n"
        "found = [{'b', 'a'}, d, DataLoader(d), {'x': re.compile('a')}, [torch.float32]]\n"
        "print(*map(castore.fingerprint, found))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(printed) == 1


def test_digests_do_not_depend_on_what_was_imported():
    """A model that holds a dataset has one digest, before and after datasets were met."""
    program = (
        "import castore, torch; from torch.utils.data import TensorDataset\n"
        "model = torch.nn.Identity(); model.bank = TensorDataset(torch.arange(3))\n"
        "before = castore.hash_model(model); castore.fingerprint(1)\n"
        "print(before == castore.hash_model(model))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert found.stdout == "True\n"


class Shy:
    """An object that raises whatever it is asked."""

    def __getattribute__(self, name):
        raise ValueError(name)


def test_what_cannot_be_looked_at_is_refused():
    """An object that raises when it is looked at is a refusal, in whatever holds it."""
    shy = Shy()
    for value in (shy, [shy], lambda x: (x, shy)):
        with pytest.raises(FingerprintError):
            castore.fingerprint(value)
