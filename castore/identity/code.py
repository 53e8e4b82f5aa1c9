"""Functions by what their code says, not by where it lies.

The digest is taken of the function's syntax tree without docstrings, positions and its own
decorators, so comments, formatting and moved code change nothing. The tree is spelled node by
node, leaving out what is empty: ``ast.dump`` differs between Pythons, and ``ast.unparse`` quotes
f-strings differently from 3.12 on.

Source counts only if it compiles to the very code that runs: a file edited after it was
imported does not. Where there is no such source the digest is of the code object, and holds for
one Python version.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import dis
import functools
import linecache
import os
import sys
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, TypeAlias

from castore.canonical import Json, dumps, identify
from castore.identity.values import encode

__all__ = ["digest_code", "global_names", "imported_names", "name_of"]

_Node: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_MEMO_SIZE = 4096
_TRIES = 16
_memo: OrderedDict[int, tuple[types.CodeType, str]] = OrderedDict()
_FUTURE = functools.reduce(
    int.__or__,
    (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names),
)
_alone = threading.RLock()


def _renew_lock() -> None:
    global _alone  # noqa: PLW0603  another thread of the parent may have held it
    _alone = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def name_of(fn: Any) -> str:
    """Name of a callable, as messages show it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", type(fn).__qualname__)).rpartition("<locals>.")[2]


def digest_code(function: types.FunctionType) -> str:
    """Digest of a Python function's code, 32 hex digits; its captured values are not in it."""
    code = function.__code__
    found = _memo.get(id(code))  # equal code objects may have unequal source; held, so no id recurs
    if found is None:
        found = _memo[id(code)] = (code, _digest(code))
        while len(_memo) > _MEMO_SIZE:
            _memo.popitem(last=False)
    return found[1]


def _digest(code: types.CodeType) -> str:
    node = _node(code)
    if node is not None:
        kind, fields = _tree(node)
        fields.pop("decorator_list", None)  # what they made of the function is captured
        return identify("code", [kind, fields])
    version = list(sys.version_info[:2])
    return identify("code", {"code": _code_document(code), "python": version})


def _node(code: types.CodeType) -> _Node | None:
    """Return the syntax tree of `code`, or None if its source is not to be had."""
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename))
    if not source:
        return None
    with _alone:  # the filters of warnings are the whole process's
        nodes, codes = _parsed(source, code.co_filename, code.co_flags & _FUTURE)
    if code not in codes:
        return None
    found = [node for node in nodes if _is_of(node, code)]
    return found[-1] if found else None  # the innermost of lambdas within lambdas


@functools.lru_cache(maxsize=32)
def _parsed(source: str, name: str, flags: int) -> tuple[list[_Node], frozenset[types.CodeType]]:
    """Return the functions in a file, outer ones first, and every code object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user had them when the file was imported
        try:
            whole = compile(source, name, "exec", flags, dont_inherit=True)
            nodes = [node for node in ast.walk(_syntax(source)) if isinstance(node, _Node)]
            return nodes, frozenset(_nested(whole))
        except (SyntaxError, ValueError, RecursionError):
            return [], frozenset()


def _syntax(source: str) -> ast.Module:
    """Return the syntax tree of a file.

    CPython 3.11 counts how deep it is in all trees together, so a parse by another thread, or by
    a finalizer that runs meanwhile, fails this one.
    Source: https://github.com/python/cpython/issues/106905
    """
    for _ in range(_TRIES):
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in _functions_in(code):
        yield from _nested(inner)


def _is_of(node: _Node, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        named = (code.co_name, code.co_firstlineno) == ("<lambda>", node.lineno)
        return named and _is_within(node.body, code)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.name, first) == (code.co_name, code.co_firstlineno)


def _is_within(body: ast.expr, code: types.CodeType) -> bool:
    """Tell whether `body` spans every instruction that was written rather than implied."""
    begin, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    spans = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if None not in (line, end_line, column, end_column)
    ]
    written = [(first, last) for first, last in spans if first != last]
    return bool(written) and all(begin <= first and last <= end for first, last in written)


def _tree(node: Any) -> Json:
    """Return the document of a syntax tree."""
    if isinstance(node, ast.AST):
        fields = {
            name: _tree(value)
            for name in node._fields
            if name not in ("kind", "type_comment")
            and (value := _without_docstring(node, name)) not in (None, [])
        }
        if isinstance(node, ast.Constant):
            fields["value"] = _constant(node.value)
        return [type(node).__name__, fields]
    return [_tree(item) for item in node] if isinstance(node, list) else node


def _without_docstring(node: ast.AST, name: str) -> Any:
    value = getattr(node, name, None)
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if name == "body" and isinstance(node, documented) and ast.get_docstring(node) is not None:
        return node.body[1:] or [ast.Pass()]
    return value


def _constant(value: object) -> Json:
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, tuple):
        return {"tuple": [_constant(item) for item in value]}
    if isinstance(value, frozenset):
        return {"frozenset": sorted(map(_constant, value), key=dumps)}
    return encode(value)


def _code_document(code: types.CodeType) -> Json:
    return {
        "arguments": [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount],
        "bytes": code.co_code.hex(),
        "cells": [list(code.co_cellvars), list(code.co_freevars)],
        "constants": [
            _code_document(constant)
            if isinstance(constant, types.CodeType)
            else _constant(constant)
            for constant in code.co_consts
        ],
        "exceptions": code.co_exceptiontable.hex(),
        "flags": code.co_flags,
        "names": list(code.co_names),
        "variables": list(code.co_varnames),
    }


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Names that `code`, or code nested in it, loads from its module, sorted.

    With the attributes loaded from each: ``"config.LAYER"``, ``"np.linalg.norm"``.
    """
    found: set[str] = set()
    chain = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.add(chain)
            chain = instruction.argval
        elif chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = f"{chain}.{instruction.argval}"
        else:
            found.add(chain)
            chain = ""
    for nested in _functions_in(code):
        found.update(global_names(nested))
    return tuple(sorted(found - {""}))


@functools.lru_cache(maxsize=4096)
def imported_names(code: types.CodeType) -> tuple[str, ...]:
    """Modules that `code`, or code nested in it, imports when it runs, sorted."""
    found = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "IMPORT_NAME"
    }
    for nested in _functions_in(code):
        found.update(imported_names(nested))
    return tuple(sorted(found))


def _functions_in(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
