"""Results taken apart and put together: the same thing comes out, or a refusal that helps."""

from __future__ import annotations

import collections
import enum
import json
import math
import subprocess
import sys
import typing
from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from castore.canonical import dumps
from castore.errors import DamagedError
from castore.table.tree import Unstorable, assemble, columns_of, take_apart

ROOT = Path(__file__).parents[2]


class Pair(typing.NamedTuple):
    """A named tuple that a module of its own defines."""

    first: typing.Any
    second: typing.Any


class Doubled(collections.namedtuple("Doubled", "once twice")):  # noqa: PYI024
    """A named tuple that is made from less than it holds."""

    __slots__ = ()

    def __new__(cls, once):
        """Make it from the half of it."""
        return super().__new__(cls, once, once * 2)


class Colour(enum.IntEnum):
    """An integer with a name."""

    RED = 3


Renamed = collections.namedtuple("Renamed", ["class", "x"], rename=True)  # noqa: PYI024

arrays_drawn = hnp.arrays(
    st.sampled_from(["<f4", "<f8", "<i8", "u1", "?", "<c8", "<M8[s]"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
texts = st.text(max_size=5)
anything = st.text(st.characters(exclude_categories=()), max_size=5)
numbers = st.integers() | st.integers(-(2**80), 2**80) | st.floats() | st.booleans()
leaves = (
    arrays_drawn
    | arrays_drawn.map(lambda array: array.reshape(-1)[0] if array.size else array)
    | numbers
    | st.none()
    | anything
    | st.lists(texts, max_size=4)
    | st.lists(st.integers(-(2**64), 2**64), max_size=4)
    | st.lists(st.floats(), max_size=4)
    | st.lists(st.booleans(), max_size=4)
    | st.lists(numbers, max_size=4)
)
keys = anything | st.integers() | st.floats(allow_nan=False) | st.booleans()
results = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


def through(result, rows=None):
    """Take `result` apart and put it together from what a manifest would hold."""
    parts = take_apart(result, rows)
    form = json.loads(dumps(parts.form))
    assert list(columns_of(form)) == list(parts.columns)
    return assemble(form, parts.columns, lambda array: array)


def same(one, two):
    """Tell whether two results are the same, types, order and every bit of a number included."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float):
        return (one.hex(), math.copysign(1, one)) == (two.hex(), math.copysign(1, two)) or (
            math.isnan(one) and math.isnan(two)
        )
    return one == two


@given(results)
def test_results_come_back_as_they_were(result):
    """A result of any form castore keeps comes back the same, in type, order and every bit."""
    assert same(through(result), result)


@pytest.mark.parametrize(
    "result",
    [
        *((), [], {}, [()], {"": []}, [[], [[]]], "", [""], ["", "é", "日本", "\0"]),
        *(None, [None], True, False, [True, False], 0, -0.0, [0.0, -0.0], [2**63 - 1, -(2**63)]),
        *(2**63, [2**63], -(2**64), 10**4000, 1.5, math.inf, -math.inf, math.nan, [math.nan, 1.0]),
        *([1, 2.0], [True, 1], [1, None], ["a", None], ["a", 1], "\ud800", 5e-324),
        *(np.float32(1.5), np.bool_(True), np.datetime64("2024-01-01", "ns"), np.array(5)),
        *(np.empty((0, 3)), np.empty((3, 0), "f2"), (np.arange(3), np.arange(2))),
        *({"a": np.arange(3), "A": np.arange(4), "é": np.arange(5), "a/b": np.arange(6)},),
        *({"a": {"b": np.arange(3)}, "a.b": np.arange(4)},),
        *({1: 2, "1": 3, 1.5: 4, math.inf: 5, -(2**70): 6}, {"": np.arange(2), "..": np.arange(3)}),
        *({"Column-0": np.arange(2), "é": np.arange(3)}, {"zarr.json": np.arange(3)}),
    ],
    ids=ascii,
)
def test_corner_cases_come_back_as_they_were(result):
    """Empty containers, odd keys, and the ends of every number's range come back the same."""
    assert same(through(result), result)


def test_mappings_come_back_as_dicts():
    """Any mapping comes back as a dict in its order, and subclasses of numbers as plain ones."""
    assert same(through(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})
    assert same(through(MappingProxyType({"a": 1})), {"a": 1})
    assert same(through(collections.defaultdict(list, a=[1])), {"a": [1]})


class Word(str):
    """Text of another type."""

    __slots__ = ()


def test_text_of_other_types_comes_back_as_plain():
    """Text of a subclass is kept as the text it is, already before it is written."""
    parts = take_apart({Word("key"): Word("value"), "list": [Word("a"), None]})
    found = assemble(parts.form, parts.columns, lambda array: array)
    assert same(found, {"key": "value", "list": ["a", None]})


INT_SUBCLASS = """
import enum
from castore.table.tree import assemble, take_apart
class Colour(enum.IntEnum):
    RED = 3
parts = take_apart({Colour.RED: Colour.RED, "mixed": [Colour.RED, None]})
print(assemble(parts.form, parts.columns, None))
"""


def test_integers_of_other_types_come_back_as_plain(tmp_path):
    """An enumerated integer is kept as the integer it is, in no more time than one takes."""
    run = subprocess.run(  # the limit is what tells an endless loop from a slow machine
        [sys.executable, "-c", INT_SUBCLASS],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=20,
    )
    assert run.stdout == "{3: 3, 'mixed': [3, None]}\n"


def test_arrays_are_not_copied():
    """Taking a result apart copies no array that is contiguous already."""
    array = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(take_apart({"x": array}).columns["x"], array)


def test_leaves_become_what_the_caller_asks_for():
    """Arrays pass through `leaf`; scalars, numbers and strings do not."""
    result = {"array": np.arange(3), "scalar": np.float32(2), "numbers": [1, 2], "texts": ["a"]}
    parts = take_apart(result)
    found = assemble(parts.form, parts.columns, lambda array: array.tolist())
    assert same(found, {**result, "array": [0, 1, 2]})


def test_named_tuples_are_found_where_they_are_loaded():
    """A named tuple comes back as the class its loaded module has under its name."""
    module = type(sys)("a_module_of_features")
    module.Pair = type("Pair", (Pair,), {"__module__": module.__name__, "__slots__": ()})
    value = module.Pair(1, np.arange(2))
    sys.modules[module.__name__] = module
    try:
        assert type(through(value)) is module.Pair
    finally:
        del sys.modules[module.__name__]
    found = through(value)
    assert type(found) is not module.Pair
    assert (type(found).__name__, found._fields) == ("Pair", ("first", "second"))
    assert found.first == 1


NO_IMPORT = """
import sys
from castore.table.tree import assemble
spec = {"fields": ["a"], "items": [{"value": 1}], "type": sys.argv[1]}
print(assemble({"named": spec}, {}, None), "this" in sys.modules)
"""


@pytest.mark.parametrize(
    "kind", ["this:Zen", "os:system", "this:s", "nowhere:Zen", "builtins:tuple"]
)
def test_named_tuples_import_and_run_nothing(kind):
    """A form that names a module or a function gets an equal named tuple: no module is loaded."""
    run = subprocess.run(
        [sys.executable, "-c", NO_IMPORT, kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert run.stdout == f"{kind.partition(':')[2]}(a=1) False\n"


def test_named_tuples_of_other_fields_are_not_taken():
    """A class that has changed its fields since is not used: the fields kept are what counts."""
    form = {"named": {"fields": ["x"], "items": [{"value": 1}], "type": f"{__name__}:Pair"}}
    found = assemble(form, {}, None)
    assert type(found) is not Pair
    assert found._asdict() == {"x": 1}


def test_local_named_tuples_come_back_equal():
    """A named tuple class that no module holds comes back as an equal one of the same name."""
    local = collections.namedtuple("local", "a b")  # noqa: PYI024
    found = through(local(1, [2]))
    assert found == local(1, [2])
    assert (type(found).__name__, found._fields) == ("local", ("a", "b"))


def test_named_tuples_with_their_own_constructor_come_back():
    """A named tuple whose class takes other arguments than its fields comes back all the same."""
    found = through(Doubled(2))
    assert tuple(found) == (2, 4)
    assert found._fields == ("once", "twice")


def test_named_tuples_with_renamed_fields_come_back_elsewhere():
    """A named tuple whose fields were renamed comes back also where its class is not loaded."""
    parts = take_apart(Renamed(1, 2))
    form = json.loads(dumps(parts.form).replace(b"Renamed", b"Unknown"))
    found = assemble(form, parts.columns, None)
    assert tuple(found) == (1, 2)
    assert found._fields == ("_0", "x")


def refusal(result, rows=None):
    """The text by which `result` is refused."""
    with pytest.raises(Unstorable) as caught:
        take_apart(result, rows)
    return str(caught.value)


BATCHES = [np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((2, 3))]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (BATCHES, ["what it returned is a list of 3 arrays, one a batch", "np.concatenate(...)"]),
        (
            {"x": BATCHES},
            ["what it returned['x'] is a list", "np.concatenate(...) of them, or yield"],
        ),
        ([np.zeros(3)] * 10, ["10 arrays, one a row", "np.stack(...)"]),
        ([np.zeros(())] * 10, ["10 arrays", "np."]),
        ([np.zeros(n) for n in range(10)], ["differing shape", "one padded array"]),
        ([{"x": np.zeros(3)}] * 10, ["10 dicts, one a row", "one dict of arrays"]),
    ],
)
def test_rows_that_are_not_joined_are_refused(result, words):
    """What a loop leaves behind is refused: which list it is, and how to join it."""
    message = refusal(result, 10)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "result",
    [
        [np.zeros((10, 3)), np.zeros((10, 2))],
        [np.zeros((3, 2)), np.zeros(2)],
        [np.zeros((10, 3))],
        [np.zeros(4), None, np.zeros(6)],
        [np.zeros(4), [1, 2]],
        tuple(BATCHES),
    ],
)
def test_lists_of_arrays_are_kept(result):
    """Lists that are no rows waiting to be joined are kept as lists: layers, parts, pairs."""
    assert same(through(result, 10), result)
    assert same(through(BATCHES), BATCHES)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.array([1, "a", None], object), ["dtype object", "numbers and booleans"]),
        (np.array(["a", "b"]), ["dtype <U1"]),
        ({"x": [np.array([[1], [1, 2]], object)]}, ["what it returned['x'][0]", "dtype object"]),
        (np.zeros(2, "i4,f4"), ["cannot be kept"]),
        (np.zeros(2, np.longdouble), ["float128"]),
        (np.ma.masked_array([1, 2], [True, False]), ["masked array", ".filled(...)"]),
        ({1, 2}, ["builtins.set", "tuples, lists and dicts"]),
        (b"bytes", ["builtins.bytes"]),
        (1 + 2j, ["builtins.complex"]),
        (object(), ["builtins.object"]),
        ({"a": (1, {"b": [np, 2]})}, ["what it returned['a'][1]['b'][0] is a builtins.module"]),
        ({(1, 2): 3}, ["has the key (1, 2): keys are strings or numbers"]),
        ({"x": {None: 3}}, ["what it returned['x'] has the key None"]),
        ({b"key": 1}, ["has the key b'key'"]),
        (["a", "\ud800"], ["not Unicode text"]),
    ],
)
def test_what_cannot_be_kept_is_named(result, words):
    """What castore has no form for is refused with its place, its type and what to return."""
    if result.__class__ is np.ndarray and result.dtype == np.longdouble == np.float64:
        pytest.skip("long doubles are doubles here")
    message = refusal(result)
    assert all(word in message for word in words), message


