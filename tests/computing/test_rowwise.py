"""Whether rows agree, and where it is kept that a function computes row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore import arrays
from castore.computing import rowwise
from castore.computing.answers import Options
from castore.computing.rowwise import TOLERANCE, agreeing, difference, scale_of
from castore.identity.function import describe_function
from castore.identity.request import identify_loader

EXACT = ["bool", "int8", "int64", "uint8", "uint64", "float8_e4m3fn", "datetime64[s]"]


def ones(dtype, rows=6):
    """Return rows of ones."""
    return np.ones((rows, 3)).astype(arrays.dtype_named(dtype))


def agree(before, after):
    """Tell whether all rows agree."""
    return not difference({"x": before}, {"x": after})


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_agree_within_a_share_of_their_magnitude(dtype, sign):
    """A row may differ by the tolerance of its type, not by four times as much."""
    before, after, beyond = ones(dtype), ones(dtype), ones(dtype)
    after[1] *= 1 + sign * 1.5 * TOLERANCE[dtype]
    beyond[1] *= 1 + sign * 4 * TOLERANCE[dtype]
    assert (before != after).any()
    assert agree(before, after)
    assert difference({"x": before}, {"x": beyond}) == "x differed in 1 of 6 rows computed again"


@pytest.mark.parametrize("dtype", EXACT)
def test_what_is_no_float_must_be_equal(dtype):
    """Integers, booleans, times and types too narrow to differ by little agree to the bit."""
    before, after = ones(dtype), ones(dtype)
    assert agree(before, after)
    after.view(np.uint8)[2, 1] ^= 1
    assert not agree(before, after)


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_what_is_no_number_must_be_in_the_same_place(dtype):
    """NaN agrees with NaN, an infinity with itself, and neither with anything else."""
    special = [np.nan, np.inf, -np.inf, 1.0, 0.0]
    for one in special:
        for other in special:
            before, after = ones(dtype), ones(dtype)
            before[0, 0], after[0, 0] = one, other
            same = one == other or (np.isnan(one) and np.isnan(other))
            assert agree(before, after) == same


@pytest.mark.parametrize("shape", [(4, 0), (1, 0, 3)])
@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64", "bfloat16"])
def test_empty_columns_agree(dtype, shape):
    """Rows without a value differ in none."""
    empty = np.empty(shape, arrays.dtype_named(dtype))
    assert agree(empty, empty.copy())


def test_zeros_of_either_sign_agree():
    """A float that is zero agrees with its negative; tiny differences beside ones agree too."""
    assert agree(np.array([[0.0, 1]]), np.array([[-0.0, 1]]))
    assert agree(np.zeros((4, 2)), np.zeros((4, 2)))
    assert not agree(np.zeros((4, 2)), np.full((4, 2), 1e-30))


def test_one_huge_element_hides_no_other():
    """The scale is of each element: a masked logit does not excuse its neighbours."""
    before = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    before[:, 0] = np.finfo(np.float32).min
    after = before.copy()
    after[:, 1] += 1
    assert not agree(before, after)


@given(st.integers(1, 6), st.integers(1, 4), st.floats(-1e6, 1e6))
def test_the_scale_is_as_large_as_what_is_usual(rows, width, value):
    """Rows of one value have that magnitude for a scale, and a tenth more."""
    found = scale_of(np.full((rows, width), value))
    assert found.shape == (width,)
    assert np.allclose(found, 1.1 * abs(value))


def test_the_scale_may_be_told_by_other_rows():
    """A row computed alone is measured by those that were stored with it."""
    stored = np.array([[0.0], [1000.0], [1000.0]])
    alone = np.array([[1e-7]])
    assert agreeing(stored[:1], alone, stored).all()
    assert not agreeing(stored[:1], alone, stored[:1]).any()


@pytest.mark.parametrize(
    ("computed", "why"),
    [
        ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "it returned x, y instead of x"),
        ({"y": np.zeros((2, 3))}, "it returned y instead of x"),
        ({"x": np.zeros((2, 3), np.float32)}, r"float32 \(2, 3\) instead of float64"),
        ({"x": np.zeros((2, 4))}, r"\(2, 4\) instead of float64 \(2, 3\)"),
        ({"x": np.zeros((3, 3))}, r"\(3, 3\) instead of"),
    ],
)
def test_other_columns_types_and_shapes_are_differences(computed, why):
    """What is compared must be alike in name, dtype and shape; the text says in what it is not."""
    import re

    assert re.search(why, difference({"x": np.zeros((2, 3))}, computed))


def request_of(fn=np.copy, samples=None, **what):
    """Identify a call."""
    samples = np.arange(4) if samples is None else samples
    return identify_loader(describe_function(fn, "s", model=None, **what), samples)


def test_obstacles_are_named():
    """No rows, no model, a model in training or the caller's word: rows are not reused."""
    request = request_of()
    assert rowwise.obstacle(request, Options(rowwise=True)) == ""
    assert rowwise.obstacle(request, Options(rowwise=False)) == "rowwise=False"
    assert "no model was found" in rowwise.obstacle(request, Options())
    assert rowwise.obstacle(request_of(samples=np.arange(0)), Options(rowwise=True))


def test_a_model_in_training_is_an_obstacle():
    """A part of a model in training mode is enough; in eval mode a probe may decide."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout()).eval()
    function = describe_function(model.forward, "s")
    request = identify_loader(function, np.arange(4))
    assert rowwise.obstacle(request, Options()) == ""
    model[1].train()
    assert "call model.eval() first" in rowwise.obstacle(request, Options())
