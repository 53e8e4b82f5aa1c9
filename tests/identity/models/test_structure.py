"""What a model is beside its tensors: classes, attributes, hooks, code."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import io
import linecache
import pickle
import socket
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from castore.errors import FingerprintError
from castore.identity.models.snapshot import hash_model, snapshot
from castore.identity.protocols import _registered, register_fingerprint

torch = pytest.importorskip("torch")
nn = torch.nn
SCALE = 2


class Holder(nn.Module):
    """A module that holds what it is given."""

    def __init__(self, **held):
        super().__init__()
        vars(self).update(held)

    def forward(self, x):
        """Return its input."""
        return x


def distinct(*models):
    """Count the digests of `models`."""
    return len({hash_model(model) for model in models})


def values(model):
    """Return what was found in the attributes of `model`, by path."""
    return snapshot(model).derivation["values"]


def linear():
    """Build a layer with the same weights every time."""
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def defined(body, name="Net", made="torch.nn.Linear(2, 2)"):
    """Make an object of a class with one name, whose `forward` computes `body`."""
    source = (
        f"import torch\nOFFSET = 1\ndef helper(x):\n    return x * 3\n"
        f"class {name}(torch.nn.Module):\n    factor = 2\n"
        f"    def __init__(self):\n        super().__init__()\n        self.inner = {made}\n"
        f"    def extra_repr(self):\n        return {body!r}\n"
        f"    def forward(self, x):\n        return {body}\n"
    )
    file = f"<net {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = {"__name__": "users_package"}
    exec(compile(source, file, "exec"), space)
    torch.manual_seed(0)
    return space[name]()


def test_two_classes_of_one_name_differ_by_what_they_do():
    """A class of the user's counts by its code and what that reads, not by how it is made."""
    assert distinct(defined("self.inner(x)"), defined("self.inner(x)")) == 1
    bodies = ["self.inner(x)", "self.inner(x) + 1", "self.factor", "helper(x)", "x + OFFSET"]
    assert distinct(*map(defined, bodies)) == len(bodies)
    assert distinct(defined("x"), defined("x", made="torch.nn.Linear(2, 2, True)")) == 1


def test_within_a_model_classes_of_one_name_are_told_apart():
    """Which of two classes of one name a submodule has counts, wherever it stands."""
    first, second = defined("x"), defined("x + 1")
    models = [(first, second, first), (first, second, second), (second, first, first)]
    assert distinct(*(nn.Sequential(*map(copy.deepcopy, parts)) for parts in models)) == 3


def test_a_name_alone_tells_classes_of_libraries():
    """Pooling by the mean and by the maximum differ although nothing else does."""
    assert distinct(nn.AvgPool2d(2), nn.MaxPool2d(2), nn.LPPool2d(2, 2)) == 3


def test_a_method_put_on_a_librarys_class_counts(monkeypatch):
    """Replacing torch's own forward is seen in every model that uses it."""
    before = hash_model(nn.Sequential(nn.ReLU()))
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    patched = hash_model(nn.Sequential(nn.ReLU()))
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: -x)
    assert len({before, patched, hash_model(nn.Sequential(nn.ReLU()))}) == 3


def test_the_order_of_submodules_counts():
    """A sequence of modules of the same names runs in another order."""
    names = [("a", nn.ReLU()), ("b", nn.Tanh())]
    forth, back = (collections.OrderedDict(order) for order in (names, names[::-1]))
    assert distinct(nn.Sequential(forth), nn.Sequential(back)) == 2
    held = [nn.ParameterDict(), nn.ParameterDict()]
    for parameters, order in zip(held, ("ab", "ba"), strict=True):
        for name in order:
            parameters[name] = torch.ones(1)
    assert distinct(*held) == 2


def test_what_is_absent_is_told_from_what_is_not_there():
    """A bias of None is another model than no bias at all."""
    without, none = Holder(), Holder()
    none.register_parameter("bias", None)
    assert distinct(without, none) == 2


STATES = weakref.WeakKeyDictionary()


class Remembered(nn.Module):
    """A module whose extra state is kept elsewhere."""

    def __init__(self, state):
        super().__init__()
        STATES[self] = state

    def get_extra_state(self):
        """Return it."""
        return STATES[self]


