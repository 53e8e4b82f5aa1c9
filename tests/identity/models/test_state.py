"""Tensors by their values: bit for bit, wherever and however they lie in memory."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from castore import threads
from castore.canonical import identify
from castore.digest import identity
from castore.errors import FingerprintError
from castore.identity.models import state
from castore.identity.models.state import PART_NBYTES, describe

torch = pytest.importorskip("torch")

DTYPES = [
    "bfloat16",
    "bool",
    "complex32",
    "complex64",
    "complex128",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]
LARGE = 2 * PART_NBYTES + 4


def one(tensor):
    """Describe one tensor."""
    return describe({"a": tensor})["a"]


def bits(*values):
    """Make a float32 tensor of bit patterns."""
    return torch.from_numpy(np.array(values, np.uint32).view(np.float32))


def test_a_tensor_is_its_dtype_shape_and_bytes():
    """The digest of a small tensor is that of its bytes, in C order and little-endian."""
    data = struct.pack("<6f", *range(6))
    assert one(torch.arange(6.0).reshape(2, 3)) == ["float32", [2, 3], identity("tensor", data)]


def test_a_large_tensor_is_its_parts():
    """The digest of a tensor above 4 MiB is that of the digests of every 4 MiB of it."""
    tensor = torch.arange(LARGE, dtype=torch.int64).to(torch.uint8)
    data = tensor.numpy().tobytes()
    parts = [data[:PART_NBYTES], data[PART_NBYTES : 2 * PART_NBYTES], data[2 * PART_NBYTES :]]
    expected = identify("parts", [identity("tensor", part) for part in parts])
    assert one(tensor) == ["uint8", [LARGE], expected]
    exact = tensor[:PART_NBYTES]
    assert one(exact)[2] == identity("tensor", data[:PART_NBYTES])


def test_every_byte_of_a_large_tensor_counts():
    """A change at the edge of any part changes the digest."""
    tensor = torch.zeros(LARGE, dtype=torch.uint8)
    digests = {one(tensor)[2]}
    for position in (0, PART_NBYTES - 1, PART_NBYTES, 2 * PART_NBYTES, LARGE - 1):
        changed = tensor.clone()
        changed[position] = 1
        digests.add(one(changed)[2])
    assert len(digests) == 6


def test_threads_change_nothing(monkeypatch):
    """However many processors there are, and tensors large and small, the digests are the same."""
    tensors = {f"t{index}": torch.rand(1000 * index) for index in range(60)}
    tensors["large"] = torch.rand(LARGE)
    found = []
    for count in (1, 2, 8):
        monkeypatch.setattr(threads, "_processors", lambda count=count: count)
        monkeypatch.setattr(state, "_ALONE_NBYTES", 0)
        found.append(describe(tensors))
    assert found[0] == found[1] == found[2]
    alone = {name: one(tensor) for name, tensor in tensors.items()}
    assert found[0] == alone


def test_what_a_thread_raises_reaches_the_caller(monkeypatch):
    """An error while a tensor is read in another thread is raised to who asked."""

    def fail(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(threads, "_processors", lambda: 4)
    monkeypatch.setattr(state, "_digest", fail)
    monkeypatch.setattr(state, "_ALONE_NBYTES", 0)
    with pytest.raises(MemoryError, match="none left"):
        describe({"a": torch.zeros(10 * PART_NBYTES, dtype=torch.uint8)})


@given(array=npst.arrays(st.sampled_from(["f4", "i2", "u1", "c8", "?"]), npst.array_shapes()))
def test_equal_arrays_have_equal_digests(array):
    """A tensor agrees with its copy, and with a strided view of equal values."""
    tensor = torch.from_numpy(array.copy())
    strided = torch.stack([tensor, tensor], dim=-1)[..., 1]
    assert one(tensor) == one(tensor.clone()) == one(strided)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_counts_by_its_bits(dtype):
    """Each dtype is told from its bits in another, one changed byte is seen, and 0-d works."""
    kind = getattr(torch, dtype)
    raw = torch.ones(16, dtype=torch.uint8)
    tensor = raw.view(kind)
    assert one(tensor)[0] == dtype
    assert one(tensor)[2] == identity("tensor", raw.numpy())
    other = raw.clone()
    other[-1] = 0
    assert one(other.view(kind)) != one(tensor)
    assert one(tensor[0])[1] == []
    assert one(tensor[:0])[1] == [0]


def test_bits_that_compare_equal_are_told_apart():
    """Zeros by their sign and NaNs by their payload are values of their own."""
    patterns = [0x0, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000]
    assert len({one(bits(pattern))[2] for pattern in patterns}) == len(patterns)


def test_lazily_conjugated_and_negated_values_are_what_they_read_as():
    """A conjugate that torch has not computed yet agrees with the one it has."""
    values = torch.tensor([1 + 2j, 3 - 4j])
    assert values.conj().is_conj()
    assert one(values.conj()) == one(values.conj().resolve_conj()) != one(values)
    imaginary = values.conj().imag
    assert imaginary.is_neg()
    assert one(imaginary) == one(imaginary.clone().resolve_neg())


def test_memory_format_does_not_count():
    """Channels last are the same values; so is a transposed copy."""
    images = torch.rand(2, 3, 4, 5)
    assert one(images.to(memory_format=torch.channels_last)) == one(images)
    large = torch.rand(1025, 1025)
    assert one(large.t().contiguous().t()) == one(large)


def test_a_machine_of_the_other_byte_order_agrees(monkeypatch):
    """Bytes are turned where the machine is big-endian, complex numbers by halves."""
    tensors = [
        torch.tensor([1.5, 2.5]),
        torch.tensor([1 + 2j]),
        torch.tensor([1], dtype=torch.bool),
    ]
    turned = [
        np.array([1.5, 2.5], ">f4").tobytes(),
        np.array([1 + 2j], ">c8").tobytes(),
        b"\1",
    ]
    monkeypatch.setattr(state, "_BIG_ENDIAN", True)
    assert [one(tensor)[2] for tensor in tensors] == [identity("tensor", data) for data in turned]


def test_one_tensor_under_two_names_is_read_once(monkeypatch):
    """Tied tensors are described under each name, and their bytes are hashed once."""
    read = []
    digest = state._digest
    monkeypatch.setattr(state, "_digest", lambda t, *rest: (read.append(t), digest(t, *rest)))
    tensor = torch.ones(3)
    found = describe({"b": tensor, "a": tensor, "c": torch.ones(3)})
    assert list(found) == ["b", "a", "c"]
    assert found["a"] == found["b"] == found["c"]
    assert len(read) == 2


def test_gradients_and_grad_mode_do_not_matter():
    """Requiring a gradient, and how torch is to record, change nothing."""
    tensor = torch.arange(3.0)
    expected = one(tensor)
    assert one(torch.nn.Parameter(tensor)) == expected
    with torch.inference_mode():
        assert one(torch.arange(3.0)) == expected
        assert one(torch.nn.Parameter(tensor)) == expected
    with torch.device("meta"):
        assert one(tensor) == expected


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_go_by_their_parts():
    """Equal sparse tensors agree; another value, place or layout is another tensor."""
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    coo = dense.to_sparse()
    doubled = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [0.5, 0.5, 2.0], (2, 2))
    assert one(coo) == one(dense.to_sparse()) == one(doubled)
    others = [dense.to_sparse_csr(), dense.to_sparse_csc()]
    others += [dense.to_sparse_bsr((1, 1)), dense.to_sparse_bsc((1, 1))]
    others += [dense, dense.t().to_sparse(), (2 * dense).to_sparse()]
    assert len({one(tensor)[2] for tensor in [coo, *others]}) == 8


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_go_by_integers_and_scales():
    """Equal integers under another scale or zero point are another tensor."""
    integers = torch.tensor([[0, 1], [2, 3]], dtype=torch.int8)
    made = [
        torch._make_per_tensor_quantized_tensor(integers, scale, point)
        for scale, point in ((0.5, 0), (0.5, 0), (0.25, 0), (0.5, 1))
    ]
    digests = [one(tensor)[2] for tensor in made]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    channels = [
        torch._make_per_channel_quantized_tensor(
            integers, torch.tensor([0.5, scale]), torch.tensor([0, point]), axis
        )
        for scale, point, axis in ((0.5, 0, 0), (0.5, 0, 0), (0.25, 0, 0), (0.5, 1, 0), (0.5, 0, 1))
    ]
    digests = [one(tensor)[2] for tensor in channels]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


class Marked(torch.nn.Parameter):
    """A parameter of a class of the user's."""