def test_data_frames_are_told_what_to_do():
    """What has a dtype and can become numpy, as a pandas Series has, is told which call to make."""

    class Series:
        dtype = "float64"

        def to_numpy(self):
            raise AssertionError

    assert "is a Series: return .to_numpy() of it" in refusal({"x": Series()})


def test_nesting_beyond_reason_is_refused():
    """A result nested deeper than Python can follow, or in itself, is refused and no crash."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    endless = {}
    endless["again"] = endless
    for result in (deep, endless):
        refusal(result)


def test_tensors_are_joined_by_torch():
    """Unjoined tensors are refused with torch's own words for joining them."""
    torch = pytest.importorskip("torch")
    batches = [torch.zeros(4, 3), torch.zeros(6, 3)]
    assert "torch.cat(...) of them" in refusal(batches, 10)
    assert "torch.stack(...) of them" in refusal([torch.zeros(3)] * 10, 10)


def test_tensors_without_plain_values_are_refused():
    """Sparse and meta tensors are refused with their place and what to return."""
    torch = pytest.importorskip("torch")
    message = refusal({"x": torch.eye(3).to_sparse()})
    assert "what it returned['x']: a sparse tensor" in message
    assert "return a dense one" in message
    assert "meta tensor" in refusal(torch.empty(3, device="meta"))


