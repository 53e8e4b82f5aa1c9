"""Values as documents: what Python keeps apart stays apart, and equal values agree everywhere."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import itertools
import os
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.canonical import dumps
from castore.digest import identity
from castore.errors import FingerprintError
from castore.identity.values import digest_array, digest_value, encode, type_name

DTYPES = [
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *("datetime64[ns]", "timedelta64[s]"),
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
]
every_dtype = pytest.mark.parametrize("dtype", [np.dtype(d) for d in DTYPES], ids=str)


class Colour(enum.Enum):
    """An enum."""

    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    """An enum with a member of the same name."""

    RED = 1


class Level(enum.IntEnum):
    """An enum whose members are integers."""

    LOW = 1


class Switch(enum.IntFlag):
    """A flag that keeps bits it has no name for."""

    ON = 1


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024


@dataclasses.dataclass
class Box:
    """A dataclass."""

    side: object


@dataclasses.dataclass
class Crate:
    """A dataclass with the same field."""

    side: object


def text_of(value) -> bytes:
    """Canonical form of a value's document."""
    return dumps(encode(value))


LOOKALIKES = [
    *(None, "None", "null"),
    *(0, 1, "1", 1.0, True, (1,), [1], {1}, {1: None}, 1 + 0j, b"1", range(1), slice(1)),
    *(False, 0.0, -0.0, "", (), [], {}, set(), b"", 0j, -0j),
    *("0", "1.0", "True", "(1,)", "[1]", '{"tuple":[1]}', {"tuple": [1]}, {"1": None}),
    *(np.int64(1), np.int32(1), np.uint8(1), np.float64(1), np.float32(1), np.bool_(True)),
    *(np.str_("1"), np.bytes_(b"1"), np.datetime64(1, "s"), np.datetime64(1, "ms")),
    *(np.array(1), np.array([1]), np.array([[1]]), np.array([1.0]), np.array(["1"])),
    *(np.array([1], object), np.array(["1"], object), np.array([b"1"])),
    *(2**63, 2**64, -(2**63) - 1, "0x10000000000000000", {"int": "0x10000000000000000"}),
    *(float("inf"), -float("inf"), float("nan"), "nan", "inf"),
    *(Colour.RED, Colour.BLUE, Shade.RED, Level.LOW, "RED"),
    *(Box(1), Crate(1), Box("1"), Box([1])),
    *(range(2), range(0, 2, 2), slice(0, 1), slice(0, 1, 1)),
    *([[1]], [[], 1], [(1,)], ([1],), [1, 1], [None], [[]], [{}]),
    *(np.dtype("float32"), np.dtype("float64"), np.dtype(">f4"), "float32"),
    *(np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e5m2)),
    *(len, max, int, float, object, Box, Crate, Colour, np.float32, ml_dtypes.bfloat16),
    *("builtins.len", {"type": "builtins.int"}, {"function": "builtins.len"}),
]


def test_lookalikes_are_kept_apart():
    """No two values that a program can tell apart have one document."""
    documents = [text_of(value) for value in LOOKALIKES]
    clashes = [
        (a, b)
        for (a, one), (b, two) in itertools.combinations(zip(LOOKALIKES, documents, strict=True), 2)
        if one == two
    ]
    assert clashes == []


def model(value):
    """Say what a value is in another way than `encode`, as text."""
    kind = type(value)
    if kind is float:
        return f"float:{struct.pack('>d', value).hex()}"
    if kind is complex:
        return f"complex:{struct.pack('>dd', value.real, value.imag).hex()}"
    if kind in (list, tuple):
        return f"{kind.__name__}({','.join(map(model, value))})"
    if kind in (set, frozenset):
        return f"{kind.__name__}({','.join(sorted(map(model, value)))})"
    if kind is dict:
        return f"dict({','.join(f'{model(k)}={model(v)}' for k, v in value.items())})"
    if isinstance(value, np.generic):
        return f"{value.dtype.str}:{value.tobytes().hex()}"
    return f"{kind.__name__}:{value!r}"


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63 - 2, 2**64 + 2),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=()), max_size=4),
    st.binary(max_size=4),
    st.sampled_from([Colour.RED, Colour.BLUE, Shade.RED, Level.LOW]),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int16, st.integers(-5, 5)),
    st.builds(range, st.integers(-2, 2), st.integers(-2, 2)),
)
keys = st.one_of(leaves.filter(lambda v: not isinstance(v, (range, slice))), st.tuples(leaves))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=8,
)