def test_modules_alike_but_for_one_thing_are_told_apart_within_a_model():
    """What tells a module from an earlier one of its class counts, wherever it is kept."""

    def changed(change):
        model = nn.Sequential(*(Holder(a=1) for _ in range(2)))
        change(model[1])
        return model

    changes = [
        lambda m: None,
        lambda m: m.eval(),
        lambda m: setattr(m, "a", 2),
        lambda m: setattr(m, "a", True),
        lambda m: setattr(m, "a", 1.0),
        lambda m: setattr(m, "a", np.int64(1)),
        lambda m: setattr(m, "a", (np.int64(1),)),
        lambda m: setattr(m, "b", 1),
        lambda m: setattr(m, "forward", torch.relu),
        lambda m: m.register_parameter("p", None),
        lambda m: m.register_forward_hook(double),
        lambda m: m.register_forward_pre_hook(double),
    ]
    assert distinct(*map(changed, changes)) == len(changes)
    states = [nn.Sequential(Remembered(1), Remembered(other)) for other in (1, 2)]
    assert distinct(*states) == 2


PLAIN = [None, True, 1, 1.0, "1", (1,), [1], {1}, {"a": 1}, b"1", (True,), (1.0,), -0.0, 0.0]


def test_plain_attributes_count_by_value_and_type():
    """Values that Python tells apart make models that differ; equal ones do not."""
    models = [Holder(value=value) for value in PLAIN]
    assert distinct(*models) == len(PLAIN)
    assert distinct(*models, *copy.deepcopy(models)) == len(PLAIN)


class Config:
    """A helper object."""

    def __init__(self, **values):
        vars(self).update(values)


class Options(Config):
    """A helper object of another class."""


@dataclasses.dataclass
class Settings:
    """A helper object that compares by its fields."""

    rate: int = 1


def settings(**extra):
    """Make settings with attributes that are no fields."""
    found = Settings()
    vars(found).update(extra)
    return found


def test_helper_objects_go_by_class_and_attributes():
    """Objects of the user's count by what they hold, however deep."""
    objects = [
        Config(a=1),
        Config(a=2),
        Options(a=1),
        Config(a=Config(a=1)),
        Config(a=[Config(a=1), 2]),
        Config(a=np.ones(3)),
        settings(),
        settings(rate=2),
        settings(more=1),
        settings(more=2),
        collections.deque,
    ]
    models = [Holder(held=held) for held in objects]
    assert distinct(*models) == len(objects)
    assert distinct(*models, *copy.deepcopy(models)) == len(objects)
    assert all(not snapshot(model).not_keyed for model in models)


def make(scale):
    """Make a function that captures `scale`."""
    return lambda x: x * scale


def test_functions_in_attributes_go_by_code_and_captured_values():
    """Functions of the user's count by what they say, those of libraries by name."""
    functions = [
        torch.relu,
        nn.functional.gelu,
        nn.functional.silu,
        make(1),
        make(2),
        lambda x: x + 1,
        functools.partial(torch.clamp, min=0),
        functools.partial(torch.clamp, min=1),
        functools.partial(nn.LayerNorm, eps=1),
    ]
    assert distinct(*(Holder(act=function) for function in functions)) == len(functions)
    assert distinct(Holder(act=make(1)), Holder(act=make(1))) == 1


def test_a_global_that_a_method_reads_counts(monkeypatch):
    """What a class loads from its module is part of the model."""

    class Scaled(nn.Module):
        def forward(self, x):
            return x * SCALE

    before = hash_model(Scaled())
    monkeypatch.setitem(globals(), "SCALE", 3)
    assert hash_model(Scaled()) != before


def test_modules_held_elsewhere_go_by_name_within_the_tree():
    """A module in a list is named if it is a submodule, so that the two are tied."""
    model = Holder()
    model.one, model.two = linear(), linear()
    model.used = [model.one]
    other = copy.deepcopy(model)
    assert distinct(model, other) == 1
    assert values(model)["used[0]"] == {"module": "one"}
    other.used = [other.two]
    assert distinct(model, other) == 2


def test_modules_held_elsewhere_are_described_whole():
    """A module outside the tree counts by its structure and its weights."""
    teachers = [linear(), linear(), nn.Linear(2, 2), nn.Linear(2, 2).eval(), nn.Tanh()]
    assert distinct(*(Holder(teacher=[teacher]) for teacher in teachers)) == 4
    assert distinct(*(Holder(call=lambda x, t=t: t(x)) for t in teachers)) == 4
    found = snapshot(Holder(teacher={"net": (teachers[0],)}))
    assert "teacher['net'][0].weight" in found.tensors


