"""What a function uses beside its argument is found, wherever it is held."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import functools
import importlib
import itertools
import logging
import operator
import shutil
import sys
import textwrap
import threading
import types
from typing import NamedTuple

import numpy as np
import pytest

from castore.canonical import dumps
from castore.errors import FingerprintError
from castore.identity.captures import capture
from castore.identity.code import digest_code
from castore.identity.describe import describe
from castore.identity.values import Encoder


def encode(value):
    """Encode a value as a walk through this module does: its types go without their module."""
    return Encoder(lambda kind: kind.__qualname__).encode(value, "value")


LAYER = 3
BANK = [np.arange(3)]
NET: list = []
log = logging.getLogger("test")


def plain(loader):
    """Use nothing."""
    return loader


def helper(x):
    """Use a global of its own."""
    return x * LAYER


def uses_helper(loader):
    """Use a function of the same package."""
    return [helper(x) for x in loader]


def uses_globals(loader):
    """Use globals at every depth."""
    log.info("start")
    return list(map(lambda y: y * LAYER, loader)), [b for b in BANK]  # noqa: C416, C417


def uses_recursion(loader):
    """Call itself."""
    return uses_recursion(loader[1:]) if loader else 0


class Extractor:
    """An object with a method to extract, and one to call."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def run(self, loader):
        """Extract."""
        return loader

    def __call__(self, loader):
        """Extract."""
        return loader

    @classmethod
    def named(cls, loader):
        """Extract."""
        return loader


class Store:
    """What says of itself that it is no part of a function."""

    castore_infrastructure = True

    def __init__(self, url):
        self.url = url


class Slotted:
    """An object without a dict."""

    __slots__ = ("layer",)


def same(one, two) -> bool:
    """Tell whether nothing that was found about two functions tells them apart."""
    a, b = capture(one), capture(two)
    return dumps([a.values, a.functions, a.not_keyed]) == dumps(
        [b.values, b.functions, b.not_keyed]
    )


def enclosing(k):
    """Make a function with `k` in its closure."""

    def fn(loader):
        return loader, k

    return fn


def defaulted(k):
    """Make a function with `k` among its defaults."""

    def fn(loader, first=0, k=k, *, only=k):
        return loader, first, k, only

    return fn


def two_arguments(a, b, loader=None):
    """Use two values and a loader."""
    return a, b, loader


def decorated(k):
    """Make a function in a decorator that holds it in its closure."""
    inner = enclosing(k)

    @functools.wraps(inner)
    def outer(loader):
        return inner(loader)

    return outer


PLACES = {
    "closure": (enclosing, "fn.k"),
    "default": (defaulted, "fn.k"),
    "keyword default": (defaulted, "fn.only"),
    "partial keyword": (lambda k: functools.partial(two_arguments, b=k), "fn.b"),
    "partial argument": (lambda k: functools.partial(two_arguments, k), "fn.args[0]"),
    "partial of a partial": (
        lambda k: functools.partial(functools.partial(two_arguments, 0), b=k),
        "fn.b",
    ),
    "partial in a closure": (
        lambda k: enclosing(functools.partial(two_arguments, b=k)),
        "fn.k.b",
    ),
    "bound self": (lambda k: Extractor(k=k).run, "self.k"),
    "callable object": (lambda k: Extractor(k=k), "fn.k"),
    "attribute of an attribute": (lambda k: Extractor(inner=Extractor(k=k)).run, "self.inner.k"),
    "dict": (lambda k: enclosing({"k": k}), "fn.k['k']"),
    "nested function": (lambda k: enclosing(enclosing(k)), "fn.k.k"),
    "cached": (lambda k: functools.lru_cache(enclosing(k)), "fn.__wrapped__.k"),
    "decorated": (decorated, "fn.__wrapped__.k"),
    "wrapped": (
        lambda k: functools.wraps(enclosing(k))(enclosing(0)),
        "fn.__wrapped__.k",
    ),
}