@given(values, values)
def test_documents_agree_exactly_where_values_do(one, two):
    """Two typed values have one document if, and only if, they are the same value."""
    assert (text_of(one) == text_of(two)) == (model(one) == model(two))


def rebuilt(value):
    """Build an equal value anew; sets in the opposite order."""
    if type(value) in (list, tuple):
        return type(value)(rebuilt(item) for item in value)
    if type(value) in (set, frozenset):
        return type(value)(reversed([rebuilt(item) for item in value]))
    if type(value) is dict:
        return {rebuilt(k): rebuilt(v) for k, v in value.items()}
    return copy.deepcopy(value)


@given(values)
def test_equal_values_built_twice_agree(value):
    """A value built a second time has the same document; sets in any order of insertion."""
    assert text_of(rebuilt(value)) == text_of(value)


def test_the_order_of_a_dict_is_part_of_it():
    """Code that goes through a dict meets its items in their order, which is told apart."""
    assert encode({"a": 1, "b": 2}) != encode({"b": 2, "a": 1})


def test_a_dataclass_with_more_than_its_fields_has_no_rule():
    """An attribute set beside the fields would be lost, so the object is not taken whole."""

    @dataclasses.dataclass
    class Box:
        side: int = 1

    box = Box()
    assert encode(box)["dataclass"][1] == [["side", 1]]
    box.label = "a"
    with pytest.raises(FingerprintError, match="attributes beside its fields"):
        encode([box], "boxes")


SEEDED = """
from castore.identity.values import digest_value
words = [f"word {i}" for i in range(50)]
print(digest_value("test", [set(words), frozenset(words), {w: {w, 1, None} for w in words}]))
"""


def test_no_document_depends_on_the_hash_seed():
    """Sets and dicts of strings have one digest in processes with different hash seeds."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", SEEDED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(digests) == 1


def nan(bits: int) -> float:
    """A NaN with a payload."""
    return struct.unpack(">d", struct.pack(">Q", bits))[0]


def test_nan_payloads_and_signs_of_zero_are_kept_apart():
    """NaNs go by their bits and zeros by their sign, alone, in complex numbers and in arrays."""
    numbers = [0.0, -0.0, nan(0x7FF8000000000000), nan(0x7FF8000000000001), nan(0xFFF8000000000000)]
    assert len({text_of(x) for x in numbers}) == 5
    assert len({text_of(complex(0.0, x)) for x in numbers}) == 5
    assert len({text_of(np.float64(x)) for x in numbers}) == 5
    assert len({text_of(np.array([x])) for x in numbers}) == 5
    assert text_of(nan(0x7FF8000000000001)) == text_of(nan(0x7FF8000000000001))


def test_lone_surrogates_have_documents():
    """Text that is no valid Unicode is told apart like any other."""
    assert len({text_of(x) for x in ("\ud800", "\udc00", "\ud801", "?", "\\ud800")}) == 5


def test_a_surrogate_pair_is_not_the_character_it_would_spell():
    """Two surrogates are two characters, and not the one that UTF-16 writes with them."""
    pair, character = "\ud83d\ude00", "😀"
    assert pair != character
    assert text_of(pair) != text_of(character)


def test_named_tuples_are_kept_apart():
    """A named tuple goes by its type, its fields and their values, and is no plain tuple."""
    other = collections.namedtuple("Pair", "a c")(1, "x")  # noqa: PYI024
    documents = {text_of(value) for value in (Pair(1, "x"), Pair(2, "x"), other, (1, "x"))}
    assert len(documents) == 4
    assert text_of(Pair(1, "x")) == text_of(Pair(b="x", a=1))


def test_mutable_and_immutable_are_kept_apart():
    """Bytes and sets that can be changed are not those that cannot."""
    assert text_of(bytearray(b"abc")) != text_of(b"abc")
    assert text_of({1, 2}) != text_of(frozenset({1, 2}))


def test_flags_with_unnamed_bits_are_kept_apart():
    """Values of a flag that have no name differ as the values do."""
    assert Switch(8) != Switch(16)
    assert text_of(Switch(8)) != text_of(Switch(16))


DTYPES_APART = [
    *("f4", "f8", ">f4", "i4", "V4", "U1", "U2", "datetime64[s]", "datetime64[ms]"),
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
    [("a", "f4")],
    [("b", "f4")],
    [("a", "f4", (1,))],
    [(("title", "a"), "f4")],
    [(("other", "a"), "f4")],
    {"names": ["a"], "formats": ["f4"], "itemsize": 8},
    {"names": ["a"], "formats": ["f4"], "offsets": [4], "itemsize": 8},
    {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]},
    {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 4]},
    {"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [0, 4]},
    [("a", [("b", "f4")])],
]


def test_dtypes_are_kept_apart():
    """Every dtype has a document of its own."""
    dtypes = [np.dtype(d) for d in DTYPES_APART]
    assert len({text_of(d) for d in dtypes}) == len(dtypes)


def test_dtypes_with_a_shape_are_kept_apart():
    """A dtype that holds a small array goes by what the array is of."""
    assert text_of(np.dtype(("f4", (2,)))) != text_of(np.dtype(("i4", (2,))))


def test_dtypes_go_by_their_name_or_parts():
    """A plain dtype is numpy's short text, ml_dtypes' its name, a structured one its fields."""
    assert encode(np.dtype("float32")) == {"dtype": "<f4"}
    assert encode(np.dtype(">f4")) == {"dtype": ">f4"}
    assert encode(np.dtype(ml_dtypes.float8_e4m3fn)) == {"dtype": "float8_e4m3fn"}
    dtype = np.dtype({"names": ["a", "b"], "formats": ["i4", ("u1", 2)], "offsets": [4, 0]})
    parts = [["a", "<i4", 4], ["b", ["|u1", [2]], 0]]
    assert encode(dtype) == {"dtype": [8, parts]}


def test_types_and_functions_of_a_library_go_by_their_names():
    """A type goes by its name, and a function written in C by its module's and its own."""
    assert encode(np.float32) == {"type": "numpy.float32"}
    assert encode(len) == {"function": "builtins.len"}


