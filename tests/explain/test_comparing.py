"""What tells two derivations apart: exactly what was changed."""

from __future__ import annotations

import dataclasses
import functools
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.explain.comparing import (
    changed_code,
    code_of,
    differences,
    recorded,
    table_differences,
    weight,
)
from castore.explain.difference import NOTHING, Difference
from castore.identity.function import describe_function
from castore.identity.request import identify_inputs, identify_loader

SAMPLES = np.arange(12, dtype=np.float32).reshape(6, 2)


@dataclasses.dataclass(frozen=True)
class Point:
    """A value with fields."""

    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Place:
    """A value of another type with the same fields."""

    x: int
    y: int


def enclosing(k):
    """Make a function that uses `k`."""

    def fn(loader):
        return loader, k

    return fn


def documents(*, picked=(0, 1, 2), k=1, suffix="features", n=1, switch=None, **what):
    """Derivation of a request, as a manifest has it."""
    function = describe_function(enclosing(k), suffix, params={"n": n, "m": 0}, **what)
    numeric = {} if switch is None else {"default_dtype": switch}
    function.derivation["numeric"] = numeric
    return identify_loader(function, SAMPLES[list(picked)]).documents()


def documents_of(fn, suffix="features", **what):
    """Derivation of a function over all samples."""
    return identify_loader(describe_function(fn, suffix, **what), SAMPLES).documents()


def paths(found):
    """Paths of differences."""
    return [difference.path for difference in found]


#: Components of a request, and the path under which each is found to differ.
PATHS = {
    "suffix": "suffix",
    "version": "version",
    "n": "params.n",
    "model": "model",
    "picked": "rows",
    "k": "fn.k",
    "switch": "numeric.default_dtype",
}
components = st.fixed_dictionaries(
    {
        "suffix": st.sampled_from(["a", "b", "ab"]),
        "version": st.sampled_from([None, 1, "1", 2, 1.0, True]),
        "n": st.sampled_from([1, "1", 1.0, True, None, (1,), [1]]),
        "model": st.sampled_from([None, "0" * 32, "1" * 32]),
        "picked": st.sampled_from([(0, 1, 2), (2, 1, 0), (0, 1), (0, 1, 3), (0, 0, 1), ()]),
        "k": st.sampled_from([1, 2, "1", True, (1,), [1], {"a": 1}, {"a": 2}, {"a": True}]),
        "switch": st.sampled_from([None, "float64", "bfloat16"]),
    }
)


@given(components, components)
def test_exactly_what_was_changed_is_named(one, two):
    """A difference is named for each component that is not typed and valued alike, and no other."""
    found = paths(differences(documents(**one), documents(**two)))
    roots = {path.partition("[")[0] for path in found}
    assert roots == {PATHS[name] for name in one if repr(one[name]) != repr(two[name])}


@given(components)
def test_equal_requests_differ_in_nothing(one):
    """Two requests made alike differ in nothing, keyed or recorded."""
    assert differences(documents(**one), documents(**one)) == []
    assert recorded(documents(**one), documents(**one)) == []


@given(components, components)
def test_both_documents_are_shown(one, two):
    """Each difference has the documents of both sides; looked at from there, they change places."""
    forth = differences(documents(**one), documents(**two))
    back = differences(documents(**two), documents(**one))
    swapped = {(found.path, repr(found.after), repr(found.before)) for found in back}
    assert {(found.path, repr(found.before), repr(found.after)) for found in forth} == swapped


def test_a_part_that_only_one_side_has_is_said_to_be_absent():
    """What one side lacks stands there as the empty document."""
    one = documents_of(enclosing(1), params={"layer": "avg"})
    two = documents_of(enclosing(1), params={"depth": None})
    assert differences(one, two) == [
        Difference("params.layer", "avg", NOTHING),
        Difference("params.depth", NOTHING, None),
    ]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}, {"fn.k['b'][1]": (2, 3)}),
        ((1, "x"), (1, "y"), {"fn.k[1]": ("x", "y")}),
        ({"a": 1}, {"a": 1, "b": 2}, {"fn.k['b']": (NOTHING, 2)}),
    ],
    ids=repr,
)
def test_members_of_a_value_are_told_apart(one, two, expected):
    """Of two containers of one kind the members that differ are named, by their place."""
    found = differences(documents(k=one), documents(k=two))
    assert {d.path: (d.before, d.after) for d in found} == expected


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1,), [1]),
        (Point(1, 2), Place(1, 3)),
        ((1, 2), (1, 2, 3)),
        (list(range(9)), list(range(1, 10))),
    ],
    ids=repr,
)
def test_a_value_is_shown_whole_where_its_members_do_not_tell(one, two):
    """Another order, kind or length, and many members that differ, are one difference."""
    one, two = (documents_of(enclosing(1), params={"k": value}) for value in (one, two))
    assert paths(differences(one, two)) == ["params.k"]