@pytest.mark.parametrize(("build", "path"), PLACES.values(), ids=PLACES)
def test_values_are_found_where_they_are_held(build, path):
    """A value is keyed in whichever place a function holds it, and equal values agree."""
    assert same(build(1), build(1))
    assert not same(build(1), build(2))
    assert not same(build(1), build(1.0))
    found = capture(build(1))
    assert found.not_keyed == {}
    if path in found.values:
        assert found.values[path] == 1
    else:
        outer = path.rpartition("[")[0]
        assert found.values[outer] == encode({"k": 1})


@pytest.mark.parametrize("build", [place for place, _ in PLACES.values()], ids=PLACES)
def test_models_are_found_where_they_are_held(build):
    """A torch module is a model in whichever place a function holds it, and no value."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1, 1)
    found = capture(build(model))
    assert any(module is model for module in found.models.values())
    assert found.not_keyed == {}


@pytest.mark.parametrize("build", [place for place, _ in PLACES.values()], ids=PLACES)
def test_what_has_no_rule_is_listed_where_it_is_held(build):
    """What cannot be encoded is listed with its type, in whichever place it is held."""
    found = capture(build(iter([])))
    assert set(found.not_keyed.values()) == {"builtins.list_iterator"}


def test_globals_are_found_where_the_code_loads_them():
    """Globals that a function or code within it loads are keyed by their names."""
    found = capture(uses_globals)
    assert found.values == {"global BANK": encode(BANK), "global LAYER": 3}
    assert list(found.functions) == ["fn"]


def test_another_global_is_another_function(monkeypatch):
    """A global constant changed is a difference."""
    before = capture(uses_globals).values
    monkeypatch.setitem(globals(), "LAYER", 4)
    assert capture(uses_globals).values == {**before, "global LAYER": 4}


def test_models_are_found_among_globals_and_in_containers(monkeypatch):
    """A module in a global list, tuple or dict is a model under its path."""
    torch = pytest.importorskip("torch")
    one, two = torch.nn.ReLU(), torch.nn.ReLU()
    monkeypatch.setitem(globals(), "BANK", [one, {"head": (two, 5)}])
    found = capture(uses_globals)
    assert found.models == {"global BANK[0]": one, "global BANK[1]['head'][0]": two}
    assert found.values["global BANK[1]['head'][1]"] == 5


def test_a_module_is_itself_the_model():
    """A module passed as the function is the model, and so is the object of a bound method."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1, 1)
    assert capture(model).models == {"fn": model}
    assert capture(model.forward).models["self"] is model


def test_functions_of_the_same_package_are_followed():
    """A helper of the function's own package joins with its code and what it uses in turn."""
    found = capture(uses_helper)
    assert found.functions == {"fn": digest_code(uses_helper), "global helper": digest_code(helper)}
    assert found.values == {"global LAYER": 3}


def test_functions_that_call_themselves_are_walked_once():
    """A recursive function has one digest, and the walk comes to an end."""
    found = capture(uses_recursion)
    assert found.functions == {
        "fn": digest_code(uses_recursion),
        "global uses_recursion": "as fn",
    }
    assert found.values == {}


def test_modules_and_builtins_used_by_name_are_no_captures():
    """Modules and builtins that code uses by their global names are told by the code itself."""

    def fn(loader):
        return np.stack(list(map(len, loader)))

    found = capture(fn)
    assert (found.values, found.not_keyed, found.models) == ({}, {}, {})


def chosen(pool):
    """Make a function that uses the function it is given."""

    def fn(loader):
        return pool(loader)

    return fn


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (max, min),
        (textwrap.dedent, textwrap.fill),
        (np.float16, np.float32),
        (functools.partial(textwrap.fill, width=3), functools.partial(textwrap.fill, width=4)),
        (itertools.chain, itertools.zip_longest),
        (str.upper, str.lower),
        (np.add, np.multiply),
    ],
    ids=["builtins", "functions", "types", "partials", "iterators", "methods", "ufuncs"],
)
def test_a_choice_among_others_functions_is_seen(one, two):
    """Where a function is given one of a library's functions or types, that is keyed or listed."""
    assert not same(chosen(one), chosen(two)) or capture(chosen(one)).not_keyed