def test_tensors_held_elsewhere_are_part_of_the_state():
    """Tensors in attributes count bit for bit; a parameter's other name is only a name."""
    banks = [torch.zeros(2), torch.ones(2), torch.tensor([0.0, -0.0]), torch.zeros(2).double()]
    for hold in (lambda t: t, lambda t: [t], lambda t: {"a": t}, lambda t: [[t]], Config(a=1)):
        if callable(hold):
            assert distinct(*(Holder(bank=hold(bank)) for bank in banks)) == 4
    model = Holder()
    model.layer = linear()
    model.same = [model.layer.weight]
    assert values(model)["same[0]"] == {"tensor": "layer.weight"}
    assert len(snapshot(model).tensors) == 2


def test_a_tensor_hidden_behind_a_parameters_name_counts():
    """An attribute that has the name of a parameter is described beside it."""
    models = [linear(), linear()]
    vars(models[0])["weight"] = torch.zeros(2)
    vars(models[1])["weight"] = torch.ones(2)
    assert distinct(*models, linear()) == 3


def test_a_submodule_used_twice_is_told_from_two():
    """A layer that stands in two places is described once, and differs from a copy of it."""
    layer = linear()
    twice, two = nn.Sequential(layer, layer), nn.Sequential(layer, copy.deepcopy(layer))
    assert distinct(twice, two) == 2
    assert distinct(twice, copy.deepcopy(twice), pickle.loads(pickle.dumps(twice))) == 1


def test_cycles_end():
    """Modules, lists and objects that contain themselves have a digest."""

    def build():
        model = Holder()
        model.add_module("me", model)
        vars(model)["ring"] = ring = [1, model]
        ring.append(ring)
        vars(model)["config"] = config = Config()
        config.itself = config
        vars(model)["call"] = lambda: model
        return model

    assert distinct(build(), build()) == 1
    assert snapshot(build()).not_keyed == {}


class WithoutClass:
    """An object that fails where it is asked for its class."""

    @property
    def __class__(self):
        """Fail."""
        raise OSError("no class")


class Failing:
    """An object all of whose attributes fail."""

    __slots__ = ("a",)

    def __getattribute__(self, name):
        """Fail."""
        raise OSError(name)


NO_RULE = {
    "a socket": socket.socket,
    "an object whose class cannot be had": WithoutClass,
    "an object whose attributes cannot be had": Failing,
    "a plain object": object,
    "a generator": lambda: (i for i in range(3)),
    "a generator of torch": torch.Generator,
    "a thread": threading.Thread,
    "a file": lambda: Path(__file__).open(),  # noqa: SIM115  the test closes it
    "a weak reference": lambda: weakref.ref(linear),
}


@pytest.mark.parametrize("what", NO_RULE)
def test_what_has_no_rule_is_listed_by_its_path(what):
    """An attribute that castore cannot describe is named as not keyed, and nothing fails."""
    held = [NO_RULE[what](), NO_RULE[what]()]
    model = nn.Sequential(Holder(odd=held[0], inside=[Config(odd=held[1])], plain=1))
    found = snapshot(model)
    again = snapshot(model)
    for item in held:
        if type(item) in (io.TextIOWrapper, socket.socket):
            item.close()
    assert "0.odd" in found.not_keyed
    assert any(path.startswith("0.inside") for path in found.not_keyed)
    assert found.digest == again.digest


def test_a_class_variable_that_a_getter_hides_is_not_read():
    """Properties are code: hashing a model runs none of them."""

    class Lazy(nn.Module):
        @property
        def weights(self):
            raise AssertionError

    assert snapshot(Lazy()).not_keyed == {}


def test_weak_references_are_not_followed():
    """A model that knows its parent by a weak proxy is described without it."""
    parent = linear()
    child = Holder()
    child.parent = weakref.proxy(parent)
    assert "parent" in snapshot(child).not_keyed


def test_what_is_nested_too_deep_is_refused_by_name():
    """A list of lists without end in sight is a FingerprintError that names the attribute."""
    nested = held = [object()]
    for _ in range(100_000):
        held = [held]
    with pytest.raises(FingerprintError, match=r"0\.deep holds something nested too deep"):
        hash_model(nn.Sequential(Holder(deep=held)))
    while held is not nested:  # taken apart by hand: Python's own way may be too deep for it
        held = held.pop()


def test_deep_models_are_no_trouble():
    """Modules a thousand deep have a digest."""
    model = linear()
    for _ in range(1000):
        model = nn.Sequential(model)
    assert len(hash_model(model)) == 32


def hooked(register, *hooks, **flags):
    """Build a layer and register hooks with one of its methods."""
    model = linear()
    for hook in hooks:
        getattr(model, register)(hook, **flags)
    return model


