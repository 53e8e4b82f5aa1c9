"""Models that torch wrote: graphs of torch.fx, and scripts."""

from __future__ import annotations

import copy
import io
import json
import linecache
import pickle
import subprocess
import sys

import pytest

from castore.identity.members import uncompiled
from castore.identity.models.graphs import kind_named, spelled
from castore.identity.models.snapshot import hash_model, snapshot

torch = pytest.importorskip("torch")
nn = torch.nn
# Scripts are deprecated, and models in them are hashed all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not supported in Python 3.14"),
]


def scale(x: torch.Tensor):
    """Multiply by five."""
    return x * 5


class Net(nn.Module):
    """A network with everything a script may have."""

    def __init__(self, k=3, table=(1, 2), constant=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 2)
        self.k = k
        self.table = list(table)
        self.constant = torch.tensor(constant)

    def forward(self, x):
        """Compute something of all."""
        if self.training:
            x = x + 1
        return scale(self.inner(x)) * self.k + self.constant + self.table[0]


def distinct(*models):
    """Count the digests of `models`."""
    return len({hash_model(model) for model in models})


def script(**changes):
    """Compile a script of the network."""
    return torch.jit.script(Net(**changes))


def test_equal_scripts_agree_however_often_they_are_compiled():
    """A script, its copy, another compilation and its place in a model change nothing."""
    first = script()
    assert distinct(first, script(), script(), copy.deepcopy(first)) == 1
    assert distinct(nn.Sequential(first), nn.Sequential(script())) == 1
    assert snapshot(first).not_keyed == {}


def test_scripts_differ_by_attributes_weights_and_training():
    """What a script reads is seen: numbers, lists, tensors, weights, the flag."""
    changed = script()
    with torch.no_grad():
        changed.inner.weight[0, 0] += 1
    others = [script(k=4), script(table=(2, 2)), script(constant=2.0), script().eval(), changed]
    assert distinct(script(), *others) == 6


def test_scripts_differ_by_functions_they_call():
    """Two functions of one name make two scripts, although the code that calls them is equal."""

    def build(factor):
        space = {"torch": torch, "nn": nn, "__name__": "users_package"}
        source = f"def scale(x: torch.Tensor):\n    return x * {factor}\n"
        source += "class Calling(nn.Module):\n    def forward(self, x):\n        return scale(x)\n"
        return _from_source(source, space)

    assert distinct(build(2), build(2)) == 1
    assert distinct(build(2), build(3)) == 2


def _from_source(source, space):
    name = f"<script {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), space)
    return torch.jit.script(space["Calling"]())


def test_tensors_in_functions_that_scripts_call_count():
    """A traced function keeps tensors in its graph; who calls it computes with them."""

    def build(values):
        act = torch.jit.trace(lambda x: x + values, (torch.ones(1),))

        class Calling(nn.Module):
            def forward(self, x):
                return act(x)

        return torch.jit.script(Calling())

    many = torch.arange(40.0)
    assert distinct(build(many), build(many.clone())) == 1
    assert distinct(build(many), build(many.flip(0))) == 2


def test_weights_that_a_script_does_not_use_count():
    """All parameters and buffers are the state, of a script too."""

    def build(value):
        model = nn.ReLU()
        model.spare = nn.Parameter(torch.tensor(value))
        model.register_buffer("more", torch.tensor(2 * value))
        return torch.jit.script(model)

    assert distinct(build(1.0), build(1.0)) == 1
    assert distinct(build(1.0), build(2.0)) == 2


def test_traces_and_frozen_scripts_go_by_the_tensors_in_their_code():
    """Weights that became constants count bit for bit."""
    example = torch.ones(1, 2)
    traced = [torch.jit.trace(Net(constant=c).eval(), example) for c in (1.0, 1.0, 2.0)]
    frozen = [torch.jit.freeze(script(constant=c).eval()) for c in (1.0, 1.0, 2.0)]
    for models in (traced, frozen):
        assert hash_model(models[0]) == hash_model(models[1]) != hash_model(models[2])
    assert distinct(traced[0], frozen[0], script()) == 3
    assert "forward().c0" in snapshot(frozen[0]).tensors


def test_a_loaded_script_agrees_with_itself():
    """A script that was saved is the same each time it is loaded."""
    file = io.BytesIO()
    torch.jit.save(script(), file)
    loaded = []
    for _ in range(2):
        file.seek(0)
        loaded.append(torch.jit.load(file))
    assert distinct(*loaded) == 1


def test_running_a_script_leaves_its_digest():
    """What torch's compiler makes of a script when it runs is no part of it."""
    model = script().eval()
    before = hash_model(model)
    for _ in range(3):
        model(torch.ones(1, 2))
    assert hash_model(model) == before