def test_objects_of_other_packages_are_listed_not_entered():
    """An object of a library's is listed by its type, and its attributes are not read."""

    class Path(textwrap.TextWrapper):
        """A library's object, of the test's own class."""

    found = capture(enclosing(textwrap.TextWrapper()))
    assert found.not_keyed == {"fn.k": "textwrap.TextWrapper"}
    assert found.values == {}
    assert capture(enclosing(Path())).values["fn.k.width"] == 70


def test_objects_without_a_dict_are_listed():
    """An object of the own package that keeps its attributes in slots is listed."""
    assert list(capture(enclosing(Slotted())).not_keyed) == ["fn.k"]


def test_infrastructure_is_left_out():
    """Loggers, locks, infrastructure that says so and the loader are no part of a function."""
    store = Store("a")
    loader = Extractor(rows=3)
    for value in (
        log,
        logging.LoggerAdapter(log),
        threading.Lock(),
        threading.RLock(),
        store,
        loader,
    ):
        for built in (enclosing(value), enclosing([value]), Extractor(k=value).run):
            found = capture(built, loader)
            assert found.values.keys() <= {"self.__class__"}
            assert found.not_keyed == {}


def test_an_attribute_does_not_make_infrastructure():
    """It is the type that says so: a value cannot be left out by what it is given."""
    assert not same(
        enclosing(Extractor(castore_infrastructure=True, k=1)),
        enclosing(Extractor(castore_infrastructure=True, k=2)),
    )


def test_devices_are_left_out():
    """A device in a closure is no difference, so results are shared between machines."""
    torch = pytest.importorskip("torch")
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert same(enclosing(cpu), enclosing(gpu))
    assert same(enclosing([cpu, 1]), enclosing([gpu, 1]))
    assert capture(enclosing(torch.Generator())).not_keyed == {"fn.k": "torch._C.Generator"}


def test_recursion_in_objects_and_containers_ends():
    """Objects, lists and dicts that contain themselves are walked once."""
    parent, child = Extractor(k=1), Extractor(k=2)
    parent.child, child.parent = child, parent
    items: list = [1, log]
    items.append(items)
    mapping: dict = {"k": 2, "log": log}
    mapping["self"] = mapping
    values = capture(parent.run).values
    assert values == {
        "self.__class__": encode(Extractor),
        "self.k": 1,
        "self.child.__class__": {"same": "self.__class__"},
        "self.child.k": 2,
        "self.child.parent": {"same": "self"},
    }
    assert capture(enclosing(items)).values == {"fn.k[0]": 1, "fn.k[2]": {"same": "fn.k"}}
    assert capture(enclosing(mapping)).values == {
        "fn.k.keys()": ["k", "log", "self"],
        "fn.k['k']": 2,
        "fn.k['self']": {"same": "fn.k"},
    }


def test_cells_not_yet_filled_are_left_out():
    """A function may be asked about before what encloses it has assigned all it uses."""

    def early():
        return late

    found = capture(early)
    late = 1
    assert "fn.late" not in found.values
    assert capture(early).values == {"fn.late": late}


def test_two_bound_methods_do_not_hide_each_other():
    """Each of two objects whose methods a function uses is keyed."""

    def both(a, b):
        return enclosing([Extractor(k=a).run, Extractor(k=b).run])

    assert same(both(1, 2), both(1, 2))
    assert not same(both(1, 2), both(3, 2))
    assert not same(both(1, 2), both(1, 3))


def test_a_method_and_the_methods_it_holds_do_not_hide_each_other():
    """What a bound method's object is stays keyed where it holds another bound method."""

    def build(k):
        return Extractor(k=k, inner=Extractor(k=0).run).run

    assert not same(build(1), build(2))


def test_objects_of_different_classes_are_told_apart():
    """A subclass that overrides what the method calls is another function."""

    class Base:
        def run(self, loader):
            return [self.pool(x) for x in loader]

    class Mean(Base):
        def pool(self, x):
            return x.mean()

    class Max(Base):
        def pool(self, x):
            return x.max()

    assert not same(Mean().run, Max().run)