def sample(dtype: np.dtype) -> np.ndarray:
    """A (4, 6) array of `dtype` with few equal values."""
    numbers = np.arange(24).reshape(4, 6)
    return numbers.astype("i8").astype(dtype) if dtype.kind in "mM" else numbers.astype(dtype)


@every_dtype
def test_arrays_agree_whatever_their_layout(dtype):
    """Fortran order, strides, byte order and read-only memory are no part of an array's value."""
    array = sample(dtype)
    wide = np.zeros((8, 12), dtype)
    wide[::2, ::2] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    others = [np.asfortranarray(array), wide[::2, ::2], array[::-1][::-1], frozen]
    if dtype.isbuiltin == 1:
        others.append(array.astype(dtype.newbyteorder(">")))
    assert {text_of(other) for other in others} == {text_of(array)}


def test_arrays_of_equal_bytes_differ_by_dtype():
    """The dtype is part of an array's value, where the bytes agree too."""
    arrays = [np.zeros(24, np.uint8).view(d) for d in map(np.dtype, DTYPES) if 24 % d.itemsize == 0]
    assert len({text_of(a[:1]) for a in arrays}) == len(arrays)


@given(st.lists(st.integers(0, 3), max_size=3), st.lists(st.integers(0, 3), max_size=3))
def test_arrays_of_equal_bytes_differ_by_shape(one, two):
    """The shape is part of an array's value, where it holds nothing too."""
    assert (text_of(np.zeros(one)) == text_of(np.zeros(two))) == (one == two)


@every_dtype
def test_one_bit_of_an_array_matters(dtype):
    """An array with one bit flipped has another document."""
    array = sample(dtype)
    other = array.copy()
    other.reshape(-1).view(np.uint8)[-1] ^= 1
    assert text_of(array) != text_of(other)


def test_arrays_of_text_and_objects_go_by_their_items():
    """Arrays without plain bytes are encoded item by item, and an item without a rule refused."""
    assert text_of(np.array(["a", "b"])) == text_of(np.array(["a", "b"], "U9"))
    assert text_of(np.array([1, "a"], object)) != text_of(np.array([1, "b"], object))
    with pytest.raises(FingerprintError, match=r"value\[0\] is a builtins.object"):
        encode(np.array([object()], object))


