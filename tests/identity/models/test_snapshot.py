"""Models by what they compute: state and structure, wherever and however they run.

Run as a script, it prints the digest of the network of these tests: so one of them sees another
process, in which its classes belong to a script.
"""

from __future__ import annotations

import copy
import enum
import json
import os
import pickle
import subprocess
import sys

import pytest

from castore.canonical import identify
from castore.errors import FingerprintError
from castore.identity.members import is_module
from castore.identity.models.snapshot import hash_model, snapshot, training_flags, unwrap

torch = pytest.importorskip("torch")
nn = torch.nn


class Mode(enum.Enum):
    """An attribute of a module."""

    FAST = 1
    SLOW = 2


class Net(nn.Module):
    """A small network with everything a digest must see."""

    def __init__(self, stride=1, eps=1e-5, mode=Mode.FAST, scale=2.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=stride)
        self.norm = nn.BatchNorm2d(2, eps=eps)
        self.head = nn.Linear(2, 3)
        self.mode = mode
        self.scale = scale
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.arange(3.0), persistent=False)

    def forward(self, x):
        """Compute three numbers a picture."""
        return self.head(self.norm(self.conv(x)).mean((2, 3))) * self.scale


class Twin(Net):
    """The same, under another class."""


class Adapted(nn.Module):
    """A layer with low-rank adapters, of which one is active."""

    def __init__(self, active):
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.down = nn.ModuleDict({name: nn.Linear(4, 1) for name in "ab"})
        self.up = nn.ModuleDict({name: nn.Linear(1, 4) for name in "ab"})
        self.active = active

    def forward(self, x):
        """Add what the active adapter says."""
        return self.base(x) + self.up[self.active](self.down[self.active](x))


class Stateful(nn.Module):
    """A module whose state is no tensor."""

    def __init__(self, state):
        super().__init__()
        self._held = [state]

    def get_extra_state(self):
        """Return what it holds."""
        return self._held[0]

    def set_extra_state(self, state):
        """Hold it."""
        self._held[0] = state


def net(kind=Net, **kwargs):
    """Build a network with the same values every time, in eval mode."""
    torch.manual_seed(0)
    return kind(**kwargs).eval()


def edited(edit):
    """Build the network and change it."""
    model = net()
    with torch.no_grad():
        edit(model)
    return model


def test_equal_models_agree():
    """Two models built alike have one digest, 32 hex digits."""
    digest = hash_model(net())
    assert hash_model(net()) == digest
    assert len(bytes.fromhex(digest)) == 16


def built(kind, *args, **kwargs):
    """Build any module with the same values every time."""
    torch.manual_seed(0)
    return kind(*args, **kwargs)


PAIRS = {
    "stride": lambda v: built(nn.Conv2d, 1, 2, 3, stride=v + 1),
    "heads": lambda v: built(nn.MultiheadAttention, 4, v + 1),
    "pooling": lambda v: (nn.AvgPool2d, nn.MaxPool2d)[v](2),
    "eps": lambda v: nn.LayerNorm(4, eps=(1e-5, 1e-6)[v]),
    "active adapter": lambda v: built(Adapted, "ab"[v]),
    "weights": lambda v: nn.Linear(3, 2),
    "dropout": lambda v: nn.Dropout(v / 2),
    "activation of an encoder": lambda v: built(
        nn.TransformerEncoderLayer, 4, 1, 4, activation=("relu", "gelu")[v]
    ),
    "direction": lambda v: built(nn.LSTM, 4, 4, bidirectional=bool(v)),
}


@pytest.mark.parametrize("what", PAIRS)
def test_what_constructors_are_told_matters(what):
    """Modules that differ in one argument, which may leave no trace in the weights, differ."""
    assert hash_model(PAIRS[what](0)) != hash_model(PAIRS[what](1))


def test_copies_agree():
    """A deep copy, a pickle's copy and a fresh network that loads the state are the model."""
    model = edited(swap_rows)
    fresh = net()
    fresh.load_state_dict(model.state_dict())
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh, model.to("cpu")]
    assert {hash_model(other) for other in copies} == {hash_model(model)}


def test_a_forward_pass_in_eval_mode_leaves_the_digest():
    """Running a model changes it only where it learns: running statistics, in train mode."""
    model = net()
    images = torch.rand(2, 1, 5, 5)
    before = hash_model(model)
    model(images)
    assert hash_model(model) == before
    model.train()(images)
    assert hash_model(model.eval()) != before


@pytest.mark.parametrize("seed", ["0", "1"])
def test_other_processes_agree(seed):
    """A script that defines the same classes has the digest, under any seed of Python's hash."""
    ran = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        text=True,
    )
    assert json.loads(ran.stdout) == [hash_model(net()), hash_model(built(Adapted, "a"))]