def test_objects_of_different_classes_in_a_closure_are_told_apart():
    """An object of the own package counts by its class too, not by its attributes alone."""

    class Mean:
        def __call__(self, x):
            return x.mean()

    class Max:
        def __call__(self, x):
            return x.max()

    assert not same(enclosing(Mean()), enclosing(Max()))


def test_methods_of_one_object_are_told_apart():
    """Of two methods of one object it counts which is the function."""
    extractor = Extractor(k=1)
    assert same(extractor.run, extractor.run)
    assert not same(extractor.run, extractor.__call__)
    assert capture(extractor.run).functions["fn"] == digest_code(Extractor.run)


def test_class_methods_are_captured_by_their_code():
    """A class method is its function, and its class goes by its name and its methods."""
    found = capture(Extractor.named)
    assert found.functions == {
        "fn": digest_code(Extractor.named.__func__),
        "self.__init__": digest_code(Extractor.__init__),
        "self.run": digest_code(Extractor.run),
        "self.__call__": digest_code(Extractor.__call__),
        "self.named": "as fn",
    }
    assert found.values == {"self": encode(Extractor)}


PAIRS = {
    "objects": lambda: (Extractor(k=1, o=iter([])), Extractor(k=2, o=iter([]))),
    "functions": lambda: (plain, uses_helper),
    "closures": lambda: (enclosing(1), enclosing(2)),
    "functions with defaults": lambda: (defaulted(1), defaulted(2)),
    "lists": lambda: ([1, plain], [2, plain]),
    "methods": lambda: (Extractor(k=1).run, Extractor(k=2).run),
}


@pytest.mark.parametrize("build", PAIRS.values(), ids=PAIRS)
def test_which_of_two_things_met_comes_again_is_seen(build):
    """A thing that a function holds twice is another value than one of two others held twice."""
    one, two = build()
    again = build()
    assert not same(enclosing([one, two, one]), enclosing([one, two, two]))
    assert same(enclosing([one, two, one]), enclosing([again[0], again[1], again[0]]))


@pytest.mark.parametrize("build", [PAIRS["closures"], PAIRS["functions with defaults"]])
def test_which_of_two_things_comes_again_is_a_value(build):
    """Functions of equal code that hold values of their own are told apart under a suffix too."""
    one, two = build()
    first, second = (capture(enclosing([one, two, third])).values for third in (one, two))
    assert first != second


class Pool:
    """A class that functions use by its name."""

    size = 3

    def run(self, x):
        """Use a value of the class."""
        return x * self.size

    @property
    def double(self):
        """Use it twice."""
        return self.size * 2

    @functools.cached_property
    def triple(self):
        """Use it thrice."""
        return self.size * 3

    @staticmethod
    def still(x):
        """Use nothing."""
        return x


@dataclasses.dataclass
class Settings:
    """An object that can be encoded whole, and has a method."""

    size: int = 3

    def run(self, x):
        """Use a value of the object."""
        return x * self.size


class Pair(NamedTuple):
    """A named tuple with a method."""

    one: object

    def run(self, x):
        """Use nothing."""
        return x


class Mode(enum.Enum):
    """A choice with a method."""

    FAST = 1

    def run(self, x):
        """Use nothing."""
        return x


def uses_class(loader):
    """Make an object."""
    return [Pool().run(x) for x in loader]


@pytest.mark.parametrize(
    ("build", "kind", "name"),
    [
        (lambda: uses_class, Pool, "run"),
        (lambda: uses_class, Pool, "still"),
        (lambda: uses_class, Pool, "double"),
        (lambda: uses_class, Pool, "triple"),
        (lambda: enclosing(Pool), Pool, "run"),
        (lambda: enclosing(Pool()), Pool, "run"),
        (lambda: enclosing([Pool()]), Pool, "run"),
        (lambda: enclosing(Settings()), Settings, "run"),
        (lambda: enclosing(Mode.FAST), Mode, "run"),
        (lambda: Pool().run, Pool, "still"),
    ],
)
def test_methods_of_own_classes_are_captured(monkeypatch, build, kind, name):
    """The methods of a class count by their code, wherever class or object is held."""
    before = capture(build()).functions

    def changed(self, x):
        return [x]

    item = vars(kind)[name]
    monkeypatch.setattr(
        kind, name, changed if item.__class__ is type(changed) else type(item)(changed)
    )
    assert capture(build()).functions != before


