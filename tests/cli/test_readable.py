"""Derivations as people read them."""

from __future__ import annotations

import ast
import dataclasses
import enum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.cli.readable import readable
from castore.identity.values import encode

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(atoms, inner, max_size=3)
        | st.sets(atoms, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_is_written_as_python_would(value):
    """What is written evaluates to a value that castore encodes as it did the original."""
    document = encode(value)
    assert encode(ast.literal_eval(readable(document))) == document


class Colour(enum.Enum):
    """Colours."""

    RED = 1


@dataclasses.dataclass
class Crop:
    """A crop."""

    size: tuple[int, int]
    fill: float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (1 + 2j, "complex(1.0, 2.0)"),
        (range(0, 10, 2), "range(0, 10, 2)"),
        (slice(None, 3), "slice(None, 3, None)"),
        (np.float32(1.5), "float32(1.5)"),
        (np.str_("a"), "'a'"),
        (np.array(["a", "b"]), "array(['a', 'b'])"),
        (Colour.RED, "Colour.RED"),
        (Crop((2, 3), 0.5), "Crop(size=(2, 3), fill=0.5)"),
    ],
    ids=repr,
)
def test_other_values_are_written_recognisably(value, text):
    """Values that are no literals are written by type and parameters."""
    assert readable(encode(value)) == text


def test_digested_values_are_written_by_type_and_digest():
    """Arrays and bytes, of which only digests are kept, are written with the first digits."""
    document = encode(np.zeros((2, 3), "float32"))
    assert readable(document) == f"<array float32 (2, 3) {document['array'][2][:8]}>"
    assert readable(encode(b"abc")).startswith("<3 bytes ")


def test_documents_that_are_no_values_are_written_as_they_are():
    """A source's own document is written with its names."""
    document = {"dataset": "array", "shape": [1, {"tuple": [2]}]}
    assert readable(document) == "{dataset: 'array', shape: [1, (2,)]}"


@pytest.mark.parametrize(
    "document",
    [{"float": 1}, {"enum": []}, {"array": [1]}, {"dict": [1]}, {"scalar": ["nonsense", "00"]}],
    ids=str,
)
def test_documents_of_unknown_make_are_shown_raw(document):
    """A document that looks like a value and is none is shown as its JSON."""
    assert ast.literal_eval(readable(document)) == document
