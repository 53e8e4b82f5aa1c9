"""A real store, and the command run on it: in this process, in another, and on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from click.testing import CliRunner

import castore
from castore.cli.main import main

COMMAND = (sys.executable, "-m", "castore.cli")


def double(x):
    """Give twice `x`."""
    return x * 2


def fill(store):
    """Store two entries of `double` and one of `features`; return their keys."""
    for rows in (6, 12):
        store.get_or_compute(np.arange(2.0 * rows).reshape(rows, 2), double, "double", model=None)
    scale = 1.5
    store.get_or_compute(
        np.arange(30000.0).reshape(300, 100),
        lambda x: {"mean": x.mean(1) * scale, "x": x},
        "features",
        model="0123456789abcdef" * 2,
        params={"layer": (3, "relu")},
        version="2",
    )
    entries = {(entry.suffix, entry.rows): entry.key for entry in store.entries()}
    return {"small": entries["double", 6], "large": entries["double", 12]} | {
        "features": entries["features", 300]
    }


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty place for a store, and the settings that name it."""
    monkeypatch.setenv("CASTORE_URL", str(tmp_path / "store"))
    return castore.open()


@pytest.fixture
def keys(store):
    """Keys of the entries in the store, which is filled."""
    return fill(store)


@pytest.fixture
def run():
    """Run the command here; the result has exit_code, stdout and stderr."""

    def invoke(*arguments):
        result = CliRunner().invoke(main, list(map(str, arguments)), prog_name="castore")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return invoke


@pytest.fixture
def spawn():
    """Run the command in a process of its own, without a terminal."""

    def invoke(*arguments, **environment):
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return invoke


class Terminal:
    """The command in a process of its own, on a pseudo-terminal."""

    def __init__(self, *arguments, columns=80):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env={**known, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._seen = b""

    def _read(self):
        ready, _, _ = select.select([self._ours], [], [], 60)
        if not ready:
            self.process.kill()
        assert ready, f"nothing more came: {self._seen!r}"
        try:
            found = os.read(self._ours, 65536)
        except OSError:  # how Linux says that nobody writes any more
            found = b""
        self._seen += found
        return bool(found)

    def until(self, text):
        """Read until `text` has come."""
        while text.encode() not in self._seen:
            assert self._read(), f"ended before {text!r}: {self._seen!r}"

    def type(self, text):
        """Write `text` as a person would."""
        os.write(self._ours, text.encode())

    def end(self):
        """Wait for the end; return the exit code and everything shown, as lines."""
        while self._read():
            pass
        code = self.process.wait(timeout=60)
        os.close(self._ours)
        return code, self._seen.decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def terminal():
    """Run the command on a terminal; see `Terminal`."""
    return Terminal