def test_values_of_own_classes_are_captured(monkeypatch):
    """What a class holds is keyed, for the objects that look it up there."""
    before = capture(uses_class)
    assert before.values == {"global Pool": encode(Pool), "global Pool.size": 3}
    assert before.not_keyed == {}
    monkeypatch.setattr(Pool, "size", 4)
    assert capture(uses_class).values != before.values
    assert capture(enclosing(Pool())).values["fn.k.__class__.size"] == 4


def test_what_the_library_writes_into_a_class_is_left_out():
    """A data class's own methods count; those that Python's version writes for it do not."""
    found = capture(enclosing(Settings()))
    assert list(found.functions) == ["fn", "fn.k.__class__.run"]
    assert found.not_keyed == {}
    for held in (Mode.FAST, Pair(1)):
        found = capture(enclosing(held))
        assert list(found.functions) == ["fn", "fn.k.__class__.run"]
        assert found.values.keys() == {"fn.k", "fn.k.__class__.__bases__"}
        assert found.values["fn.k"] == encode(held)
        assert found.not_keyed == {}


def test_methods_of_tuples_that_hold_functions_are_captured():
    """A named tuple of the own package that cannot be encoded counts by its methods too."""
    found = capture(enclosing(Pair(plain)))
    assert list(found.functions) == ["fn", "fn.k[0]", "fn.k.__class__.run"]
    assert found.not_keyed == {}


def test_what_a_wrapper_copies_is_left_out():
    """What Python copies from a function to its wrapper, other things in every version, is out."""
    found = capture(functools.lru_cache(enclosing(1)))
    assert {path for path in found.values if "cache_parameters" not in path} == {
        "fn.__class__",
        "fn.__wrapped__.k",
    }
    assert list(found.functions) == ["fn.__wrapped__"]


def test_own_kinds_of_containers_are_told_apart():
    """A list or dict of the own package counts by items, class and attributes."""

    class Mean(list):
        pass

    class Max(list):
        pass

    class Named(dict):
        pass

    assert not same(enclosing(Mean([1])), enclosing(Max([1])))
    assert not same(enclosing(Mean([1])), enclosing(Mean([2])))
    one, two = Named(a=1), Named(a=1)
    one.k, two.k = 1, 2
    assert not same(enclosing(one), enclosing(two))


def test_containers_of_other_packages_are_told_apart():
    """A library's container counts by its items and class, and a default dict by its default."""

    def build(kind, *default):
        return enclosing(kind(*default, {"a": plain}))

    default = collections.defaultdict
    assert not same(build(collections.OrderedDict), build(default, int))
    assert not same(build(default, int), build(default, float))
    assert not same(build(default, lambda: 3), build(default, lambda: 4))
    assert same(build(default, lambda: 3), build(default, lambda: 3))
    counter = collections.UserDict({"a": plain})
    assert capture(enclosing(counter)).not_keyed == {"fn.k": "collections.UserDict"}


@pytest.mark.parametrize(
    ("base", "value"), [(int, 1), (str, "x"), (float, 1.5), (bytes, b"x"), (set, {1})], ids=str
)
def test_objects_that_hold_more_than_attributes_are_listed(base, value):
    """An own kind of number, text or set is listed: its attributes are not all there is."""
    kind = type("Kind", (base,), {"__module__": __name__})
    held = kind(value)
    with pytest.raises(FingerprintError):
        encode(held)
    assert list(capture(enclosing(held)).not_keyed) == ["fn.k"]