def test_tensors_come_apart_as_arrays():
    """Tensors in any container are columns like arrays, of their own dtype."""
    torch = pytest.importorskip("torch")
    parts = take_apart({"x": torch.ones(3, dtype=torch.bfloat16), "y": [torch.tensor(2), None]})
    assert [(name, a.dtype.name) for name, a in parts.columns.items()] == [
        ("x", "bfloat16"),
        ("y.0", "int64"),
    ]


CRAFTED = [
    *(None, 5, "array", [], {}, {"array": []}, {"unknown": 1}, {"array": "x", "value": 1}),
    *({"array": 5}, {"array": None}, {"array": ["x"]}, {"array": {}}, {"array": "../x"}),
    *({"scalar": "missing"}, {"numbers": "missing"}, {"strings": []}, {"strings": ["x"]}),
    *({"strings": ["x", "x", "x"]}, {"strings": ["x", "missing"]}),
    *({"list": 5}, {"list": [5]}, {"tuple": [{}]}, {"dict": [[1]]}),
    *({"dict": [["a", {"value": 1}, 3]]}, {"dict": 5}, {"dict": [[["a"], {"value": 1}]]}),
    *({"dict": [[{"float": 5}, {"value": 1}]]}, {"dict": [[{}, {"value": 1}]]}),
    *({"value": {}}, {"value": {"float": "x"}}, {"value": {"int": "x"}}, {"value": {"int": []}}),
    *({"value": {"int": "1" * 5000}}, {"value": {"float": "0x1p99999"}}),
    *({"named": {}}, {"named": []}, {"named": {"type": 5, "fields": [], "items": []}}),
    {"named": {"type": "a:b", "fields": ["x"], "items": []}},
    {"named": {"type": "a:b", "fields": ["x y"], "items": [{"value": 1}]}},
    {"named": {"type": "a:b", "fields": [["x"]], "items": [{"value": 1}]}},
    {"named": {"type": "a:b c", "fields": ["x"], "items": [{"value": 1}]}},
    {"named": {"type": "a:import", "fields": ["x"], "items": [{"value": 1}]}},
    {"named": {"type": "", "fields": "x", "items": [{"value": 1}]}},
    {"named": {"type": "a:b", "fields": ["x", "x"], "items": [{"value": 1}] * 2}},
]


