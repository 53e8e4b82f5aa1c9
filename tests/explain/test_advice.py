"""Advice: what is told to be done makes the nearest entry answer."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.identity.request import identify_loader

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

DATA = TensorDataset(torch.arange(12.0).reshape(6, 2))


def enclosing(k):
    """Make a function that uses `k`."""

    def fn(loader):
        return loader, k

    return fn


def pair(samples):
    """Collate as the user wants."""
    return [torch.stack([x for (x,) in samples])]


def first(samples):
    """Give the first."""
    return samples[0]


def last(samples):
    """Give the last."""
    return samples[-1]


def loading(batch_size=2, collate_fn=None):
    """Return a loader."""
    return DataLoader(DATA, batch_size=batch_size, collate_fn=collate_fn)


def ignored(advice):
    """What advice says to ignore, if it says what would have hit."""
    found = [re.search(r"ignore=(\(.*?\)) would have hit", line) for line in advice]
    return [ast.literal_eval(match[1]) for match in found if match]


loaders = st.fixed_dictionaries(
    {"batch_size": st.sampled_from([1, 2, 3]), "collate_fn": st.sampled_from([None, pair])}
)


@given(loaders, loaders, st.sampled_from([None, 2]))
def test_what_would_have_hit_hits(new_shelf, one, two, version):
    """`ignore=` is advised where the loader alone differs, with all that differs; then it hits."""
    shelf = new_shelf()
    key = shelf.put(loading(**one), enclosing(1), "x")
    advice = shelf.why(loading(**two), enclosing(1), "x", version=version).advice
    other = one["batch_size"] != two["batch_size"], one["collate_fn"] is not two["collate_fn"]
    names = tuple(n for n, differs in zip(("batch_size", "collate"), other, strict=True) if differs)
    assert ignored(advice) == ([names] if names and version is None else [])
    for ignore in ignored(advice):
        request = shelf.request(loading(**two), enclosing(1), "x", ignore=ignore)
        assert request.answers(shelf.entry(key).manifest.derivation["entry"], key)


def test_a_value_that_was_ignored_can_be_ignored_again(shelf):
    """Where the entry was stored without a captured value, ignoring it hits."""
    key = shelf.put(loading(), enclosing(1), "x", ignore=("fn.k",))
    found = shelf.why(loading(), enclosing(1), "x")
    assert ignored(found.advice) == [("fn.k",)]
    assert shelf.request(loading(), enclosing(1), "x", ignore=("fn.k",)).key == key


def test_a_value_that_was_keyed_can_be_left_out_from_now_on(shelf):
    """Where the entry was stored with it, ignoring a value does not hit, and is not said to."""
    shelf.put(loading(), enclosing(1), "x")
    (line,) = shelf.why(loading(), enclosing(2), "x").advice
    assert "ignore=('fn.k',) leaves it out of the key" in line
    assert ignored([line]) == []


@pytest.mark.parametrize(
    ("stored", "asked", "line"),
    [
        ({"suffix": "x"}, {"suffix": "y"}, "suffix='x' asks for it"),
        ({"version": "1"}, {"version": 2}, "version='1' asks for it"),
        ({"version": None}, {"version": 2}, "version=None asks for it"),
        ({"model": "0" * 32}, {"model": "1" * 32}, "eval() and train()"),
        ({"fn": first}, {"fn": last}, "a suffix= names the function"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_other_parts_have_advice_of_their_own(shelf, stored, asked, line):
    """Of suffix, version, model and code it is said what would ask for the entry."""
    whole = {"fn": enclosing(1), "suffix": "" if "fn" in stored else "x"}
    shelf.put(loading(), **{**whole, **stored})
    (found,) = shelf.why(loading(), **{**whole, **asked}).advice
    assert found.startswith("everything else is equal: ")
    assert line in found


def test_the_numeric_context_has_advice(shelf):
    """Other switches of torch are named."""
    shelf.put(loading(), enclosing(1), "x")
    torch.set_default_dtype(torch.float64)
    try:
        found = shelf.why(loading(), enclosing(1), "x")
    finally:
        torch.set_default_dtype(torch.float32)
    assert [str(d) for d in found.differences] == ["numeric.default_dtype default → float64"]
    assert found.advice == ["everything else is equal: set torch's switches as they were"]


@pytest.mark.parametrize(
    "asked",
    [
        {"version": 2, "params": {"n": 1}},
        {"params": {"n": 1}},
        {"version": 2, "fn": enclosing(2)},
    ],
    ids=["two parts", "parameters", "a value and a version"],
)
def test_where_more_differs_nothing_is_advised(shelf, asked):
    """Nothing is advised that would not make the entry answer."""
    shelf.put(loading(), enclosing(1), "x")
    assert shelf.why(loading(), **{"fn": enclosing(1), "suffix": "x", **asked}).advice == []


def test_other_rows_are_no_matter_of_advice(shelf):
    """Another batch size over other rows is no hit, whatever is ignored."""
    shelf.put(loading(), enclosing(1), "x")
    rows = DataLoader(TensorDataset(torch.zeros(6, 2)), batch_size=3)
    assert shelf.why(rows, enclosing(1), "x").advice == []


def test_an_array_in_place_of_a_loader_cannot_be_ignored(shelf):
    """What makes a request what it is is not offered to be ignored."""
    shelf.put(np.zeros((6, 2)), enclosing(1), "x")
    found = shelf.why(DataLoader(np.zeros((6, 2)), batch_size=2), enclosing(1), "x")
    assert "whole" in [difference.path for difference in found.differences]
    assert found.advice == []


def test_one_kept_draw_cannot_be_ignored(shelf):
    """`random='freeze'` is no part of the loader that may differ."""
    key = shelf.put(loading(), enclosing(1), "x")
    request = shelf.request(loading(), enclosing(1), "x")
    frozen = identify_loader(request.function, loading(), random="freeze")
    from castore.explain import explain

    found = explain(shelf.backend, frozen)
    assert [str(d) for d in found.differences] == ["random absent → 'freeze'"]
    assert found.nearest.key == key
    assert found.advice == []
