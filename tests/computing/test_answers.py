"""What a caller may ask for: anything else is refused by the name of the argument."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import castore
from castore.computing.answers import LOOSE, Miss, Options
from castore.errors import ConfigError
from castore.once.heartbeat import MAX_WAIT

REFUSED = [
    {"audit": 2},
    {"audit": -0.1},
    {"audit": math.nan},
    {"audit": True},
    {"audit": "all"},
    {"compare": "batch_size"},
    {"compare": "x"},
    {"compare": ""},
    {"compare": None},
    {"compare": ("batch_size", "collate")},
    {"returns": "jax"},
    {"rowwise": "yes"},
    {"rowwise": 1},
    {"rowwise": 0},
    {"rowwise": None},
    {"rowwise": np.True_},
    {"wait": -1},
    {"wait": math.nan},
    {"wait": "long"},
    {"wait": None},
]


@pytest.mark.parametrize("argument", REFUSED, ids=str)
def test_what_cannot_be_done_is_refused_by_name(argument):
    """The function does not run, and the message names the argument and the value given."""
    ran = []
    ((name, value),) = argument.items()
    store = castore.open("memory://refused")
    with pytest.raises(ConfigError) as raised:
        store.get_or_compute(np.arange(3), ran.append, "s", model=None, **argument)
    assert str(raised.value).startswith(f"{name}={value!r}: ")
    assert not ran


def test_refusals_are_not_computed_around():
    """A call that cannot be used as given is refused where trouble of the store's own is not."""
    store = castore.open("memory://refused", on_error="compute")
    with pytest.raises(ConfigError, match="audit=2"):
        store.get_or_compute(np.arange(3), np.copy, "s", model=None, audit=2)


def test_tensors_are_refused_where_there_is_no_torch():
    """Without torch ``returns="torch"`` says to import it."""
    code = (
        "from castore.computing.answers import Options\n"
        "try: Options('torch')\n"
        "except Exception as error: assert 'import torch first' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.floats(0, 1e9))
def test_patience_is_what_the_caller_says(seconds):
    """A number is seconds; True is as long as anybody waits, False not at all."""
    assert Options(wait=seconds).patience == seconds
    assert Options(wait=True).patience == MAX_WAIT
    assert Options(wait=False).patience == 0


def test_batch_sizes_do_not_matter_unless_compared():
    """What is compared is taken from what may differ."""
    assert Options().loose == {"batch_size"}
    assert Options(compare=LOOSE).loose == Options(compare=["batch_size"]).loose == set()


def test_only_what_is_absent_yields_to_what_is_there():
    """A result computed for any other reason replaces the one that was no answer."""
    reasons = ["absent", "code", "damaged", "forced", "together"]
    assert [reason for reason in reasons if not Miss(reason).replaces] == ["absent"]
