"""Derivations as people read them."""

from __future__ import annotations

import ast
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import castore
from castore.identity.values import encode
from castore.readable import last, readable

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


class Point(NamedTuple):
    """A point."""

    x: int
    y: str


class Slide:
    """Says what identifies it."""

    def __castore_fingerprint__(self):
        """Return its name."""
        return ("slide", 7)


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
        (Point(1, "a"), "Point(x=1, y='a')"),
        (frozenset([1]), "frozenset({1})"),
        (frozenset(), "frozenset()"),
        ("a\ud800", r"'a\ud800'"),
        (decimal.Decimal("1.50"), "Decimal('1.50')"),
        (fractions.Fraction(1, 3), "Fraction(1, 3)"),
        (dt.date(2026, 1, 2), "date('2026-01-02')"),
        (re.compile("a+"), "Pattern('a+', 32)"),
        (Slide(), "<Slide ('slide', 7)>"),
        (collections.OrderedDict, "collections.OrderedDict"),
        (math.sqrt, "math.sqrt"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_other_values_are_written_recognisably(value, text):
    """Values that are no literals are written by type and parameters."""
    assert readable(encode(value)) == text


def test_digested_values_are_written_by_type_and_digest():
    """Arrays and bytes, of which only digests are kept, are written with the first digits."""
    document = encode(np.zeros((2, 3), "float32"))
    assert readable(document) == f"<array float32 (2, 3) {document['array'][2][:8]}>"
    assert readable(encode(b"abc")).startswith("<3 bytes ")
    assert readable(encode(bytearray(b"abc"))).startswith("bytearray(<3 bytes ")


def test_files_are_written_by_their_content(tmp_path):
    """A file as a value shows the first digits of what it contains, and not where it lies."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"abc")
    document = encode(castore.file(path))
    assert readable(document) == f"<file {document['file'][:8]}>"


def test_torchs_values_are_written_recognisably():
    """Tensors, shapes and dtypes of torch are written by what they are."""
    torch = pytest.importorskip("torch")
    assert readable(encode(torch.Size([2, 3]))) == "torch.Size([2, 3])"
    assert readable(encode(torch.bfloat16)) == "torch.bfloat16"
    assert readable(encode(torch.zeros(2))).startswith("<tensor float32 (2,) ")


def test_what_a_function_holds_whole_is_written_by_its_size():
    """Datasets, loaders and models among captured values show what tells them apart."""
    torch = pytest.importorskip("torch")
    from castore.identity.captures import capture

    dataset = torch.utils.data.TensorDataset(torch.zeros(5, 2))
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    values = capture(lambda _: (dataset, loader)).values
    assert re.fullmatch("<dataset of 5 samples [0-9a-f]{8}>", readable(values["fn.dataset"]))
    text = readable(values["fn.loader"])
    assert re.fullmatch("<loader of 5 samples [0-9a-f]{8}, batch_size=2>", text)
    assert readable({"model": "0123456789abcdef" * 2}) == "<model 01234567>"
    assert readable({"same": "fn.bank"}) == "<same as fn.bank>"
    assert readable({"dataset": {"same": 0}}) == "<the dataset itself>"
    assert readable({"dataset": {"same": 2}}) == "<the dataset 2 levels up>"


def test_a_name_is_shown_without_its_module():
    """Of a type's full name the last part is shown."""
    assert last("torchvision.transforms.Resize") == "Resize"
    assert last("Slides") == "Slides"


def test_documents_that_are_no_values_are_written_as_they_are():
    """A source's own document is written with its names."""
    document = {"dataset": "array", "shape": [1, {"tuple": [2]}]}
    assert readable(document) == "{dataset: 'array', shape: [1, (2,)]}"


@pytest.mark.parametrize(
    "document",
    [
        {"float": 1},
        {"enum": []},
        {"array": [1]},
        {"dict": [1]},
        {"scalar": ["nonsense", "00"]},
        {"dataset": "array"},
        {"loader": 3},
        {"file": 5},
        {"str": "zz"},
        {"value": ["a"]},
    ],
    ids=str,
)
def test_documents_of_unknown_make_are_shown_raw(document):
    """A document that looks like a value and is none is shown as its JSON."""
    assert ast.literal_eval(readable(document)) == document
