"""Modules that torch wrote: their code, without traces of where it was written.

A graph module of torch.fx goes by its Python code; a script module by the code of its methods,
which torch prints from its intermediate form. That code calls functions by name: a method that
calls the user's goes by its graph, with all calls put in place. Out are source positions, and
the numbers torch adds to names it has given before in this process.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["kind_named", "script_function", "script_module", "spelled"]

_POSITION = re.compile(r" # [^\n\"]*:\d+:\d+$", re.MULTILINE)
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CALLS_OWN = re.compile(r"__torch__\.(?!torch\.|torchvision\.)")


def kind_named(module: str, name: str) -> Any:
    """Return a type of a library, or an empty tuple if nobody imported it: for isinstance."""
    return getattr(sys.modules.get(module), name, ())


def spelled(code: str) -> str:
    """Return code or a graph without source positions, addresses, and numbers added to names."""
    return _MANGLED.sub("", _ADDRESS.sub("", _POSITION.sub("", code)))


def script_function(function: Any) -> dict[str, Any]:
    """Return the graph of a script function, and the tensors in it, by name."""
    return dict(_inlined("graph", function))


def script_module(module: Any) -> dict[str, Any]:
    """Return what a script module and the modules in it are, by name.

    That is the code of their methods and its constants, and the values of their attributes.
    """
    inner = {name: part._c for name, part in module.named_modules()}  # noqa: SLF001
    found: dict[str, Any] = {}
    used = {"training"}
    for name, part in inner.items():
        for method_name in part._method_names():  # noqa: SLF001
            method = part._get_method(method_name)  # noqa: SLF001
            found.update(_method(f"{name}.{method_name}".lstrip("."), method))
            graph = method.graph
            used.update(node.s("name") for node in graph.findAllNodes("prim::GetAttr"))
    for name, part in inner.items():
        for attribute in sorted(filter(part.hasattr, used)):
            value = part.getattr(attribute)
            if type(value) is not type(part):
                found[f"{name}.{attribute}".lstrip(".")] = value
    return found | dict(module.named_parameters()) | dict(module.named_buffers())


def _method(path: str, method: Any) -> Iterator[tuple[str, Any]]:
    code, constants = method.code_with_constants
    if _CALLS_OWN.search(code):
        yield from _inlined(f"{path}()", method)
        return
    yield f"{path}()", spelled(code)
    for name, value in constants.items():
        yield f"{path}().{name}", value


def _inlined(path: str, method: Any) -> Iterator[tuple[str, Any]]:
    graph = method.inlined_graph
    yield path, spelled(graph.str(False))  # without positions, but for those in blocks
    constants = graph.findAllNodes("prim::Constant")
    tensors = [node.t("value") for node in constants if _is_tensor(node)]
    for index, value in enumerate(tensors):
        yield f"{path}.tensors[{index}]", value


def _is_tensor(node: Any) -> bool:
    return bool(node.hasAttribute("value") and node.kindOf("value") == "t")
