"""What the tests of leases and claims stand on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.once import heartbeat, holding
from castore.once.owner import Owner

_spec = importlib.util.spec_from_file_location(
    "castore_once_simulation", Path(__file__).with_name("simulation.py")
)
_simulation = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_simulation)


@pytest.fixture(scope="session")
def simulation():
    """Return the module that runs processes step by step."""
    return _simulation


class FakeClock(heartbeat.Clock):
    """A clock that goes only when told, and renews nothing."""

    def __init__(self):
        self.time = 1000.0
        self.paused = []
        self.on_pause = lambda: None

    def monotonic(self):
        """Return the time."""
        return self.time

    def pause(self, seconds):
        """Go on by `seconds`."""
        self.paused.append(seconds)
        self.time += seconds
        self.on_pause()

    def every(self, seconds, act):
        """Leave renewals to the test."""
        return lambda: None


@pytest.fixture
def clock(monkeypatch):
    """Put a clock in place that goes only when told."""
    fake = FakeClock()
    monkeypatch.setattr(heartbeat, "clock", fake)
    return fake


@pytest.fixture(autouse=True)
def _nothing_held():
    """Begin each test in a context that holds nothing, whatever the last one left."""
    holding._held.set(())


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    return LocalBackend(tmp_path) if request.param == "local" else MemoryBackend(uuid.uuid4().hex)


@pytest.fixture
def gone():
    """Return the owner of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return replace(Owner.here(), pid=process.pid)
