"""The package as others get it: its names, its folders, its weight."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import castore

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]

#: Folders beside the core, and the package each is installed as.
BESIDE = {"adapters": "castore.adapters", "cli": "castore.cli"}


def folders():
    """Package names of all folders that hold Python modules."""
    for top in ("castore", *BESIDE):
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            parts = folder.relative_to(ROOT).parts
            yield ".".join((BESIDE.get(top, top), *parts[1:]))


def run(*command):
    """Standard output of a command; its standard error is in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_are_the_folders():
    """The list in pyproject.toml is sorted and names all folders that hold modules, no other."""
    listed = SETUPTOOLS["packages"]
    assert listed == sorted(listed)
    assert set(listed) == set(folders())


def test_folders_are_packages():
    """Every folder that holds modules has an `__init__.py`."""
    for package in SETUPTOOLS["packages"]:
        top = SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))
        assert (ROOT / top / "__init__.py").is_file(), package


def test_wheel_has_one_top_level_name(tmp_path):
    """A wheel installs `castore` and nothing else, with all modules, pictures and `py.typed`."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("castore", *BESIDE):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"castore"}
    expected = {"castore/py.typed"}
    for top in ("castore", *BESIDE):
        for path in (ROOT / top).rglob("*.py"):
            inside = BESIDE.get(top, top).replace(".", "/")
            expected.add(f"{inside}/{path.relative_to(ROOT / top).as_posix()}")
    pictures = (ROOT / "castore/identity/pictures").iterdir()
    expected |= {path.relative_to(ROOT).as_posix() for path in pictures}
    assert set(names) == expected


def test_version_is_the_installed_one():
    """`castore.__version__` is what the installer recorded."""
    assert castore.__version__ == metadata.version("castore")


def test_public_names_are_sorted():
    """`castore.__all__` is sorted, has no doubles and names only what is there."""
    assert castore.__all__ == sorted(set(castore.__all__))
    for name in castore.__all__:
        assert hasattr(castore, name), name


def test_public_names_are_complete():
    """What a user can see on `castore` is in `__all__`, save modules and private names."""
    seen = {
        name
        for name, value in vars(castore).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert seen - {"Any", "TYPE_CHECKING", "annotations"} <= set(castore.__all__)
    assert dir(castore) == castore.__all__


def public_objects():
    """Yield (dotted name, object) for all public names, and for the public methods of classes."""
    for name in castore.__all__:
        value = getattr(castore, name)
        yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                function = getattr(member, "__func__", member)
                if not attribute.startswith("_") and (
                    inspect.isfunction(function) or isinstance(member, property)
                ):
                    yield f"{name}.{attribute}", function


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public_objects()]
)
def test_public_names_are_documented(name, value):
    """Every public function, class and method has a docstring of its own."""
    own = value.__doc__ if not inspect.isclass(value) else vars(value).get("__doc__")
    assert own, name
    assert own.strip(), name


#: Needed only for some of the work, or optional.
HEAVY = ("torch", "zarr", "numcodecs", "click", "rich", "matplotlib", "s3fs", "botocore")


def test_import_is_light():
    """`import castore` imports no library that is needed only for some of the work."""
    script = f"import sys, castore; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    assert run(sys.executable, "-c", script).split() == []


def test_help_is_light():
    """`castore --help` answers without numerical libraries."""
    script = (
        "import sys; from castore.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(*[m for m in {('torch', 'zarr', 'matplotlib')!r} if m in sys.modules], sep='\\n')"
    )
    out = run(sys.executable, "-c", script)
    assert "Usage" in out
    assert not re.search(r"^(torch|zarr|matplotlib)$", out, flags=re.MULTILINE)


def test_console_script_is_declared():
    """The installed command `castore` is the command line's `main`."""
    (script,) = metadata.entry_points(group="console_scripts", name="castore")
    assert script.value == "castore.cli.main:main"


def test_importing_loads_nothing_a_program_may_not_need():
    """`import castore` alone loads no numpy; an unknown name is an AttributeError that says it."""
    script = (
        "import sys, castore; assert 'numpy' not in sys.modules; "
        "from castore import Store, errors, hash_model, indices, init, open; "
        "assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        castore.nothing  # noqa: B018