def test_the_digest_is_that_of_the_derivation():
    """What a snapshot says is the preimage of its digest: tensors, modules, values, functions."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1).eval(), nn.Flatten(), nn.Flatten())
    model.append(model[0])
    found = snapshot(model)
    assert found.digest == hash_model(model) == identify("model", found.derivation)
    linear = "torch.nn.modules.linear.Linear"
    size = {"in_features": 2, "out_features": 1}
    flat = {"start_dim": 1, "end_dim": -1}
    tensors = found.derivation.pop("tensors")
    assert found.derivation == {
        "documents": [
            {"class": "torch.nn.modules.container.Sequential", "training": True},
            {"attributes": size, "class": linear, "training": True},
            {"attributes": size, "class": linear, "training": False},
            {
                "attributes": flat,
                "class": "torch.nn.modules.flatten.Flatten",
                "training": True,
            },
        ],
        "functions": {},
        "modules": [["", 0], ["0", 1], ["1", 2], ["2", 3], ["3", 3], ["4", "0"]],
        "values": {},
    }
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [tensor[:3] for tensor in tensors] == [
        [name, "float32", [1, 2] if name.endswith("weight") else [1]] for name in names
    ]
    assert all(len(bytes.fromhex(digest)) == 16 for *_, digest in tensors)


def test_what_changed_is_named():
    """Two snapshots tell which tensors, flags, attributes, hooks and classes differ."""
    before = snapshot(net())
    assert before.differences(snapshot(net())) == []
    for change, names in {
        flip_bit: ["head.weight"],
        nn.Module.train: [f"{name}training" for name in ("", "conv.", "head.", "norm.")],
        lambda m: m.norm.train(): ["norm.training"],
        lambda m: setattr(m, "scale", 3.0): ["scale"],
        lambda m: setattr(m, "helper", {"a": nn.ReLU()}): [
            "helper['a']",
            "helper['a'].class",
            "helper['a'].inplace",
            "helper['a'].training",
            "helper.keys()",
        ],
        lambda m: m.head.register_forward_hook(flip_bit): ["head.forward_hooks[0]", "head.hooks"],
        lambda m: delattr(m.head, "bias"): ["head.bias"],
    }.items():
        assert before.differences(snapshot(edited(change))) == sorted(names)
        assert snapshot(edited(change)).differences(before) == sorted(names)


def test_libraries_of_a_model_are_named():
    """The modules that define its classes are known, for their versions to be recorded."""
    libraries = snapshot(net()).libraries
    assert {"torch.nn.modules.conv", "torch.nn.modules.batchnorm"} <= libraries


def flip_bit(model):
    """Flip the lowest bit of one weight."""
    model.head.weight.view(torch.int32)[0, 0] ^= 1


def swap_rows(model):
    """Exchange two rows of a weight."""
    model.head.weight.copy_(model.head.weight.flip(0))


CHANGES = {
    "one bit of one weight": flip_bit,
    "the order of weights": swap_rows,
    "a zero's sign": lambda m: m.norm.bias[0].neg_(),
    "a buffer": lambda m: m.kept.add_(1),
    "a buffer that is not saved": lambda m: m.passing.add_(1),
    "running statistics": lambda m: m.norm.running_mean.add_(1),
    "one dtype": lambda m: m.head.half(),
    "all dtypes": lambda m: m.bfloat16(),
    "a shape": lambda m: setattr(m.head, "weight", nn.Parameter(m.head.weight.reshape(2, 3))),
    "training": lambda m: m.train(),
    "one submodule's training": lambda m: m.norm.train(),
    "a stride": lambda m: setattr(m.conv, "stride", (2, 2)),
    "an epsilon": lambda m: setattr(m.norm, "eps", 1e-4),
    "an enum": lambda m: setattr(m, "mode", Mode.SLOW),
    "a number's type": lambda m: setattr(m, "scale", 2),
    "a new attribute": lambda m: setattr(m, "pooling", "mean"),
    "an activation": lambda m: m.add_module("act", nn.ReLU()),
    "another activation": lambda m: m.add_module("act", nn.Sigmoid()),
    "a submodule taken away": lambda m: delattr(m, "head"),
    "a plain tensor": lambda m: setattr(m, "bank", torch.ones(2)),
    "another plain tensor": lambda m: setattr(m, "bank", torch.zeros(2)),
}


def test_every_change_changes_the_digest():
    """Each bit of state, dtype, shape, flag, attribute and class gives a digest of its own."""
    models = {name: edited(change) for name, change in CHANGES.items()}
    models["as it was"] = net()
    models["another class"] = net(Twin)
    digests = {}
    for name, model in models.items():
        digests.setdefault(hash_model(model), []).append(name)
    assert [names for names in digests.values() if len(names) > 1] == []


def test_constructor_parameters_matter():
    """What a constructor leaves in attributes alone is seen."""
    others = [net(stride=2), net(eps=1e-3), net(mode=Mode.SLOW), net(scale=3.0)]
    assert len({hash_model(model) for model in [net(), *others]}) == 5


def test_names_keep_equal_states_apart():
    """The same tensors under other names are another model."""
    one = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Identity()})
    two = nn.ModuleDict({"b": nn.ReLU(), "a": nn.Identity()})
    assert hash_model(one) != hash_model(two)


def test_the_borders_between_tensors_matter():
    """The same bytes cut into tensors in another way are another model."""
    one, two = nn.Module(), nn.Module()
    for module, cut in ((one, 1), (two, 2)):
        module.register_buffer("a", torch.zeros(cut))
        module.register_buffer("b", torch.zeros(3 - cut))
    assert hash_model(one) != hash_model(two)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool"])
def test_every_dtype_is_seen_bit_for_bit(dtype):
    """Tensors of every dtype count by their bits."""
    modules = [nn.Module(), nn.Module(), nn.Module()]
    for module, value in zip(modules, (0, 1, 1), strict=True):
        module.register_buffer("a", torch.full((2,), value).to(getattr(torch, dtype)))
    zero, one, same = map(hash_model, modules)
    assert zero != one
    assert one == same


def test_memory_layout_is_no_part_of_a_model():
    """Weights laid out channels last, or as a view into larger memory, are the same weights."""
    plain = nn.Conv2d(2, 3, 3).eval()
    moved = nn.Conv2d(2, 3, 3).eval()
    moved.load_state_dict(plain.state_dict())
    moved.to(memory_format=torch.channels_last)
    assert hash_model(moved) == hash_model(plain)


def test_requiring_gradients_is_no_part_of_a_model():
    """A frozen model computes what it computed before."""
    assert hash_model(net().requires_grad_(requires_grad=False)) == hash_model(net())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_is_no_part_of_a_model():
    """A model on the GPU has the digest it had on the CPU."""
    assert hash_model(net().cuda()) == hash_model(net())


def test_tied_weights_are_found_under_both_names():
    """A tied model agrees with one of equal values, and differs once one of the two is changed."""

    def build(*, tied):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        with torch.no_grad():
            for layer in model:
                layer.weight.copy_(torch.arange(4.0).reshape(2, 2))
        if tied:
            model[1].weight = model[0].weight
        return model

    tied, free = build(tied=True), build(tied=False)
    assert hash_model(tied) == hash_model(free)
    with torch.no_grad():
        free[1].weight.add_(1)
    assert hash_model(tied) != hash_model(free)


def test_extra_state_is_state():
    """What a module saves beside its tensors counts, and is refused where it has no rule."""
    assert hash_model(Stateful({"n": 1})) == hash_model(Stateful({"n": 1}))
    assert hash_model(Stateful({"n": 1})) != hash_model(Stateful({"n": 2}))
    with pytest.raises(FingerprintError, match="the extra state of the model"):
        hash_model(Stateful(object()))
    with pytest.raises(FingerprintError, match="the extra state of 0"):
        hash_model(nn.Sequential(Stateful(object())))


def test_data_parallel_agrees_with_plain():
    """A model wrapped for many GPUs is the model."""
    assert hash_model(nn.DataParallel(net())) == hash_model(net())


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel_agrees_with_plain(tmp_path):
    """A model wrapped for many processes is the model."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(net())
        assert hash_model(wrapped) == hash_model(net())
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it is imported
def test_compiled_agrees_with_plain():
    """A model that torch is to compile is the model, alone and within other wrappers."""
    compiled = torch.compile(net())
    assert unwrap(compiled) is not compiled
    assert hash_model(compiled) == hash_model(net())
    assert hash_model(nn.DataParallel(compiled)) == hash_model(net())
    in_place = net()
    in_place.compile()
    assert hash_model(in_place) == hash_model(net())


