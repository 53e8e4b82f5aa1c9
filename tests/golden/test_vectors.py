"""Golden vectors: the same inputs have the same digests on any machine, Python and torch.

vectors.json is part of the format. make.py, which says how it is made, computes the same here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import xxhash

FOLDER = Path(__file__).parent
STORED = json.loads((FOLDER / "vectors.json").read_text())
CORE = [(s, name) for s, vectors in STORED.items() if s != "torch" for name in vectors]
PREIMAGES = [
    pytest.param(vector, id=f"{section} {name}")
    for section, vectors in STORED.items()
    for name, vector in vectors.items()
    if isinstance(vector, dict) and len(vector) == 2
]


@pytest.fixture(scope="module")
def make():
    """The script that made the vectors, as a module."""
    spec = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        patch.syspath_prepend(FOLDER)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def computed(make):
    """What this Python makes of the same inputs, without torch's part."""
    return make.core()


@pytest.mark.parametrize(("section", "name"), CORE)
def test_vectors_are_as_they_were(computed, section, name):
    """Preimage and digest of every rule are those that stores have been written with."""
    assert computed[section][name] == STORED[section][name]


def test_every_rule_has_a_vector(computed):
    """What make.py computes is in vectors.json: to add a rule is to run it again."""
    assert {section: list(vectors) for section, vectors in computed.items()} == {
        section: list(vectors) for section, vectors in STORED.items() if section != "torch"
    }


@pytest.mark.parametrize("name", STORED["torch"])
def test_vectors_of_torch_are_as_they_were(make, name):
    """Tensors and models have the digests they had, with any torch."""
    pytest.importorskip("torch")
    found = make.with_torch()
    assert list(found) == list(STORED["torch"])
    assert found[name] == STORED["torch"][name]


@pytest.mark.parametrize("vector", PREIMAGES)
def test_digests_are_of_their_preimages(vector):
    """Anybody with xxh3-128 makes the digest from the preimage, without castore."""
    preimage = (
        vector["preimage"].encode("ascii")
        if "preimage" in vector
        else bytes.fromhex(vector["preimage_hex"])
    )
    assert preimage.startswith(b"castore/1/")
    assert xxhash.xxh3_128_hexdigest(preimage) == vector["digest"]