def test_slots_are_attributes():
    """An object with attributes in slots and others beside is keyed by both."""

    class Both(Slotted):
        """Have a dict too."""

    def build(layer):
        held = Both()
        held.layer, held.k = layer, 1
        return enclosing(held)

    assert same(build(1), build(1))
    assert not same(build(1), build(2))
    assert capture(build(1)).values["fn.k.layer"] == 1


def test_paths_never_hold_an_address():
    """A dict whose keys have no rule is captured without what differs between processes."""

    def build():
        return enclosing({Slotted(): 1, Slotted(): 2})

    assert same(build(), build())


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, {"function": "builtins.len"}),
        (dict, {"type": "builtins.dict"}),
        (str.upper, {"function": "builtins.str.upper"}),
        (np.ndarray.sum, {"function": "numpy.ndarray.sum"}),
        (np.add, {"function": "numpy.add"}),
        (np.mean, {"function": "numpy.mean"}),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_builtins_go_by_their_names(fn, name):
    """A builtin, a type or a method of a builtin type goes by its name."""
    found = capture(fn)
    assert found.models == found.functions == found.not_keyed == {}
    assert found.values == {"fn": name}


def test_functions_of_torch_go_by_their_names():
    """Torch's functions and operators written in C are told apart by their names."""
    torch = pytest.importorskip("torch")
    exp = capture(enclosing(torch.exp)).values["fn.k"]
    assert exp == {"function": "torch.exp"}
    assert capture(enclosing(torch.Tensor.exp)).values["fn.k"] != exp
    for one, two in ((torch.ops.aten.relu, torch.ops.aten.exp), (torch.sum, torch.mean)):
        assert not same(enclosing(one), enclosing(two))
        assert capture(enclosing(one)).not_keyed == {}


def test_bound_builtins_count_by_what_they_are_bound_to():
    """A method of a text, list or array is keyed by its name and its object."""
    assert capture("x".join).values == {"fn": {"method": "join"}, "fn.self": "x"}
    assert not same(enclosing("x".join), enclosing("y".join))
    assert not same(enclosing("x".join), enclosing("x".split))
    assert not same(enclosing(np.arange(3).dot), enclosing(np.arange(4).dot))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write packages and import their modules."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files):
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return importlib.import_module

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_helpers_are_followed_within_the_package_only(package):
    """Functions are followed across the modules of their package, and not into another."""
    load = package(
        {
            "ownpack/__init__.py": "",
            "ownpack/deep.py": "FACTOR = 2\ndef near(x): return x * FACTOR\n",
            "ownpack/top.py": """
                from ownpack.deep import near
                from otherpack import far
                def fn(loader): return [far(near(x)) for x in loader]
                """,
            "otherpack/__init__.py": "POWER = 3\ndef far(x): return x ** POWER\n",
        }
    )
    found = capture(load("ownpack.top").fn)
    assert found.values == {
        "global far": {"function": "otherpack.far"},
        "global near: global FACTOR": 2,
    }
    assert sorted(found.functions) == ["fn", "global near"]


def test_classes_of_one_name_do_not_hide_each_other(package):
    """A class may be called as its base in another module is: the methods of both are keyed."""
    load = package(
        {
            "basepack/__init__.py": "",
            "basepack/deep.py": "class Net:\n    def run(self, x): return x\n",
            "basepack/top.py": """
                from basepack import deep
                class Net(deep.Net):
                    def run(self, x): return super().run(x) + 1
                def other(self, x): return x - 1
                def fn(loader): return [Net().run(x) for x in loader]
                """,
        }
    )
    top, deep = load("basepack.top"), load("basepack.deep")
    found = [capture(top.fn).functions]
    top.Net.run = top.other
    found.append(capture(top.fn).functions)
    deep.Net.run = top.other
    found.append(capture(top.fn).functions)
    assert found[0] != found[1] != found[2]


