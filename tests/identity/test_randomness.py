"""Whether a sample is random is found out by loading it twice, without a trace."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import os
import random
import subprocess
import sys
from collections import OrderedDict, UserDict, deque, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.identity.randomness import generators_kept, moves_or_differs
from castore.identity.values import encode

DIFFER = "two loads of it differ"
NAN = float("nan")
Pair = namedtuple("Pair", "image label")  # noqa: PYI024


@dataclasses.dataclass
class Sample:
    """A sample with a field of any kind."""

    image: object
    label: int = 0


class Opaque:
    """A type for which castore has no rule."""

    def __init__(self, value=None):
        self.value = value


def told(*samples):
    """Return what is told of a load that gives `samples` one after another."""
    given_out = iter(samples)
    return moves_or_differs(lambda: next(given_out))


def states():
    """States of Python's and numpy's global generators."""
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002


MOVES = {
    "Python's": random.random,
    "numpy's": lambda: np.random.rand(2),  # noqa: NPY002
}


@pytest.mark.parametrize("name", MOVES)
def test_a_global_generator_that_moves_is_named(name):
    """A sample that draws from Python's or numpy's generator is random; both are as before."""
    before = states()
    assert moves_or_differs(MOVES[name]) == f"loading it moves {name} global generator"
    assert states() == before


def test_what_is_drawn_need_not_show():
    """A sample that draws and gives the same each time is random all the same."""

    def load():
        random.random()
        return 1

    assert moves_or_differs(load) == "loading it moves Python's global generator"


def test_all_that_move_are_named():
    """Where two generators move, both are named."""
    told = moves_or_differs(lambda: (random.random(), np.random.rand()))  # noqa: NPY002
    assert told == "loading it moves Python's global generator and numpy's global generator"


def test_seeding_is_moving():
    """A sample that seeds a generator leaves another state than it found: it is random."""
    random.seed(1)
    random.random()
    assert moves_or_differs(lambda: random.seed(1)) == "loading it moves Python's global generator"


def test_torchs_generator_is_named():
    """A sample that draws from torch's generator is random, and the generator is as before."""
    torch = pytest.importorskip("torch")
    before = torch.get_rng_state().tolist()
    assert moves_or_differs(lambda: torch.rand(2)) == "loading it moves torch's global generator"
    assert torch.get_rng_state().tolist() == before


def test_cudas_generators_are_named():
    """A sample that draws on a CUDA device is random, and the generator is as before."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.init()
    before = torch.cuda.get_rng_state().tolist()
    told = moves_or_differs(lambda: torch.rand(2, device="cuda"))
    assert told == "loading it moves torch's CUDA generators"
    assert torch.cuda.get_rng_state().tolist() == before


def test_a_generator_that_comes_with_the_load_is_seen():
    """A load that is the first to import numpy's generators is seen to move them, in any form."""
    code = (
        "import sys\n"
        "from castore.identity.randomness import moves_or_differs\n"
        "sys.modules.pop('numpy.random', None)\n"
        "class Opaque: pass\n"
        "def load():\n"
        "    import numpy.random\n"
        "    numpy.random.rand()\n"
        "    return Opaque()\n"
        "print(moves_or_differs(load))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "loading it moves numpy's global generator\n"


def test_another_bit_generator_of_numpys_is_kept():
    """Where numpy's global generator is no Mersenne twister it is kept as well, without a word."""
    code = (
        "import numpy.random as r\n"
        "from castore.identity.randomness import moves_or_differs\n"
        "r.set_bit_generator(r.PCG64(1)); before = r.get_state(legacy=False)\n"
        "print(moves_or_differs(r.rand))\n"
        "assert r.get_state(legacy=False) == before"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "loading it moves numpy's global generator\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_generators_are_put_back_if_the_load_raises(error):
    """An exception is None and an interrupt the caller's; the generators are as before."""
    before = states()

    def load():
        random.random()
        np.random.rand()  # noqa: NPY002
        raise error

    if issubclass(error, Exception):
        assert moves_or_differs(load) is None
    else:
        with pytest.raises(error):
            moves_or_differs(load)
    assert states() == before


def test_a_second_load_that_raises_is_none():
    """A sample that can be loaded only once is not called random: its user meets the error."""
    assert told(1) is None


def test_at_most_two_loads():
    """A sample is loaded twice, and only once if the first load tells."""
    loads = []
    assert moves_or_differs(lambda: loads.append(1)) is None
    assert len(loads) == 2
    assert moves_or_differs(lambda: (loads.append(1), random.random()))
    assert len(loads) == 3


def array(*values, dtype="f4"):
    """An array of its own."""
    return np.array(values, dtype)


def structured(label):
    """Rows with fields, and a gap between these whose bytes say nothing."""
    rows = np.empty(2, np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8]}))
    rows.view("u1")[:] = np.frombuffer(os.urandom(rows.nbytes), "u1")
    rows["a"], rows["b"] = 1, label
    return rows


