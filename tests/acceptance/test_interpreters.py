"""Documents and digests are the same in every process: hash seeds, Pythons, ways to be started."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("identified.py")
VERSIONS = [f"python3.{minor}" for minor in range(11, 20)]


def printed(python, *arguments, **variables):
    """Return what the program prints in a process of its own."""
    done = subprocess.run(
        [python, PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


@functools.cache
def here():
    """Return what the program prints with this Python."""
    return printed(sys.executable)


def others():
    """Return the other Pythons that can import what identity stands on, one of each version.

    They are looked for on the path, in pyenv, and where the tests without torch keep theirs.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser()))
    places = [shutil.which(name) for name in VERSIONS]
    places += sorted(pyenv.glob("versions/3.*/bin/python3"))
    places += [ROOT / ".venv-core" / "bin" / "python"]
    own = f"{sys.implementation.name} {sys.version_info[:2]}"
    found = {version_of(place): place for place in places if place and Path(place).exists()}
    return {version: str(python) for version, python in found.items() if version not in ("", own)}


def version_of(python):
    """Return which Python it is, or nothing if it cannot run the program."""
    say = "import sys; print(sys.implementation.name, sys.version_info[:2])"
    done = subprocess.run(
        [python, "-c", f"import castore.identity.request, castore.identity.files.contents; {say}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_every_kind_is_identified():
    """The program identifies values, files, functions and datasets, and leaves nothing out."""
    found = here()
    assert set(found) == {"files", "requests", "tables", "values"}
    assert len(found["tables"]) > 15
    assert not any(not_keyed for _, _, not_keyed in found["tables"].values())
    digests = [digest for digest, _, _ in found["tables"].values()]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_hash_seeds_do_not_count(seed):
    """Whatever order sets and dicts of text are in, documents and digests are the same."""
    assert printed(sys.executable, PYTHONHASHSEED=seed) == here()


def test_hash_seeds_do_not_count_with_torch():
    """Models, torch's datasets and loaders too are the same in every process."""
    pytest.importorskip("torch")
    found = [printed(sys.executable, "torch", PYTHONHASHSEED=seed) for seed in ("0", "1")]
    assert len(found[0]["torch"]) == 5
    assert found[0] == found[1]
    assert {name: part for name, part in found[0].items() if name != "torch"} == here()


def test_other_pythons_agree():
    """Every other version of Python here makes the same documents and digests."""
    found = others()
    if not found:
        pytest.skip("no other Python here has numpy, xxhash and the rest")
    for version, python in found.items():
        assert printed(python) == here(), version


def test_an_imported_module_agrees():
    """Functions and types go by the same names in a script and in a module."""
    spec = importlib.util.spec_from_file_location("some.where.identified", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        tables = {name: function.table for name, function in module.functions().items()}
    finally:
        del sys.modules[spec.name]
    assert tables == {name: table for name, (table, _, _) in here()["tables"].items()}
