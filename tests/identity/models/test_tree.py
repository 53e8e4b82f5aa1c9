"""Names for the modules and tensors of a model."""

from __future__ import annotations

import weakref

import pytest

from castore.identity.models.tree import Tree, join, unwrap

torch = pytest.importorskip("torch")
nn = torch.nn


def tree(model):
    """Give names to all of `model`."""
    found = Tree()
    found.module(model, "")
    return found


def test_names_are_torchs_own():
    """Modules, parameters and buffers have the names that torch gives them, in its order."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    found = tree(model)
    assert [name for name, _ in found.modules] == [name for name, _ in model.named_modules()]
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert found.tensors.keys() == named.keys()
    assert all(found.tensors[name] is tensor for name, tensor in named.items())
    assert [member.module for member in found.members] == list(model.modules())


def test_what_is_there_as_none_is_noted():
    """A parameter, buffer or submodule that is None is told from one that is not there."""
    model = nn.BatchNorm1d(2, affine=False)
    model.register_buffer("mask", None)
    model.add_module("a", None)
    assert tree(model).members[0].none == ("weight", "bias", "mask", "a")


def test_the_order_is_the_models():
    """Modules and tensors are listed in the order in which the model has them."""
    model = nn.Module()
    model.add_module("b", nn.BatchNorm1d(1))
    model.add_module("a", nn.ReLU())
    found = tree(model)
    assert [name for name, _ in found.modules] == ["", "b", "a"]
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(found.tensors) == [f"b.{name}" for name in names]


def test_a_second_name_refers_to_the_first():
    """A module or tensor met again has the name it got first."""
    layer = nn.Linear(2, 2)
    found = tree(nn.Sequential(layer, layer))
    assert dict(found.modules) == {"": None, "0": None, "1": "0"}
    assert [member.name for member in found.members] == ["", "0"]
    assert found.module(layer, "elsewhere") == "0"
    assert found.tensor(layer.weight, "elsewhere") == "0.weight"


def test_tied_parameters_keep_all_their_names():
    """A parameter that two modules share is there under both names."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    found = tree(model)
    assert found.tensors["0.weight"] is found.tensors["1.weight"]
    assert found.tensor(model[0].weight, "elsewhere") == "0.weight"


def test_what_is_held_elsewhere_joins_under_its_path():
    """A module outside the tree is named with all within it; so is a tensor."""
    found = tree(nn.ReLU())
    assert found.module(nn.Sequential(nn.Linear(2, 2)), "held[0]") == "held[0]"
    assert found.tensors.keys() == {"held[0].0.weight", "held[0].0.bias"}
    first, second = torch.ones(1), torch.ones(1)
    assert found.tensor(first, "bank") == found.tensor(first, "other") == "bank"
    assert found.tensor(second, "bank") == "bank'"


def test_wrappers_have_no_name():
    """Parallel and compiled wrappers are taken off wherever they stand."""
    inner = nn.Linear(2, 2)
    wrapped = nn.DataParallel(nn.Sequential(nn.DataParallel(nn.DataParallel(inner))))
    found = tree(wrapped)
    assert [name for name, _ in found.modules] == ["", "0"]
    assert found.tensors.keys() == {"0.weight", "0.bias"}
    assert unwrap(nn.DataParallel(inner)) is inner
    assert unwrap(inner) is inner


def test_what_libraries_note_on_parameters_is_out_and_the_rest_is_listed():
    """An attribute of a parameter is named as not keyed, unless torch put it there."""
    layer = nn.Linear(2, 2)
    layer.weight._is_hf_initialized = True
    layer.bias.scale = 2
    assert tree(layer).not_keyed == {"bias.scale": "builtins.int"}


def test_weak_proxies_among_the_modules_are_listed():
    """A proxy that torch took for a module is named as not keyed, and not followed."""
    parent, child = nn.Linear(2, 2), nn.ReLU()
    child.parent = weakref.proxy(parent)
    assert "parent" in child._modules
    found = tree(child)
    assert list(found.not_keyed) == ["parent"]
    assert found.tensors == {}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_kinds_of_modules_are_told_apart():
    """Graphs, scripts and modules that speak for themselves are described in their own ways."""

    class Speaking(nn.Module):
        def __castore_fingerprint__(self):
            return 1

    parts = nn.ModuleList([nn.ReLU(), torch.jit.script(nn.ReLU()), Speaking()])
    parts.append(torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())))
    sorts = {member.name: member.sort for member in tree(parts).members}
    assert [sorts[name] for name in "0123"] == ["plain", "script", "said", "graph"]


def test_a_name_is_joined_to_what_holds_it():
    """The model itself has no name."""
    assert (join("", "a"), join("a", "b")) == ("a", "a.b")