#: Makes a sample from a number: equal numbers are equal samples.
MAKE = {
    "integer": int,
    "float": float,
    "text": str,
    "bytes": lambda n: bytes([n]),
    "bytearray": lambda n: bytearray([n]),
    "complex": complex,
    "array": lambda n: array(1, n),
    "scalar": np.float16,
    "float array with NaN": lambda n: array(NAN, n),
    "strided array": lambda n: np.arange(n, n + 8)[::2],
    "array of text": lambda n: np.array(["a", str(n)]),
    "array of objects": lambda n: np.array([Opaque(), n], dtype=object),
    "shape of objects": lambda n: np.array([None] * 6, dtype=object).reshape(n, -1),
    "rows with fields": structured,
    "row with fields": lambda n: structured(n)[0],
    "shape": lambda n: np.zeros((n + 1, 2)),
    "dtype": lambda n: np.zeros(1, f"f{2 ** (n % 3 + 1)}"),
    "length": lambda n: [0] * n,
    "list": lambda n: [Opaque(), n],
    "tuple": lambda n: (array(n), 3),
    "named tuple": lambda n: Pair(array(n), 3),
    "dict": lambda n: {"image": array(n), "path": "a", "handle": Opaque()},
    "keys": lambda n: {n: 1, Opaque(): 2},
    "ordered dict": lambda n: OrderedDict(a=n),
    "user dict": lambda n: UserDict(a=[n]),
    "set": lambda n: {"a", (n,)},
    "deque": lambda n: deque([n]),
    "dataclass": lambda n: Sample(array(n)),
    "opaque dataclass": lambda n: Sample(Opaque(), n),
    "nested": lambda n: {"a": [({"b": Sample([array(n)])},)]},
    "types": lambda n: int if n % 2 else float,
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_samples_of_every_kind_are_compared(make):
    """Equal samples are not random and unequal ones are, of every type castore has a rule for."""
    assert told(make(1), make(1)) is None
    assert told(make(1), make(2)) == DIFFER


def test_tensors_are_compared():
    """Tensors are compared by dtype, shape and values, NaN by its bits."""
    torch = pytest.importorskip("torch")
    assert told(torch.tensor([1, NAN]), torch.tensor([1, NAN])) is None
    assert told(torch.ones(2), torch.ones(2, requires_grad=True)) is None
    assert told({"a": torch.zeros(2)}, {"a": -torch.zeros(2)}) == DIFFER
    assert told(torch.zeros(2), torch.zeros(2, 1)) == DIFFER
    assert told(torch.zeros(2), torch.zeros(2).bfloat16()) == DIFFER
    assert told(torch.empty(2, device="meta"), torch.empty(3, device="meta")) is None


def test_images_are_compared():
    """Pillow's images are compared by mode, size, palette and pixels."""
    image = pytest.importorskip("PIL.Image")

    def picture(mode="RGB", size=(3, 2), colour=7):
        return image.new(mode, size, colour)

    assert told(picture(), picture()) is None
    assert told((picture(), 1), (picture(colour=8), 1)) == DIFFER
    assert told(picture("L"), picture("P")) == DIFFER
    assert told(picture(size=(2, 3)), picture()) == DIFFER
    palettes = [picture("P"), picture("P")]
    palettes[1].putpalette([1, 2, 3] * 8)
    assert told(*palettes) == DIFFER


def test_nan_is_compared_by_its_bits():
    """One NaN is itself; with another payload or sign it is another."""
    assert told(NAN, NAN) is None
    assert told(NAN, -NAN) == DIFFER
    assert told(array(NAN), -array(NAN)) == DIFFER


def test_types_are_compared():
    """Values that Python calls equal and that are of other types differ."""
    assert told(1, True) == DIFFER
    assert told(1, 1.0) == DIFFER
    assert told([1], (1,)) == DIFFER
    assert told(0.0, -0.0) == DIFFER


def test_generators_of_the_datasets_own_show_in_the_values():
    """A sample drawn from generators that nobody else sees differs from load to load."""
    rng = np.random.default_rng(1)
    assert moves_or_differs(lambda: rng.random(2)) == DIFFER
    assert moves_or_differs(lambda: os.urandom(8)) == DIFFER


def test_a_generator_of_torchs_that_the_dataset_owns_shows():
    """A sample drawn from an own torch.Generator differs from load to load."""
    torch = pytest.importorskip("torch")
    own = torch.Generator().manual_seed(1)
    assert moves_or_differs(lambda: torch.rand(2, generator=own)) == DIFFER


def test_a_buffer_that_each_load_overwrites_is_compared():
    """The first sample is read before the second load, which may write to the same memory."""
    buffer, numbers = np.zeros(2), itertools.count()

    def load():
        buffer[:] = next(numbers)
        return {"image": buffer}

    assert moves_or_differs(load) == DIFFER


def test_what_has_no_rule_is_not_held_against_a_sample():
    """Objects of unknown types are not compared; what stands beside them is."""
    assert told(Opaque(1), Opaque(2)) is None
    assert told([Opaque(1), 1], [Opaque(2), 1]) is None
    assert told([Opaque(1), 1], [Opaque(2), 2]) == DIFFER
    assert told({Opaque(): 1}, {Opaque(): 1}) is None


def test_nothing_is_consumed():
    """Generators and files within a sample are neither read nor closed."""
    numbers, file = iter(range(3)), io.BytesIO(b"abc")
    assert moves_or_differs(lambda: [numbers, file, (n for n in numbers)]) is None
    assert list(numbers) == [0, 1, 2]
    assert file.read() == b"abc"


def test_a_property_that_raises_is_not_held_against_a_sample():
    """A field that cannot be read makes its sample one that is not compared, and no crash."""

    @dataclasses.dataclass
    class Broken:
        label: int

    def broken():
        found = Broken(1)
        del found.label
        return [found, 2]

    assert moves_or_differs(broken) is None


def test_samples_within_themselves_are_compared():
    """A sample that contains itself, or one part many times, is compared; no depth is too much."""

    def cyclic(label):
        sample = [label]
        sample.append({"self": sample})
        return sample

    def shared(label):
        sample = [label]
        for _ in range(100):
            sample = [sample, sample]
        return sample

    def deep(label):
        sample = [label]
        for _ in range(100_000):
            sample = [sample]
        return sample

    for make in (cyclic, shared):
        assert told(make(1), make(1)) is None
        assert told(make(1), make(2)) == DIFFER
    assert told(deep(1), deep(2)) in {None, DIFFER}


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
samples = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(Sample, inner, st.integers())
    ),
    max_leaves=8,
)


@given(samples, samples)
def test_samples_differ_as_their_encodings_do(one, other):
    """Any two samples differ if castore encodes them as different, and a copy never does."""
    assert told(one, other) == (None if encode(one) == encode(other) else DIFFER)
    assert told(one, copy.deepcopy(one)) is None


@given(st.lists(st.sampled_from(list(MOVES)), max_size=5), st.booleans())
def test_generators_are_kept_whatever_is_drawn(draws, fails):
    """Whatever is drawn while generators are kept is drawn again after, also after an error."""
    before = states()
    with contextlib.suppress(ZeroDivisionError), generators_kept():
        for name in draws:
            MOVES[name]()
        if fails:
            raise ZeroDivisionError
    assert states() == before
