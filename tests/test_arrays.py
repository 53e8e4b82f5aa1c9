"""Arrays and tensors: little-endian, contiguous memory with the same bits, and back."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore import arrays
from castore.arrays import as_array, carrier, dtype_named, is_supported, name_of, raw, to_torch
from castore.errors import ConfigError

PLAIN = [
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
TIMES = ["datetime64[ns]", "datetime64[D]", "timedelta64[ms]"]
EXTENDED = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
every_name = pytest.mark.parametrize("name", [*PLAIN, *TIMES, *EXTENDED])


def bits(dtype: np.dtype, shape=(3, 5)) -> np.ndarray:
    """An array of random bits, NaN payloads among them; booleans are 0 or 1."""
    size = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(shape)


@every_name
def test_names_and_dtypes_are_inverse(name):
    """Every dtype castore keeps is found again by its name, little-endian."""
    dtype = dtype_named(name)
    assert name_of(dtype) == name
    assert is_supported(dtype)
    assert dtype.newbyteorder("<") == dtype


@every_name
def test_carriers_have_the_same_width(name):
    """A Zarr array carries a dtype in one of Zarr's own of equal width."""
    found = carrier(name)
    assert found.itemsize == dtype_named(name).itemsize
    assert name_of(found) in PLAIN
    assert (found == dtype_named(name)) == (name in PLAIN)


@pytest.mark.parametrize("name", ["object", "str", "S5", "V8", "i4,f4", "longdouble", "nonsense"])
def test_unknown_names_are_refused(name):
    """A name of a dtype castore does not keep is a TypeError."""
    with pytest.raises(TypeError):
        dtype_named(name)


@given(st.text(max_size=12))
def test_any_other_name_is_a_type_error(name):
    """Whatever a manifest may call a dtype, it is a dtype castore keeps or a TypeError."""
    with contextlib.suppress(TypeError):
        assert is_supported(dtype_named(name))


@every_name
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only", "big-endian"])
def test_arrays_keep_every_bit(name, layout):
    """Of any layout, elements come out little-endian and C-contiguous, bit for bit."""
    array = bits(dtype_named(name))
    given_array = {
        "C": lambda: array,
        "F": lambda: np.asfortranarray(array),
        "strided": lambda: np.repeat(np.repeat(array, 2, 0), 3, 1)[::2, ::3],
        "reversed": lambda: array[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": lambda: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
        "big-endian": lambda: big_endian(array),
    }[layout]()
    found = as_array(given_array)
    assert found.flags.c_contiguous
    assert found.dtype == dtype_named(name)
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


def big_endian(array: np.ndarray) -> np.ndarray:
    """The same elements with their bytes swapped, where the dtype has an order."""
    if array.dtype.isbuiltin != 1:
        return array
    swapped = array.byteswap()
    return swapped.view(swapped.dtype.newbyteorder(">"))


def test_contiguous_memory_is_not_copied():
    """An array that is as it should be already shares its memory with what comes out."""
    array = np.zeros((2, 3), "<f4")
    assert np.shares_memory(as_array(array), array)


@pytest.mark.parametrize("value", [np.float32(1.5), np.bool_(1), np.datetime64(1, "s")])
def test_scalars_are_arrays_without_axes(value):
    """A numpy scalar is an array of shape ()."""
    found = as_array(value)
    assert found.shape == ()
    assert found[()] == value


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", b"x", [1], (1,), range(3), object()])
def test_other_values_are_no_arrays(value):
    """What is neither array nor tensor gives None, not an array of it."""
    assert as_array(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([None]), "dtype object cannot be kept"),
        (np.array(["x"]), "cannot be kept"),
        (np.zeros(2, "i4,f4"), "cannot be kept"),
        (np.zeros(2, np.longdouble), "cannot be kept"),
        (np.zeros(2, ml_dtypes.int4), "cannot be kept"),
        (np.ma.masked_array([1, 2], [0, 1]), r"masked array .* return .filled"),
    ],
    ids=["object", "text", "structured", "longdouble", "int4", "masked"],
)
def test_arrays_without_a_rule_are_refused(value, message):
    """Arrays castore cannot keep are a TypeError that names the dtype or the way out."""
    with pytest.raises(TypeError, match=message):
        as_array(value)