@pytest.mark.parametrize("form", CRAFTED, ids=lambda form: repr(form)[:60])
def test_crafted_forms_are_damaged(form):
    """A form that `take_apart` never makes is damaged, whichever way it is wrong."""
    columns = {"x": np.arange(3), "y": np.arange(3)}

    def read():
        list(columns_of(form))
        assemble(form, columns, lambda array: array)

    with pytest.raises(DamagedError):
        read()


def nested(depth):
    """A form of `depth` lists in one another."""
    form = {"value": 1}
    for _ in range(depth):
        form = {"list": [form]}
    return form


@pytest.mark.parametrize("depth", [400, 5000, 100_000])
def test_forms_nested_beyond_reason_are_damaged(depth):
    """A form nested deeper than Python can follow is damaged, and no crash."""
    form = nested(depth)
    for act in (lambda: list(columns_of(form)), lambda: assemble(form, {}, lambda array: array)):
        try:
            act()
        except DamagedError:
            assert depth > 400


@pytest.mark.parametrize(
    "offsets",
    [
        *([0, 9], [0, -1], [2, 1, 3], [1, 3], [0, 2**62], [2**63 - 1, -(2**63)], [], [[0, 3]], 3),
        *([0.0, 3.0], [0, math.nan]),
    ],
    ids=str,
)
def test_crafted_offsets_do_no_harm(offsets):
    """Offsets that no text has give text that is there, or are damaged: nothing else is read."""
    columns = {"values": np.frombuffer(b"abc", np.uint8), "offsets": np.array(offsets)}
    try:
        found = assemble({"strings": ["values", "offsets"]}, columns, lambda array: array)
    except DamagedError:
        return
    assert all(text in "abc" for text in found)


def test_bytes_that_are_no_text_are_damaged():
    """Kept text that is no UTF-8 is damaged."""
    columns = {"values": np.array([255], np.uint8), "offsets": np.array([0, 1])}
    with pytest.raises(DamagedError, match="cannot be put together"):
        assemble({"strings": ["values", "offsets"]}, columns, lambda array: array)


def test_missing_columns_are_damaged():
    """A result whose column is not there is damaged, told by the column's name."""
    parts = take_apart({"x": np.arange(3)})
    with pytest.raises(DamagedError, match="x"):
        assemble(parts.form, {}, lambda array: array)
