"""Differences as people read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.explain.difference import NOTHING, Difference, brief, in_line
from castore.identity.values import encode

DIGEST, OTHER = "0f3a5c1e" * 4, "8d2b4e6f" * 4


@pytest.mark.parametrize(
    ("path", "before", "after", "text"),
    [
        ("batch_size", 64, 32, "batch_size 64 → 32"),
        ("batch_size", None, 32, "batch_size none → 32"),
        ("suffix", "", "x", "suffix none → x"),
        ("version", None, "2", "version None → '2'"),
        ("model", DIGEST, OTHER, "model 0f3a5c1e → 8d2b4e6f"),
        ("model", None, {"a": DIGEST, "b": OTHER}, "model none → 0f3a5c1e, 8d2b4e6f"),
        ("params.n", NOTHING, {"float": "0.5"}, "params.n absent → 0.5"),
        ("fn.k", {"tuple": [1]}, [1], "fn.k (1,) → [1]"),
        ("numeric.default_dtype", NOTHING, "float64", "numeric.default_dtype default → float64"),
        ("functions.fn", DIGEST, "as fn.k", "functions.fn code 0f3a5c1e → code as fn.k"),
        ("source.functions.transform", DIGEST, NOTHING,
         "source.functions.transform code 0f3a5c1e → absent"),
        ("collate", None, {"functions": {"collate_fn": DIGEST}},
         "collate torch's own → code 0f3a5c1e"),
        ("source", {"dataset": "a.B"}, {"dataset_id": "b@1"}, "source a.B → b@1"),
        ("source.dataset_id", "b@1", "b@2", "source.dataset_id b@1 → b@2"),
        ("source.decoders.PIL", DIGEST, OTHER, "source.decoders.PIL 0f3a5c1e → 8d2b4e6f"),
        ("versions.torch", "2.12", "2.13", "versions.torch 2.12 → 2.13"),
        ("rows", [5000, DIGEST], [4000, OTHER], "rows 5,000 → 4,000"),
    ],
    ids=str,
)  # fmt: skip
def test_a_difference_reads_as_python(path, before, after, text):
    """Values stand as Python writes them, digests by their first digits, names without quotes."""
    assert str(Difference(path, before, after)) == text


def test_a_note_stands_beside():
    """A note follows in brackets, and is left out of the short form; of rows it says all."""
    found = Difference("model", DIGEST, OTHER, "other weights")
    assert str(found) == "model 0f3a5c1e → 8d2b4e6f (other weights)"
    assert found.short == "model 0f3a5c1e → 8d2b4e6f"
    rows = Difference("rows", [5, DIGEST], [5, OTHER], "4 of the 5 rows are the same")
    assert str(rows) == rows.short == "rows: 4 of the 5 rows are the same"


def test_long_values_are_cut():
    """Of a value of thousands of characters the beginning is shown, and how many there are."""
    before, after = Difference("params.text", "x" * 5000, 1).texts
    assert len(before) < 100
    assert before.endswith("x… (5,002 characters)")
    assert after == "1"


@given(st.integers(0, 9))
def test_a_line_names_three(number):
    """In one line the first three are named, and how many more there are."""
    text = in_line([Difference(f"params.p{index}", 1, 2) for index in range(number)])
    assert text.count("→") == min(number, 3)
    assert text.endswith(f" and {number - 3} more") == (number > 3)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_every_value_can_be_shown(value):
    """Any value castore can encode has a text, whatever part it stands in."""
    document = encode(value)
    for path in ("fn.k", "source.x", "version", "model", "numeric.x", "batch_size"):
        assert all(Difference(path, document, NOTHING).texts)


def test_arrays_are_told_by_their_digests():
    """Two arrays of one shape read differently."""
    one, two = (encode(np.full(3, number)) for number in (1, 2))
    before, after = Difference("fn.k", one, two).texts
    assert before != after
    assert before.startswith("<array int64 (3,) ")
    assert brief(one["array"][2]) in before