def test_globals_of_one_name_do_not_hide_each_other(package):
    """Two modules of a package may each have a global of one name, and both are keyed."""
    load = package(
        {
            "twopack/__init__.py": "",
            "twopack/deep.py": "SCALE = 2\ndef near(x): return x * SCALE\n",
            "twopack/top.py": """
                from twopack.deep import near
                SCALE = 1
                def fn(loader): return [near(x) + SCALE for x in loader]
                """,
        }
    )
    top, deep = load("twopack.top"), load("twopack.deep")
    before = dumps(capture(top.fn).values)
    top.SCALE = 10
    changed = dumps(capture(top.fn).values)
    assert changed != before
    deep.SCALE = 20
    assert dumps(capture(top.fn).values) != changed


def test_script_and_import_of_one_function_agree(package):
    """A function run as a script captures what it captures imported."""
    source = "K = 3\ndef near(x): return x * K\ndef fn(loader): return [near(x) for x in loader]\n"
    load = package({"scriptpack/__init__.py": source})
    script: dict = {"__name__": "__main__"}
    path = load("scriptpack").__file__
    with open(path) as file:  # noqa: PTH123
        exec(compile(file.read(), path, "exec"), script)
    assert same(script["fn"], load("scriptpack").fn)


def write_module(path, name, text):
    """Write a module and import it."""
    (path / f"{name}.py").write_text(textwrap.dedent(text))
    return importlib.import_module(name)


def test_values_read_through_modules_are_captured(tmp_path, monkeypatch):
    """What a function reads of a module, ``config.LAYER``, is a value like a global of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    config = write_module(tmp_path, "seen_config", "LAYER = 3\nOTHER = 4")
    space = {"config": config, "np": np, "__name__": __name__}
    exec("def fn(loader):\n    return np.mean(loader) * config.LAYER", space)
    found = capture(space["fn"])
    assert found.values == {"global config.LAYER": 3}
    assert found.libraries == {"numpy", "seen_config"}
    config.LAYER = 5
    assert capture(space["fn"]).values == {"global config.LAYER": 5}


def layered(loader):
    """Read an attribute of a function."""
    return loader, helper.layer


def test_attributes_of_functions_are_captured_where_they_are_read(monkeypatch):
    """What a function reads of another function is a value, and so is that function."""
    monkeypatch.setattr(helper, "layer", 3, raising=False)
    found = capture(layered)
    assert found.values["global helper.layer"] == 3
    assert "global helper" in found.functions


@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace])
def test_namespaces_count_by_their_attributes(kind):
    """What a command line was parsed to is keyed by each argument."""
    found = capture(enclosing(kind(layer=3, fn=plain)))
    assert found.values["fn.k.layer"] == 3
    assert found.not_keyed == {}


def test_libraries_reached_through_modules_are_named():
    """The modules through which code reaches a library's function are known by their names."""
    space = {"os": __import__("os"), "np": np, "__name__": __name__}
    exec("def fn(path):\n    return np.linalg.norm(os.path.join(path))", space)
    assert capture(space["fn"]).libraries == {"numpy", "numpy.linalg", "os", "posixpath"}
    assert capture(space["fn"]).values == {}


def test_imports_within_a_function_are_listed():
    """A module of the user's that a function imports when it runs is listed, a library's not."""

    def fn(loader):
        import json

        import nowhere_to_be_found

        return json, nowhere_to_be_found, loader

    assert capture(fn).not_keyed == {"import nowhere_to_be_found": "module"}


def test_closures_of_other_packages_count_by_what_they_hold(tmp_path, monkeypatch):
    """Two functions that another package's factory made differ by the values they were given."""
    monkeypatch.syspath_prepend(tmp_path)
    factory = write_module(
        tmp_path,
        "seen_factory",
        """
        def make(k):
            def made(x):
                return x * k
            return made
        """,
    )
    assert not same(enclosing(factory.make(1)), enclosing(factory.make(2)))
    assert same(enclosing(factory.make(1)), enclosing(factory.make(1)))


def test_functions_made_by_exec_count_by_their_code():
    """A function without a module is nobody's to name: it counts by its code, wherever held."""

    def made(text):
        space: dict = {}
        exec(f"def f(x):\n    return {text}", space)
        return space["f"]

    assert capture(made("x")).functions != capture(made("x + 1")).functions
    one, two = (capture(enclosing(made(text))) for text in ("x", "x + 1"))
    assert one.functions != two.functions


