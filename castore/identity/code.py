"""Functions by what their code says, not by where it lies.

The digest is taken of ``ast.unparse`` of the source without docstrings, so comments, blank
lines and moved code change nothing (``ast.dump`` and tokens differ between Pythons). Where no
source can be had it is taken of the code object, and holds for one Python version.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
import types
from typing import Any

from castore.canonical import Json, identify
from castore.identity.values import type_name

__all__ = ["digest_code", "global_names", "name_of"]


def name_of(fn: Any) -> str:
    """Name of a callable, as messages show it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", type(fn).__qualname__)).rpartition("<locals>.")[2]


def digest_code(function: types.FunctionType) -> str:
    """Digest of a Python function's code, 32 hex digits; its captured values are not in it."""
    return _digest(function.__code__)


@functools.lru_cache(maxsize=4096)
def _digest(code: types.CodeType) -> str:
    source = _source(code)
    if source is not None:
        return identify("code", source)
    version = list(sys.version_info[:2])
    return identify("code", {"code": _code_document(code), "python": version})


def _source(code: types.CodeType) -> str | None:
    """Return the normalised source of `code`, or None if it cannot be told apart."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = [node for node in ast.walk(tree) if _is_of(node, code)]
    if len(found) != 1:
        return None
    _drop_docstrings(found[0])
    if isinstance(found[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        found[0].decorator_list = []
    return ast.unparse(found[0])


def _is_of(node: ast.AST, code: types.CodeType) -> bool:
    if code.co_name == "<lambda>":
        names = [*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        return isinstance(node, ast.Lambda) and _argument_names(node.args) == names
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name


def _argument_names(arguments: ast.arguments) -> list[str]:
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = node.body[0]
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if is_text and isinstance(first.value.value, str):  # type: ignore[attr-defined]
                node.body = node.body[1:] or [ast.Pass()]


def _code_document(code: types.CodeType) -> Json:
    constants = [
        _code_document(c) if isinstance(c, types.CodeType) else [type_name(type(c)), repr(c)]
        for c in code.co_consts
        if not isinstance(c, frozenset)
    ]
    sets = [sorted(map(repr, c)) for c in code.co_consts if isinstance(c, frozenset)]
    return {
        "bytes": code.co_code.hex(),
        "constants": constants,
        "free": list(code.co_freevars),
        "names": list(code.co_names),
        "sets": sets,
        "variables": list(code.co_varnames),
    }


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Names that `code`, or code nested in it, loads from its module, sorted."""
    found = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(global_names(constant))
    return tuple(sorted(found))