def test_digest_of_an_array_is_of_its_bytes():
    """The digest in an array's document is that of its bytes in the domain `array`."""
    array = np.arange(3, dtype="<i4")
    assert digest_array(array) == identity("array", array.tobytes())
    assert encode(array) == {"array": ["int32", [3], digest_array(array)]}


def contained_list():
    """A list that contains itself."""
    value: list = [1]
    value.append(value)
    return value


def contained_dict():
    """A dict that contains itself."""
    value: dict = {}
    value["x"] = [value]
    return value


def contained_array():
    """An array that contains itself."""
    value = np.empty(1, object)
    value[0] = value
    return value


@pytest.mark.parametrize("build", [contained_list, contained_dict, contained_array])
def test_what_contains_itself_is_refused(build):
    """A value that contains itself is a FingerprintError, not an endless walk."""
    with pytest.raises(FingerprintError, match=r"thing.*contains itself"):
        encode(build(), "thing")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: None,
        "x".join,
        [].append,
        iter([]),
        memoryview(b""),
        np.zeros(2, "V4"),
        np.zeros(2, "i4,f4"),
        np.zeros(1, "i4,f4")[0],
        np.ma.masked_array([1]),
        np.longdouble(1),
        type("Text", (str,), {})("x"),
        type("Number", (int,), {})(1),
        type("Items", (list,), {})(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_rule_is_refused_by_its_path(value):
    """Nothing falls back to repr, hash or pickle: the message says where the value lies."""
    with pytest.raises(FingerprintError, match=r"params\['deep'\]\[1\]"):
        encode({"deep": [0, value]}, "params")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({object(): 1}, "a key of value is"),
        ({object()}, "an item of value is"),
        (Box(object()), "value.side is"),
        ((object(),), r"value\[0\] is"),
        (slice(object()), "value is"),
    ],
)
def test_messages_name_the_part_without_a_rule(value, path):
    """A message leads to the key, item, field or element at fault."""
    with pytest.raises(FingerprintError, match=path):
        encode(value)


def test_type_names_leave_out_the_script():
    """A type goes by module and name, and by its name alone where it is a script's own."""
    assert type_name(collections.OrderedDict) == "collections.OrderedDict"
    assert type_name(type("Thing", (), {"__module__": "__main__"})) == "Thing"


def test_digest_of_a_value_is_of_its_document():
    """A value's digest is that of the canonical form of its document, in its domain."""
    assert digest_value("test", (1, "x")) == identity("test", b'{"tuple":[1,"x"]}')
    assert digest_value("test", 1) != digest_value("other", 1)


def test_tensors_go_by_dtype_shape_and_bits():
    """A tensor's document is that of its values; only the tag keeps it apart from an array."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    ((tag, document),) = encode(tensor).items()
    assert tag == "tensor"
    assert {"array": document} == encode(tensor.numpy())
    same = [tensor.clone(), tensor.t().contiguous().t(), tensor.clone().requires_grad_()]
    assert {text_of(other) for other in same} == {text_of(tensor)}
    other = [tensor.double(), tensor.reshape(3, 2), tensor + 1, tensor.bfloat16(), tensor.half()]
    assert len({text_of(x) for x in [tensor, *other]}) == 6


def test_extended_tensors_agree_with_their_arrays():
    """bfloat16 and float8 tensors hash the bits that numpy holds under ml_dtypes."""
    torch = pytest.importorskip("torch")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"):
        tensor = torch.arange(6).to(getattr(torch, name))
        array = np.arange(6).astype(getattr(ml_dtypes, name))
        assert encode(tensor)["tensor"] == encode(array)["array"]


def test_torch_types_have_rules():
    """A torch dtype goes by its name, and a torch size by its numbers."""
    torch = pytest.importorskip("torch")
    assert encode(torch.float16) == {"torch.dtype": "float16"}
    assert encode(torch.zeros(2, 3).shape) == {"torch.Size": [2, 3]}


def test_tensors_without_values_are_refused():
    """A tensor on the meta device or a sparse one is refused by name."""
    torch = pytest.importorskip("torch")
    with pytest.raises(FingerprintError, match="bank: a meta tensor"):
        encode(torch.empty(2, device="meta"), "bank")
    with pytest.raises(FingerprintError, match="bank: a sparse tensor"):
        encode(torch.eye(2).to_sparse(), "bank")
    with pytest.raises(FingerprintError):
        encode(torch.device("cpu"))