def double(_module, _args, out=None):
    """Double what passes."""
    return None if out is None else out * 2


def triple(_module, _args, out=None):
    """Triple what passes."""
    return None if out is None else out * 3


def test_hooks_count_by_what_they_do_in_their_order():
    """A hook's code, captured values, kind, flags and place count; its handle's number does not."""
    forward, before = "register_forward_hook", "register_forward_pre_hook"
    models = [
        linear(),
        hooked(forward, double),
        hooked(forward, triple),
        hooked(forward, double, triple),
        hooked(forward, triple, double),
        hooked(forward, double, double),
        hooked(before, double),
        hooked(forward, double, with_kwargs=True),
        hooked(before, double, with_kwargs=True),
        hooked(forward, double, always_call=True),
        hooked(forward, lambda *_, k=1: k),
        hooked(forward, lambda *_, k=2: k),
        hooked(forward, Holder(k=1)),
        hooked(forward, Holder(k=2)),
    ]
    assert distinct(*models) == len(models)
    assert distinct(hooked(forward, double), hooked(forward, double)) == 1


def test_a_hook_taken_away_leaves_no_trace():
    """A model that had a hook is the model it was."""
    model = linear()
    model.register_forward_hook(double).remove()
    assert hash_model(model) == hash_model(linear())


def test_hooks_that_act_on_gradients_do_not_count():
    """What runs in the backward pass alone changes no feature."""
    model = linear()
    model.register_full_backward_hook(lambda *_: None)
    assert hash_model(model) == hash_model(linear())


def test_hooks_on_every_module_count():
    """A hook that torch calls for all modules is part of each model while it is there."""
    before = hash_model(linear())
    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        assert hash_model(linear()) != before
    finally:
        handle.remove()
    assert hash_model(linear()) == before


def test_forward_set_on_the_instance_counts():
    """Another forward than the class's is seen; the class's own, bound or compiled, is none."""
    models = [linear() for _ in range(5)]
    models[1].forward = nn.functional.relu
    models[2].forward = make(1)
    models[3].forward = make(2)
    models[4].forward = functools.partial(nn.Linear.forward, models[4])
    assert distinct(*models) == 5
    models[1].forward = models[1].forward.__class__ and nn.Linear.forward.__get__(models[1])
    assert distinct(*models[:2]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it is imported
def test_compiled_functions_and_methods_are_what_was_compiled():
    """torch.compile changes nothing, of a forward, an attribute, a method or a submodule."""
    compiled = linear()
    compiled.forward = torch.compile(compiled.forward)
    assert hash_model(compiled) == hash_model(linear())
    assert distinct(Holder(act=torch.compile(double)), Holder(act=double)) == 1
    assert distinct(nn.Sequential(torch.compile(linear())), nn.Sequential(linear())) == 1
    first, second = defined("x"), defined("x")
    type(second).forward = torch.compile(type(second).forward)
    assert distinct(first, second) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_running_a_compiled_model_leaves_its_digest():
    """What the compiler notes on modules and parameters is neither keyed nor listed."""
    model = linear()
    torch.compile(model, backend="eager")(torch.ones(1, 2))
    assert hash_model(model) == hash_model(linear())
    assert snapshot(model).not_keyed == {}
    torch.compiler.reset()


NORMS = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
}
OLD_WEIGHT_NORM = "ignore:`torch.nn.utils.weight_norm` is deprecated"


@pytest.mark.filterwarnings(OLD_WEIGHT_NORM)
@pytest.mark.parametrize("name", [*NORMS, "old weight_norm"])
def test_parametrised_weights_are_seen_and_stay(name):
    """A norm on a weight is another model, and running it in eval mode leaves the digest."""
    norm = {**NORMS, "old weight_norm": nn.utils.weight_norm}[name]

    def build():
        torch.manual_seed(0)
        return norm(nn.Linear(2, 2)).eval()

    model = build()
    before = hash_model(model)
    with torch.no_grad():
        model(torch.ones(1, 2))
    assert hash_model(model) == hash_model(build()) == before
    assert before != hash_model(linear().eval())
    assert snapshot(model).not_keyed == {}