def test_functions_of_libraries_go_by_their_names():
    """A library's function is not gone through, as the function itself neither."""
    for fn in (textwrap.dedent, np.mean, np.add):
        found = capture(fn)
        assert found.functions == {}
        assert list(found.values) == ["fn"]


def test_values_nested_too_deep_are_refused():
    """A list in a list, a hundred thousand times, is refused by name and not a crash."""
    deep: list = [plain]
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FingerprintError, match="nested too deep"):
        capture(enclosing(deep))
    while deep and isinstance(deep[0], list):  # the interpreter takes it down recursively
        deep = deep[0]


def class_of(**attributes):
    """Make a class of this module with other attributes."""
    bases = attributes.pop("bases", ())
    return type("Made", bases, {"__module__": __name__, **attributes})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"f": textwrap.dedent}, {"f": textwrap.fill}),
        ({"f": staticmethod(np.mean)}, {"f": staticmethod(np.sum)}),
        ({"bases": (dict,)}, {"bases": (list,)}),
        ({"bases": (Extractor,)}, {"bases": (Slotted,)}),
    ],
    ids=["a library's function", "a static method of numpy's", "a base of Python's", "own bases"],
)
def test_what_a_class_is_given_is_a_difference(one, two):
    """A class differs by the functions of libraries assigned in it, and by its bases."""
    assert not same(enclosing(class_of(**one)), enclosing(class_of(**two)))
    assert same(enclosing(class_of(**one)), enclosing(class_of(**one)))


def test_factories_of_defaults_are_captured():
    """A data class that makes a default by another function is another class."""

    def made(factory):
        field = dataclasses.field(default_factory=factory)
        kind = dataclasses.make_dataclass("Made", [("x", list, field)])
        kind.__module__ = __name__
        return kind

    assert not same(enclosing(made(lambda: [1])), enclosing(made(lambda: [2])))
    assert same(enclosing(made(list)), enclosing(made(list)))


def test_getters_count_by_what_they_get():
    """What the operator module makes to get items and attributes is a value."""
    get = operator.itemgetter
    assert not same(enclosing(get(1)), enclosing(get(2)))
    assert not same(enclosing(operator.attrgetter("a")), enclosing(operator.attrgetter("b.c")))
    assert capture(enclosing(get(1, 2))).not_keyed == {}


def test_own_types_go_without_their_module():
    """Types of the function's own package are called by their name alone, wherever they are."""
    found = capture(enclosing([Mode.FAST, Settings()]))
    assert not any(__name__ in dumps(value).decode() for value in found.values.values())
    assert "fn.k.<Mode>.__class__.run" in found.functions


def test_what_a_module_knows_of_itself_is_left_out():
    """A module's own name is no value, and its path is listed as one of this machine."""
    space = {"__name__": __name__, "__file__": "/home/me/a.py"}
    exec("def fn(loader):\n    return loader, __file__, __name__", space)
    found = capture(space["fn"])
    assert found.values == {}
    assert found.not_keyed == {"global __file__": "a path of this machine"}


@pytest.mark.parametrize("name", ["datasets", "statistics"])
def test_a_package_of_the_users_is_no_library_by_its_name(tmp_path, monkeypatch, name):
    """The user's own package goes by its code, though a library or Python has the same name."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    found = []
    for body in ("x + 1", "x + 2"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text(f"def helper(x):\n    return {body}\n")
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        shutil.rmtree(tmp_path / name / "__pycache__", ignore_errors=True)
        own = importlib.import_module(name)
        found.append(describe({"f": own.helper}).functions)
    assert list(found[0]) == ["f"]
    assert found[0] != found[1]
    sys.modules.pop(name)  # what was there before comes back with the end of the test


def test_what_python_writes_into_a_named_tuple_is_left_out():
    """Its methods are other code in every version of Python, and say nothing."""
    found = describe({"pair": Pair(1)})
    assert list(found.functions) == ["pair.__class__.run"]
    assert found.not_keyed == {}
