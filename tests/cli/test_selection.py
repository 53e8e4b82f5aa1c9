"""``--filter`` and ``--sort``, without a store."""

from __future__ import annotations

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.cli.fields import ENTRY_FIELDS, TABLE_FIELDS
from castore.cli.selection import read_condition, read_order, select

COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
signs = st.sampled_from(sorted(COMPARE))


@given(signs, st.integers(0, 10**15), st.integers(0, 10**15), st.sampled_from(["", " "]))
def test_a_condition_on_a_number_is_the_comparison(sign, found, given_, space):
    """A condition holds for a number exactly if Python's comparison does."""
    condition = read_condition(f"rows{space}{sign}{space}{given_}", ENTRY_FIELDS)
    assert condition.holds({"rows": found}) == COMPARE[sign](found, given_)


@given(st.text(), st.sampled_from([TABLE_FIELDS, ENTRY_FIELDS]))
def test_any_text_is_a_condition_or_refused(text, fields):
    """No text makes the reader fail otherwise than by `ValueError`."""
    for candidate in (text, f"size{text}", f"suffix={text}", f"age<{text}"):
        try:
            condition = read_condition(candidate, fields)
        except ValueError:
            continue
        assert condition.name in fields


@given(st.text(alphabet="ab-_.é \n", max_size=8), st.text(alphabet="ab-_.é \n", max_size=8))
def test_a_text_without_wildcards_equals_itself_alone(one, other):
    """Text without wildcards matches the whole of an equal text, spaces around it aside."""
    condition = read_condition(f"suffix={one}", TABLE_FIELDS)
    assert condition.holds({"suffix": other}) == (one.strip() == other)
    assert read_condition(f"suffix!={one}", TABLE_FIELDS).holds({"suffix": other}) != (
        one.strip() == other
    )


def test_patterns_hold_for_versions_and_models():
    """A version is matched as it is shown, and of several models any of their digests."""
    assert read_condition("version=1.5", TABLE_FIELDS).holds({"version": {"float": "1.5"}})
    assert read_condition("version=3", TABLE_FIELDS).holds({"version": 3})
    models = {"fn.a": "0123", "fn.b": "4567"}
    assert read_condition("model=*4567*", TABLE_FIELDS).holds({"model": models})
    assert read_condition("model=", TABLE_FIELDS).holds({"model": None})


@given(signs)
def test_a_missing_number_fulfils_only_unequal(sign):
    """An entry without rows is not below, at or above any number of them."""
    condition = read_condition(f"rows{sign}0", ENTRY_FIELDS)
    assert condition.holds({"rows": None}) == (sign == "!=")


@pytest.mark.parametrize("text", ["size==1", "size=>1", "created>1", "newest<1d", "rows>", "=1"])
def test_almost_conditions_are_refused(text):
    """What is nearly a condition is refused, not taken for something else."""
    for fields in (TABLE_FIELDS, ENTRY_FIELDS):
        with pytest.raises(ValueError, match="is no"):
            read_condition(text, fields)


records = st.lists(
    st.fixed_dictionaries(
        {
            "rows": st.none() | st.integers(0, 9),
            "suffix": st.text(max_size=3),
            "created": st.floats(0, 9) | st.just(math.nan),
        }
    ),
    max_size=8,
)


@given(records, st.sampled_from(["rows", "suffix", "created"]), st.booleans(), st.integers(0, 9))
def test_an_order_sorts_what_has_a_value_and_puts_the_rest_last(found, name, down, limit):
    """Sorting keeps every record, orders the values either way, and puts missing ones last."""
    order = read_order(f"{name}:{'desc' if down else 'asc'}", ENTRY_FIELDS)
    arranged = [record[name] for record in select(found, [], order)]
    known = [value for value in arranged if value is not None and value == value]  # noqa: PLR0124
    assert known == sorted(known, reverse=down)
    assert arranged[: len(known)] == known
    assert sorted(map(str, arranged)) == sorted(str(record[name]) for record in found)
    assert select(found, [], order, limit) == select(found, [], order)[:limit]


def test_versions_of_several_types_are_sorted():
    """Versions are ordered as they are shown, numbers among text."""
    found = [{"version": version} for version in ("b", 3, {"float": "1.5"}, None, "a")]
    order = read_order("version", TABLE_FIELDS)
    assert [record["version"] for record in select(found, [], order)] == [
        {"float": "1.5"},
        3,
        "a",
        "b",
        None,
    ]


@pytest.mark.parametrize("text", ["", "size:", "size:up", ":desc", "colour", "size:desc:asc"])
def test_what_is_no_order_is_refused(text):
    """An order names a field and, after a colon, asc or desc."""
    with pytest.raises(ValueError, match="is no order"):
        read_order(text, TABLE_FIELDS)