class Wrapped(torch.Tensor):
    """A tensor that is made of others, as those of torchao are."""

    @staticmethod
    def __new__(cls, inner, context):
        """Make one."""
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner, context):
        self.inner, self.context = inner, context

    def __tensor_flatten__(self):
        """Say what it is made of."""
        return ["inner"], self.context

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Do nothing."""
        raise NotImplementedError(func)


def test_subclasses_go_by_class_values_and_attributes():
    """A tensor of a class of its own is told from a plain one, and by its attributes."""
    plain, marked, other = torch.ones(2), Marked(torch.ones(2)), Marked(torch.ones(2))
    other.scale = 3
    assert one(marked) == one(Marked(torch.ones(2)))
    assert len({one(tensor)[2] for tensor in (plain, marked, other)}) == 3
    other.scale = object()
    with pytest.raises(FingerprintError, match=r"'a' is a .*Marked, which cannot be described"):
        one(other)


def test_tensors_made_of_tensors_go_by_what_they_are_made_of():
    """A wrapper is identified by the tensors in it and what it says beside them."""
    assert one(Wrapped(torch.ones(2), 1)) == one(Wrapped(torch.ones(2), 1))
    others = [(torch.ones(2), 1), (torch.zeros(2), 1), (torch.ones(2), 2)]
    assert len({one(Wrapped(*parts))[2] for parts in others}) == 3
    with pytest.raises(FingerprintError, match="the context of a"):
        one(Wrapped(torch.ones(2), object()))


def fake():
    """Make a tensor without values."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(2)