def test_script_functions_in_attributes_go_by_their_graph():
    """A function that was compiled counts by what it computes."""

    def build(function):
        model = nn.ReLU()
        model.act = torch.jit.script(function)
        return model

    def double(x: torch.Tensor):
        return x * 2

    assert distinct(build(double), build(double)) == 1
    assert distinct(build(double), build(scale)) == 2


def test_no_graph_names_a_place_or_an_address():
    """Neither paths, nor positions, nor addresses, nor torch's counters are in a derivation."""
    models = [script(), script(), torch.jit.trace(Net(), torch.ones(1, 2)), _traced()]
    for model in models:
        written = json.dumps(snapshot(model).derivation)
        assert not any(text in written for text in ("0x", "test_graphs.py", ".py:", "mangle"))


def test_what_is_spelled_keeps_the_code():
    """Only positions, addresses and counters are taken out, not text that looks like code."""
    code = 'f(value="# a.py:1:2")() # /home/me/a.py:12:3\n'
    code += "  <object at 0x7f00ff>, T.___torch_mangle_12.N"
    assert spelled(code) == 'f(value="# a.py:1:2")()\n  <object>, T.N'


class Branch(nn.Module):
    """A network that calls a function of the user's."""

    def __init__(self, stride=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 3, stride=stride)
        self.held = torch.ones(1)

    def forward(self, x):
        """Compute something."""
        return torch.relu(self.conv(x)) + self.held


def _traced(**changes):
    return torch.fx.symbolic_trace(Branch(**changes))


def test_graphs_agree_with_their_copies_and_differ_by_code():
    """A graph counts by its code and the modules it calls."""
    graph = _traced()
    assert distinct(graph, _traced(), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))) == 1
    edited = _traced()
    node = next(node for node in edited.graph.nodes if node.target is torch.relu)
    node.target = torch.sigmoid
    edited.recompile()
    assert distinct(graph, edited, _traced(stride=2), Branch()) == 4
    assert snapshot(graph).not_keyed == {}


def test_a_graph_that_was_not_recompiled_is_what_runs():
    """Editing a graph changes the model when it is compiled again, not before."""
    graph = _traced()
    before = hash_model(graph)
    node = next(node for node in graph.graph.nodes if node.target is torch.relu)
    node.target = torch.sigmoid
    code = snapshot(graph).derivation["values"]["forward"]
    assert "relu" in code["graph"]
    assert hash_model(graph) == before
    graph.recompile()
    assert hash_model(graph) != before


def test_functions_of_the_users_in_a_graph_count_by_their_code():
    """A graph calls a function by its name; what that computes is part of the model."""

    def build(function):
        graph = torch.fx.Graph()
        graph.output(graph.call_function(function, (graph.placeholder("x"),)))
        return torch.fx.GraphModule(nn.Module(), graph)

    functions = [lambda x: x + 1, lambda x: x + 2]
    for function in functions:
        function.__name__ = function.__qualname__ = "act"
    assert distinct(*map(build, functions)) == 2


def test_feature_extractors_differ_by_their_nodes():
    """Two extractors of one network differ if they return other nodes, or name them otherwise."""
    pytest.importorskip("torchvision")
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    network = resnet18(num_classes=2).eval()

    def extract(nodes):
        return create_feature_extractor(network, nodes)

    assert distinct(extract(["layer1"]), extract(["layer1"])) == 1
    nodes = [["layer1"], ["layer1.0.add"], ["layer1", "layer2"], {"layer1": "out"}]
    assert distinct(network, *map(extract, nodes)) == 5


@pytest.mark.filterwarnings("ignore")
def test_exported_programs_agree_with_another_export():
    """A program of torch.export goes by its code and weights."""

    def export(size):
        torch.manual_seed(0)
        program = torch.export.export(nn.Linear(2, size).eval(), (torch.ones(3, 2),))
        return program.module()

    assert distinct(export(2), export(2)) == 1
    assert distinct(export(2), export(3)) == 2


def test_types_of_libraries_that_are_not_imported_match_nothing():
    """Looking for a type imports nothing."""
    assert kind_named("torch.nn", "Linear") is nn.Linear
    assert not isinstance(1, kind_named("no_such_library", "Thing"))
    code = (
        "import sys, torch; from castore.identity.models.snapshot import hash_model;"
        "hash_model(torch.nn.Linear(2, 2));"
        "print([name for name in ('torch._dynamo', 'torchvision', 'transformers')"
        " if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_functions_are_unwrapped_to_what_was_given():
    """A function or bound method comes back as it was, and others stay."""
    module = nn.ReLU()
    assert uncompiled(torch.compile(scale)) is scale
    assert uncompiled(torch.compile(module.forward)) == module.forward
    assert uncompiled(scale) is scale
    assert uncompiled(3) == 3
