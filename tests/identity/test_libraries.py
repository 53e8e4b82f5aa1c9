"""Whose code it is."""

from __future__ import annotations

import functools
import json
import math
import operator
import os.path
import sys
import types

import numpy as np
import pytest

from castore.identity.libraries import (
    LIBRARIES,
    innermost,
    is_library,
    name_in_library,
    package_of,
    top,
)


def own(value):
    """Be a function of the user's."""
    return value


class Own:
    """A type of the user's."""

    def method(self):
        """Be a method."""


def test_a_package_is_what_comes_before_the_first_dot():
    """The top-level package is the beginning of a module's name, if that is a name."""
    assert top("torch.nn.functional") == "torch"
    assert top("torch") == "torch"
    assert top(None) is None
    assert top(3) is None


def test_pythons_own_and_known_packages_are_libraries():
    """Python's modules and the packages castore knows go by their names; others do not."""
    assert all(map(is_library, LIBRARIES))
    assert is_library("json")
    assert is_library("builtins")
    assert not any(map(is_library, ["__main__", "pycocotools", "numpy.linalg", "", None]))


def test_things_belong_to_the_package_they_say():
    """Functions, types, objects, partials and methods belong to where the innermost is from."""
    mine = top(__name__)
    for value in (own, Own, Own(), Own().method, Own.method, functools.partial(own, 1)):
        assert package_of(value) == mine
    assert package_of(functools.partial(functools.partial(np.linalg.norm), 1)) == "numpy"
    assert package_of(np.zeros(1)) == "numpy"
    assert package_of(len) == package_of(3) == package_of(None) == "builtins"
    assert package_of(json.dumps) == "json"


def test_the_innermost_function_is_below_partials_and_methods():
    """Partials of bound methods of partials come down to one function."""
    assert innermost(functools.partial(Own().method, 1)) is Own.method
    bound = types.MethodType(functools.partial(own), 1)
    assert innermost(functools.partial(bound)) is own
    assert innermost(3) == 3


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (json.dumps, "json.dumps"),
        (len, "builtins.len"),
        (math.sqrt, "math.sqrt"),
        (np.linalg.norm, "numpy.linalg.norm"),
        (np.load, "numpy.load"),
        (np.add, "numpy.add"),
        (os.path.join, "posixpath.join"),
        (operator.index, "_operator.index"),
        (json.JSONEncoder.encode, "json.encoder.JSONEncoder.encode"),
    ],
)
def test_functions_of_a_library_are_known_by_their_name(function, name):
    """A function that a library has under its own name is known by it."""
    assert name_in_library(function) in (
        name,
        name.replace("numpy.linalg.", "numpy.linalg._linalg."),
    )


def test_functions_of_libraries_that_draw_on_torch_are_known():
    """Functions of torch and torchvision are known by the names their modules have."""
    torch = pytest.importorskip("torch")
    folder = pytest.importorskip("torchvision.datasets.folder")
    functional = torch.nn.functional
    assert name_in_library(functional.softmax) == "torch.nn.functional.softmax"
    loader = folder.default_loader
    assert name_in_library(loader) == "torchvision.datasets.folder.default_loader"


def test_other_functions_have_no_name_in_a_library():
    """Functions of the user's have none, nor those that only say they are a library's."""

    def dumps(value):
        return value

    dumps.__module__, dumps.__qualname__ = "json", "dumps"
    local = functools.lru_cache(own)
    wrapped = functools.wraps(json.dumps)(lambda value: value)
    for value in (own, Own, Own().method, dumps, local, wrapped, lambda: 0, 3, None, [].append):
        assert name_in_library(value) is None


def test_a_function_whose_module_is_gone_has_no_name():
    """A function of a module that is no longer imported cannot be found by its name."""
    module = types.ModuleType("castore.gone")
    exec("def lost(): pass", vars(module))
    assert module.__name__ not in sys.modules
    assert name_in_library(module.lost) is None