def test_subclasses_of_arrays_become_plain():
    """A subclass of ndarray is taken as its plain memory."""
    matrix = np.arange(4).view(type("Own", (np.ndarray,), {})).reshape(2, 2)
    assert type(as_array(matrix)) is np.ndarray


@every_name
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 3)])
def test_raw_is_every_byte(name, shape):
    """The bytes of an array of any shape are seen without a copy."""
    array = bits(dtype_named(name), shape)
    view = raw(array)
    assert view.shape == (array.nbytes,)
    assert view.dtype == np.uint8
    assert view.tobytes() == array.tobytes()
    assert array.nbytes == 0 or np.shares_memory(view, array)


TORCH = [name for name in PLAIN if name != "complex256"] + EXTENDED


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 5)])
def test_tensors_go_out_and_come_back(name, shape):
    """A tensor of every dtype has the bits of its array, and shares memory on the way back."""
    torch = pytest.importorskip("torch")
    array = bits(dtype_named(name), shape)
    tensor = to_torch(array)
    assert tensor.dtype is getattr(torch, name)
    assert tuple(tensor.shape) == shape
    back = as_array(tensor)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert array.size == 0 or np.shares_memory(back, array)


@pytest.mark.parametrize("name", TORCH)
def test_strided_tensors_keep_every_bit(name):
    """A transposed tensor comes out C-contiguous in the order of its elements."""
    pytest.importorskip("torch")
    array = bits(dtype_named(name))
    found = as_array(to_torch(array).t())
    assert found.flags.c_contiguous
    assert found.tobytes() == array.T.tobytes()


def test_lazily_conjugated_and_negated_tensors_are_resolved():
    """A view that torch negates or conjugates only when read has the values it shows."""
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1 + 2j])
    assert as_array(tensor.conj())[0] == 1 - 2j
    assert as_array(tensor.conj().imag)[0] == -2.0


def test_tensors_that_require_gradients_are_detached():
    """A tensor in a graph is taken by its values."""
    torch = pytest.importorskip("torch")
    found = as_array(torch.ones(2, requires_grad=True) * 3)
    assert found.tolist() == [3.0, 3.0]


def test_tensors_without_plain_values_are_refused():
    """Meta, sparse, quantised and nested tensors are a TypeError that asks for a dense one."""
    torch = pytest.importorskip("torch")
    kinds = {
        "meta": torch.empty(2, device="meta"),
        "sparse": torch.eye(2).to_sparse(),
    }
    for kind, tensor in kinds.items():
        with pytest.raises(TypeError, match=f"a {kind} tensor .*dense"):
            as_array(tensor)


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_are_refused():
    """A nested tensor of either layout, which has no one shape, is a TypeError."""
    torch = pytest.importorskip("torch")
    for layout in (torch.jagged, torch.strided):
        tensor = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
        with pytest.raises(TypeError, match="dense"):
            as_array(tensor)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_refused():
    """A quantised tensor is a TypeError that says so."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="a quantised tensor"):
        as_array(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))


def test_dtypes_torch_lacks_are_refused():
    """An array of times has no tensor: the message says to ask for an array."""
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=r"no tensors of datetime64\[s\]: .*returns='numpy'"):
        to_torch(np.zeros(2, "datetime64[s]"))


def test_torch_is_never_imported():
    """In a process without torch there are no tensors, and to ask for one says what to import."""
    code = (
        "import sys, numpy as np\n"
        "from castore import arrays, errors\n"
        "assert arrays.torch() is None and not arrays.is_tensor(np.zeros(1))\n"
        "try: arrays.to_torch(np.zeros(1))\n"
        "except errors.ConfigError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "import torch first" in run.stdout


def test_torch_is_found_where_it_is_imported():
    """Where the user has imported torch, its tensors are known."""
    torch = pytest.importorskip("torch")
    assert arrays.torch() is torch
    assert arrays.is_tensor(torch.zeros(1))
    assert not arrays.is_tensor(np.zeros(1))


def test_asking_for_tensors_without_torch_is_a_config_error(monkeypatch):
    """Tensors that are asked for without torch are a ConfigError."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ConfigError, match="import torch first"):
        to_torch(np.zeros(1))