@pytest.mark.filterwarnings(OLD_WEIGHT_NORM)
def test_parametrisations_of_another_kind_differ():
    """Which parametrisation a weight has counts, and so do its options."""

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    class Skew(nn.Module):
        def forward(self, x):
            return x.triu(1) - x.triu(1).transpose(-1, -2)

    parametrize = nn.utils.parametrize.register_parametrization
    made = [linear() for _ in range(6)]
    parametrize(made[0], "weight", Symmetric())
    parametrize(made[1], "weight", Skew())
    nn.utils.spectral_norm(made[2])
    nn.utils.spectral_norm(made[3], eps=1e-6)
    nn.utils.weight_norm(made[4])
    nn.utils.weight_norm(made[5], dim=1)
    assert distinct(*made) == 6


def test_pruned_weights_are_seen_and_stay():
    """A pruning mask is part of the state, the product that is kept with it is not."""
    from torch.nn.utils import prune

    model = prune.l1_unstructured(linear(), "weight", amount=1)
    before = hash_model(model)
    model(torch.ones(1, 2))
    assert hash_model(model) == before
    model.weight_mask.zero_()
    assert hash_model(model) != before


class Speaking(nn.Linear):
    """A module that says what identifies it."""

    def __castore_fingerprint__(self):
        """Say it."""
        return "v1"


def test_a_module_that_says_its_own_fingerprint_goes_by_that(monkeypatch):
    """What a type says, or was registered for it, stands for the module and all within it."""
    assert distinct(Speaking(2, 2), Speaking(3, 3), Speaking(2, 2).eval()) == 1
    assert distinct(nn.Sequential(Speaking(2, 2)), nn.Sequential(Speaking(3, 3))) == 1
    assert distinct(Speaking(2, 2), linear()) == 2
    monkeypatch.setattr(Speaking, "__castore_fingerprint__", lambda _: "v2")
    second = hash_model(Speaking(2, 2))
    monkeypatch.setattr(Speaking, "__castore_fingerprint__", lambda _: "v1")
    assert second != hash_model(Speaking(2, 2))
    register_fingerprint(nn.Bilinear, lambda module: module.out_features)
    try:
        assert distinct(nn.Bilinear(2, 2, 3), nn.Bilinear(1, 1, 3), nn.Bilinear(1, 1, 4)) == 2
    finally:
        del _registered[nn.Bilinear]
    monkeypatch.setattr(Speaking, "__castore_fingerprint__", lambda _: object())
    with pytest.raises(FingerprintError, match="the fingerprint of 0"):
        hash_model(nn.Sequential(Speaking(2, 2)))


class Saving(nn.Module):
    """A module whose extra state cannot be had."""

    def get_extra_state(self):
        """Fail."""
        raise OSError("gone")


def test_extra_state_that_cannot_be_had_is_refused():
    """What fails while a module says its extra state is a FingerprintError that names it."""
    with pytest.raises(FingerprintError, match="the extra state of 0 cannot be had: OSError: gone"):
        hash_model(nn.Sequential(Saving()))


def test_attributes_in_slots_count():
    """A module may keep attributes in slots."""

    class Slotted(nn.Module):
        __slots__ = ("size",)

        def __init__(self, size):
            super().__init__()
            self.size = size

    assert distinct(Slotted(1), Slotted(2), Slotted(1)) == 2


def test_devices_do_not_count():
    """A device that a module keeps is where it runs, not what it computes."""
    devices = [torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")]
    assert distinct(*(Holder(device=device) for device in devices)) == 1


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_models_are_refused(tmp_path):
    """A model of which every process has a part is a FingerprintError that says what to pass."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        wrapped = FullyShardedDataParallel(linear(), device_id=torch.device("cpu"))
        for model in (wrapped, nn.Sequential(wrapped), fully_shard(linear(), mesh=mesh)):
            with pytest.raises(FingerprintError, match=r"is sharded.*model=castore\.file\(path\)"):
                hash_model(model)
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_quantised_modules_go_by_their_packed_weights():
    """Packed integers count: equal ones agree, of other weights they differ."""
    quantise = pytest.importorskip("torch.ao.quantization").quantize_dynamic

    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
        return quantise(model, {nn.Linear, nn.LSTM}, dtype=torch.qint8)

    assert distinct(build(0), build(0), copy.deepcopy(build(0))) == 1
    assert distinct(build(0), build(1)) == 2
    assert snapshot(build(0)).not_keyed == {}


def test_recurrent_networks_agree_with_their_copies():
    """The flat list of weights that torch keeps beside them is only a list of names."""
    torch.manual_seed(0)
    model = nn.LSTM(2, 2, bidirectional=True)
    moved = copy.deepcopy(model).double().float()
    assert distinct(model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), moved) == 1
    assert snapshot(model).not_keyed == {}