class DTensor(torch.Tensor):
    """A tensor of which every process has a part."""


def partitioned():
    """Make a parameter such as DeepSpeed leaves behind."""
    found = torch.nn.Parameter(torch.empty(0))
    found.ds_id = 1
    return found


def freed():
    """Make a tensor whose memory was given back."""
    found = torch.ones(2)
    found.untyped_storage().resize_(0)
    return found


REFUSED = {
    "has no values to hash: its memory was given back": freed,
    "has no values to hash": lambda: torch.ones(2, device="meta"),
    "has no values to hash:": fake,
    "is sharded": lambda: torch.ones(2).as_subclass(DTensor),
    "is sharded, and this process has a part of it": partitioned,
    "is a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_values_here_is_refused(why):
    """Each refusal names the tensor, says why, and what to pass instead."""
    with pytest.raises(FingerprintError) as caught:
        describe({"net.weight": REFUSED[why]()})
    message = str(caught.value)
    assert message.startswith(f"parameter 'net.weight' {why}")
    assert message.endswith("pass model=<digest> or model=castore.file(path)")


def test_distributed_tensors_are_refused(tmp_path):
    """Torch's own sharded tensors are refused, also where this process has all of them."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        tensor = distribute_tensor(torch.ones(2), mesh, [Replicate()])
        with pytest.raises(FingerprintError, match="'a' is sharded"):
            one(tensor)
    finally:
        distributed.destroy_process_group()
