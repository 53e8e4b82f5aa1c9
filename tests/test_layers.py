"""Data flows one way: a module imports only from below it, and heavy libraries only where used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"castore": "castore", "adapters": "castore.adapters", "cli": "castore.cli"}

# The house, from the roof down. A name stands for a module or for a package with all in it; it
# imports only from lines below its own, and neighbours on one line do not know each other.
# A new module needs a place here: as low as its imports allow.
LAYERS = (
    ("castore.cli", "castore.adapters", "castore.fsspec_fs", "castore.testing"),
    ("castore",),  # the public names
    ("castore.opening",),
    ("castore.store",),
    ("castore.holdings",),
    ("castore.computing",),
    ("castore.explain", "castore.zarrstore"),
    ("castore.catalog", "castore.config", "castore.progress", "castore.readable", "castore.tally"),
    ("castore.table",),
    ("castore.identity", "castore.once"),
    ("castore.blobs",),
    ("castore.backend",),
    ("castore.canonical", "castore.arrays"),
    ("castore.digest",),
    ("castore.errors", "castore.points", "castore.stats", "castore.threads", "castore.version"),
)

# Libraries that cost time to import or are optional: not at the top of a module ...
LAZY = {
    "boto3",
    "botocore",
    "click",
    "matplotlib",
    "numcodecs",
    "rich",
    "s3fs",
    "torch",
    "torchvision",
    "zarr",
}
# ... and these nowhere: a torch that the caller imported is found in `sys.modules`.
NEVER = {"torch", "torchvision"}
# Except in adapters, which serve one library each, and for what a layer is made of.
ALLOWED = {
    "castore.adapters": LAZY | NEVER,
    "castore.cli": {"click", "rich"},
    "castore.zarrstore": {"zarr"},
}

RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> dict[str, Path]:
    """Files of the project by their installed module name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()
every_module = pytest.mark.parametrize("module", sorted(MODULES))


def place(module: str) -> str | None:
    """Name in `LAYERS` that a module belongs to; the public names are the package alone."""
    if module == "castore":
        return module
    return next((n for n in RANKS if n != "castore" and f"{module}.".startswith(f"{n}.")), None)


def is_type_checking(node: ast.AST) -> bool:
    """Whether `node` is an ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def imports(module: str) -> Iterator[tuple[str, int, str]]:
    """Yield (name, line, when) for all that a module imports, dynamically by a literal too.

    `when` is "now" at the top of the module, "used" in a function, "typing" for type checkers.
    """
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, when: str) -> Iterator[tuple[str, int, str]]:
        for name in names(node, package):
            yield name, node.lineno, when
        for field, value in ast.iter_fields(node):
            inner = when
            if is_type_checking(node) and field == "body":
                inner = "typing"
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "used" if field == "body" and when == "now" else when
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(), str(path)), "now")


def names(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules that one statement or call imports, in full."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        if node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            origin = ".".join([*base, origin]).rstrip(".")
        for alias in node.names:
            inside = f"{origin}.{alias.name}"
            yield inside if inside in MODULES else origin
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
        "import_module",
        "__import__",
        "importorskip",
    }:
        yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def allowed(module: str) -> set[str]:
    """Libraries that a module may import as it likes."""
    return ALLOWED.get(place(module) or "", set())


@every_module
def test_module_has_a_place(module):
    """Every module stands in the table of layers."""
    assert place(module), (
        f"{module} is in no layer: add it to LAYERS in tests/test_layers.py, "
        "as low as its imports allow"
    )


@every_module
def test_imports_point_downwards(module):
    """A module imports only from layers below its own, at the top, in functions and for types."""
    own = place(module)
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for name, line, _ in imports(module)
        if name.split(".")[0] == "castore"
        and place(name) != own
        and RANKS.get(place(name), -1) <= RANKS.get(own, -1)
    ]
    assert not upward, "\n".join(upward)


@every_module
def test_heavy_libraries_are_imported_when_used(module):
    """The core and the command line start without the libraries that only some work needs."""
    early = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for name, line, when in imports(module)
        if when == "now" and name.split(".")[0] in LAZY - allowed(module)
    ]
    assert not early, "\n".join(early)


@every_module
def test_torch_is_never_imported(module):
    """Only adapters import torch; elsewhere it is looked up among the modules loaded already."""
    found = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for name, line, when in imports(module)
        if when != "typing" and name.split(".")[0] in NEVER - allowed(module)
    ]
    assert not found, "\n".join(found)


def test_folders_are_not_imported_by_their_own_names():
    """Adapters and commands are imported as installed: `castore.adapters`, never `adapters`."""
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES
        for name, line, _ in imports(module)
        if name.split(".")[0] in FOLDERS.keys() - {"castore"}
    ]
    assert not wrong, "\n".join(wrong)
