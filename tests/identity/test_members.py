"""What Python objects are made of."""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.identity.members import (
    attributes,
    attributes_of_module,
    cells,
    defaults,
    function_in,
    is_special,
    items,
    native,
)


def test_cells_are_what_the_code_calls_them():
    """The closure of a function is told by name; what is not assigned yet is not there."""

    def outer(a):
        def inner():
            return a, b, late

        b = a + 1
        found = cells(inner)
        late = 3
        return found, cells(inner), late

    before, after, _ = outer(1)
    assert before == {"a": 1, "b": 2}
    assert after == {"a": 1, "b": 2, "late": 3}
    assert cells(test_cells_are_what_the_code_calls_them) == {}


def test_defaults_are_told_by_name():
    """Defaults of positional and of keyword arguments are told by their names, others are not."""

    def function(a, /, b, c=3, *args, d, e=5, **kwargs):
        return a, b, c, d, e, args, kwargs

    assert defaults(function) == {"c": 3, "e": 5}
    assert defaults(lambda: 0) == {}
    assert defaults(lambda a=1, /, b=2: (a, b)) == {"a": 1, "b": 2}


def test_items_are_told_by_place():
    """Lists, tuples and mappings of text and integers are gone through by place."""
    assert items([7, 8]) == items((7, 8)) == {"[0]": 7, "[1]": 8}
    assert items({"a": 1, 2: 3}) == {"['a']": 1, "[2]": 3}
    assert items({}) == items([]) == {}
    assert items(types.MappingProxyType({"a": 1})) == {"['a']": 1}
    assert items(collections.UserDict(a=1)) == {"['a']": 1}


@given(st.dictionaries(st.one_of(st.integers(), st.text(), st.booleans()), st.integers()))
def test_places_of_a_mapping_are_its_keys(mapping):
    """No two keys of a mapping have one place, not even 1 and "1"."""
    assert list((items(mapping) or {}).values()) == list(mapping.values())


def test_a_default_dict_is_its_factory_too():
    """What a defaultdict makes for a missing key is one of its items."""
    found = items(collections.defaultdict(list, a=1))
    assert found == {"['a']": 1, ".default_factory": list}


@pytest.mark.parametrize("value", [{1, 2}, {(1, 2): 3}, {None: 1}, "text", 3, None, iter([]), b""])
def test_what_has_no_places_is_not_gone_through(value):
    """Sets, text, iterators, and mappings by other keys have no places."""
    assert items(value) is None


class Slotted:
    """An object with slots, one of them empty and one private."""

    __slots__ = ("__own", "empty", "full")

    def __init__(self):
        self.full = 1
        self.__own = 2


class Both(Slotted):
    """An object with slots and a dict."""

    shared = 0

    def __init__(self):
        super().__init__()
        self.free = 3

    @property
    def shown(self):
        """What is computed when it is asked for."""
        raise RuntimeError


def test_attributes_are_what_an_object_itself_holds():
    """Attributes are those of slots that are filled and of the dict, not of the class."""
    assert attributes(Slotted()) == {"full": 1, "_Slotted__own": 2}
    assert attributes(Both()) == {"full": 1, "_Slotted__own": 2, "free": 3}
    assert attributes(object()) == attributes(1) == {}


def test_attributes_are_given_as_a_copy():
    """To change what was told changes nothing of the object."""
    value = Both()
    attributes(value).clear()
    assert value.free == 3


def test_attributes_of_modules_are_those_torch_gave_them():
    """A plain torch module has no attribute beside those every module has."""
    torch = pytest.importorskip("torch")
    assert set(vars(torch.nn.ReLU())) - attributes_of_module() == {"inplace"}


class Number(int):
    """A number of the user's."""


class Word(str):
    """A text of the user's."""

    __slots__ = ()


class Colour(enum.Enum):
    """A name of the user's."""

    RED = 1


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (Both, object),
        (Number, int),
        (Word, str),
        (type("Items", (list,), {}), list),
        (type("Table", (collections.OrderedDict,), {}), dict),
        (type("Pair", (typing.NamedTuple("P", [("a", int)]),), {}), tuple),
        (Colour, object),
    ],
)
def test_native_bases_say_what_an_object_holds_beside_attributes(kind, base):
    """The first base not written in Python tells numbers, text and containers from the rest."""
    assert native(kind) is base


def test_special_names_are_those_of_python():
    """Names between double underscores, and what abc leaves, are not the author's."""

    class Abstract(abc.ABC):
        """Has what abc leaves."""

        @abc.abstractmethod
        def __len__(self):
            """Say how long it is."""

    assert all(is_special(name) for name in vars(Abstract) if name != "_abc_impl")
    assert is_special("_abc_impl")
    assert is_special("__len__")
    assert not any(map(is_special, ["_a", "__a", "a__", "a"]))


class Methods:
    """Every way to define a function in a class."""

    value = 1
    table = dataclasses.field(default=1)
    builtin = len

    def plain(self):
        """Be plain."""

    @staticmethod
    def static():
        """Be static."""

    @classmethod
    def of_class(cls):
        """Be the class's."""

    @property
    def shown(self):
        """Be a property."""

    @functools.cached_property
    def kept(self):
        """Be kept."""


@pytest.mark.parametrize("name", ["plain", "static", "of_class", "shown", "kept"])
def test_functions_are_found_behind_what_wraps_them(name):
    """Methods, static and class methods, and properties are functions underneath."""
    found = function_in(vars(Methods)[name])
    assert isinstance(found, types.FunctionType)
    assert found.__name__ == name


@pytest.mark.parametrize("name", ["value", "table", "builtin", "__doc__"])
def test_other_attributes_of_a_class_hold_no_function(name):
    """Values, fields and functions of Python's own are none that could be gone through."""
    assert function_in(vars(Methods)[name]) is None