def test_fields_of_a_data_class_are_told_apart():
    """Of two values of one type the field that differs is named."""
    one, two = (documents_of(enclosing(1), params={"k": Point(1, y)}) for y in (2, 3))
    assert differences(one, two) == [Difference("params.k.y", 2, 3)]


def test_code_is_keyed_without_a_suffix_and_recorded_with_one():
    """Other code is a difference of functions without a suffix, and beside it with one."""
    one, two = (lambda loader: loader), (lambda loader: (loader, loader))
    keyed = [documents_of(fn, "") for fn in (one, two)]
    assert paths(differences(*keyed)) == ["functions.fn"]
    assert recorded(*keyed) == []
    named = [documents_of(fn, "x") for fn in (one, two)]
    assert differences(*named) == []
    assert paths(recorded(*named)) == ["functions.fn"]
    assert code_of(keyed[0]) == code_of(named[0]) != code_of(named[1])


def test_a_suffix_that_was_left_out_is_one_difference():
    """With a suffix against without one, code that is the same is no difference."""
    found = [documents_of(enclosing(1), suffix) for suffix in ("x", "")]
    assert paths(differences(*found)) == ["suffix"]
    assert recorded(*found) == []


def test_several_models_are_told_apart_by_path():
    """Of several models those that differ are named; one in place of several is one difference."""
    several = [documents(), documents(), documents()]
    for found, model in zip(
        several, ({"fn.a": "0" * 32, "fn.b": "1" * 32}, {"fn.a": "0" * 32, "fn.b": "2" * 32}, "3"),
        strict=True,
    ):  # fmt: skip
        found["table"]["model"] = model
    assert paths(differences(several[0], several[1])) == ["model.fn.b"]
    assert paths(differences(several[0], several[2])) == ["model"]


def test_sources_that_both_have_are_left_out():
    """Of concatenated parts only those are compared that the other side does not have."""
    one, two = documents(), documents()
    one["sources"] = [{"dataset": "a"}, {"dataset": "b", "captured": {"size": 1}}]
    two["sources"] = [{"dataset": "b", "captured": {"size": 2}}, {"dataset": "a"}]
    assert paths(differences(one, two)) == ["source[0].size"]
    two["sources"] = [{"dataset": "a"}]
    assert differences(one, two) == [Difference("source[0]", one["sources"][1], NOTHING)]


def test_a_source_of_another_kind_is_one_difference():
    """Another dataset type, or one vouched for, says all: what is in it is not compared."""
    one, two = documents(), documents()
    one["sources"] = [{"dataset": "a", "captured": {"size": 1}}]
    two["sources"] = [{"dataset_id": "a@1", "captured": {"size": 2}}]
    (found,) = differences(one, two)
    assert (found.path, *found.texts) == ("source", "a", "a@1")


def test_rows_follow_from_their_source():
    """Where sources differ, rows differ for that reason, and only another number is named."""
    one, two, fewer = documents(), documents(picked=(3, 4, 5)), documents(picked=(3, 4))
    two["sources"] = fewer["sources"] = [{"dataset": "array", "captured": {"size": 2}}]
    assert paths(differences(one, two)) == ["source.size"]
    assert paths(differences(one, fewer)) == ["source.size", "rows"]


def test_inputs_are_compared_by_name():
    """Of results that belong to no loader the inputs that differ are named."""
    function = describe_function(None, "fid")
    one, two = (identify_inputs(function, {"x": SAMPLES, "n": n}).documents() for n in (1, 2))
    assert differences(one, two) == [Difference("inputs.n", 1, 2)]


def test_what_is_recorded_is_compared():
    """Versions, switches that are not keyed, ignored values and what has no rule are compared."""
    one, two = documents(), documents()
    two["recorded"] |= {"versions": {"python": "0"}, "ignored": {"fn.k": 3}}
    two["not_keyed"] = {"global stream": "Generator"}
    found = paths(recorded(one, two))
    assert {"versions.python", "ignored.fn.k", "not keyed.global stream"} <= set(found)


def test_a_suffix_weighs_most():
    """Another suffix is further than any number of other parts."""
    near = documents(version=3, n=5, k=9, model="2" * 32)
    base, far = documents(), documents(suffix="other")
    assert weight(differences(base, near)) == 4
    assert weight(differences(base, far)) > 50
    assert table_differences(base["table"], far["table"]) == [
        Difference("suffix", "features", "other")
    ]


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")),
)
def test_functions_whose_code_changed_are_named(before, after):
    """Each function is named whose code differs, is new or is gone, and no other."""
    changed = changed_code(before, types.MappingProxyType(after))
    assert changed == sorted(changed)
    same = {path for path in before.keys() & after.keys() if before[path] == after[path]}
    assert set(changed) == (before.keys() | after.keys()) - same


def test_helpers_are_named_where_their_code_changed():
    """A function that calls another is told apart from it."""

    def made(value):
        def helper():
            return [value]

        def other():
            return value

        return functools.partial(lambda loader, how: how(), how=helper if value else other)

    one, two = (describe_function(made(value), "x").recorded["functions"] for value in (0, 1))
    assert changed_code(one, two) == ["fn.how"]
