"""A computation leaves the process as it found it, however it ends."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys

import numpy as np
import pytest

from castore.computing.guard import undisturbed


class Stop(Exception):  # noqa: N818
    """What a computation raises."""


@pytest.fixture(params=[False, True], ids=["returns", "raises"])
def guarded(request):
    """Give a function that runs another under guard, which may raise in the end."""

    def run(body, models=(), loader=None):
        with contextlib.suppress(Stop), undisturbed(models, loader):
            body()
            if request.param:
                raise Stop

    return run


def legacy_state():
    """State of numpy's global generator."""
    return str(np.random.get_state())  # noqa: NPY002


def test_python_and_numpy_generators_are_put_back(guarded):
    """What a computation draws from Python's and numpy's generators is drawn again after it."""
    before = (random.getstate(), legacy_state())

    def body():
        random.random()
        np.random.rand(3)  # noqa: NPY002
        assert random.getstate() != before[0]
        assert legacy_state() != before[1]

    guarded(body)
    assert (random.getstate(), legacy_state()) == before


def test_reseeding_is_undone(guarded):
    """A computation that seeds the generators does not seed them for what comes after."""
    before = (random.getstate(), legacy_state())

    def body():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002

    guarded(body)
    assert (random.getstate(), legacy_state()) == before


def test_torch_generators_are_put_back(guarded):
    """Torch's global generator, the loader's and its sampler's are as they were."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    own, samplers = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    sampler = data.RandomSampler(range(4), generator=samplers)
    loader = data.DataLoader(torch.arange(4), sampler=sampler, generator=own)
    generators = (torch.default_generator, own, samplers)
    before = [generator.get_state().tolist() for generator in generators]

    def body():
        torch.rand(3)
        list(loader)
        after = [generator.get_state().tolist() for generator in generators]
        assert all(a != b for a, b in zip(after, before, strict=True))

    guarded(body, loader=loader)
    assert [generator.get_state().tolist() for generator in generators] == before


def test_a_generator_that_is_shared_is_put_back_once(guarded):
    """A loader that shares its generator with its sampler, as shuffle makes it, is put back."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(torch.arange(4), shuffle=True, generator=generator)
    assert loader.sampler.generator is generator
    before = generator.get_state().tolist()
    guarded(lambda: list(loader), loader=loader)
    assert generator.get_state().tolist() == before


def test_the_generator_within_a_batch_sampler_is_put_back(guarded):
    """A generator that the loader's batch sampler draws from is the loader's own too."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    generator = torch.Generator().manual_seed(1)
    sampler = data.RandomSampler(range(4), generator=generator)
    loader = data.DataLoader(torch.arange(4), batch_sampler=data.BatchSampler(sampler, 2, False))
    before = generator.get_state().tolist()
    guarded(lambda: list(loader), loader=loader)
    assert generator.get_state().tolist() == before


def test_other_generators_of_a_loader_are_let_be(guarded):
    """A loader's attribute of that name that is no torch generator is not touched."""
    pytest.importorskip("torch")

    class Loader:
        generator = iter(range(3))

    guarded(lambda: next(Loader.generator), loader=Loader())
    assert next(Loader.generator) == 1


def test_training_flags_are_put_back_one_by_one(guarded):
    """Every module's training flag is as it was, also where they differed."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.ReLU()))
    second = torch.nn.ReLU().eval()
    model.train()
    model[1].eval()

    def body():
        model.eval()
        model[1].train()
        second.train()

    guarded(body, models=[model, second])
    assert [m.training for m in model.modules()] == [True, True, False, False]
    assert not second.training


def test_the_exception_passes_through():
    """What a computation raises is what its caller sees."""
    with pytest.raises(Stop), undisturbed((), None):
        raise Stop


@pytest.mark.skipif("torch" not in sys.modules, reason="needs torch")
def test_cuda_generators_are_put_back(guarded):
    """The generators of initialised CUDA devices are as they were."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.init()
    before = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    guarded(lambda: torch.rand(3, device="cuda"))
    assert [state.tolist() for state in torch.cuda.get_rng_state_all()] == before


def test_nothing_is_imported_to_guard_it():
    """A process without torch is guarded without importing it."""
    code = (
        "import sys, random\n"
        "from castore.computing.guard import undisturbed\n"
        "state = random.getstate()\n"
        "with undisturbed((), None): random.random()\n"
        "assert random.getstate() == state and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