def test_hashing_leaves_a_model_as_it_was():
    """A model keeps its values, training flags and gradients, and no generator moves."""
    model = net()
    model.norm.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [flag for _, flag in training_flags(model)]
    state = torch.get_rng_state()
    hash_model(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [flag for _, flag in training_flags(model)] == flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_models_without_values_are_refused():
    """Parameters on the meta device are a FingerprintError that names one and the way out."""
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(FingerprintError, match=r"parameter 'weight' .*pass model=<digest>"):
        hash_model(model)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_models_whose_shapes_are_not_known_yet_are_refused():
    """Lazy parameters that no batch has passed through are a FingerprintError that names one."""
    with pytest.raises(FingerprintError, match=r"parameter '(weight|bias)'"):
        hash_model(nn.LazyLinear(3))


@pytest.mark.parametrize("value", [None, "resnet50", torch.zeros(2), lambda x: x, nn.Linear])
def test_what_is_no_module_is_refused(value):
    """Anything else than a module is a FingerprintError that says what to pass."""
    assert not is_module(value)
    with pytest.raises(FingerprintError, match="no torch module: pass a module, or model="):
        hash_model(value)


def test_attributes_without_a_rule_are_listed():
    """An attribute that cannot be encoded is named by its path, not dropped unsaid."""
    model = net()
    model.helper = object()
    model.conv.helper = object()
    expected = {"conv.helper": "builtins.object", "helper": "builtins.object"}
    assert snapshot(model).not_keyed == expected
    assert snapshot(net()).not_keyed == {}


def test_training_flags_name_every_module():
    """The flags are those of the model and all within it."""
    model = net()
    model.conv.train()
    flags = training_flags(model)
    assert [module for module, _ in flags] == list(model.modules())
    assert [module for module, training in flags if training] == [model.conv]


if __name__ == "__main__":
    print(json.dumps([hash_model(net()), hash_model(built(Adapted, "a"))]))  # noqa: T201
