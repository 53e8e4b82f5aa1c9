"""Progress: counts for who asks, a bar on a terminal, and nothing anywhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from castore.progress import shown


def test_a_function_gets_the_counts():
    """A function passed as progress is called with the rows done and the rows in all."""
    calls = []
    with shown(lambda done, total: calls.append((done, total)), "label", 10) as update:
        update(3)
        update(10)
    assert calls == [(3, 10), (10, 10)]


def test_a_function_is_told_where_the_total_is_unknown():
    """Rows in all are None where nobody knows them."""
    calls = []
    with shown(lambda *counts: calls.append(counts), "label", None) as update:
        update(1)
    assert calls == [(1, None)]


def test_what_a_progress_function_raises_is_seen():
    """A progress function may stop the computation by raising."""

    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), shown(stop, "label", 10) as update:
        update(1)


SCRIPT = """
import sys
from castore.progress import shown

with shown({progress}, "working on it", {total}) as update:
    update(3)
    print("begun", flush=True)
    sys.stdin.readline()
    update(10)
{after}
print("ended", flush=True)
"""


def script(progress, total=10, after=""):
    """Command that shows progress until a line comes in."""
    return [sys.executable, "-c", SCRIPT.format(progress=progress, total=total, after=after)]


ENVIRONMENT = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}


@pytest.mark.parametrize("progress", [None, False])
def test_off_a_terminal_nothing_is_written(progress):
    """Without a terminal, or where it is switched off, a computation is silent."""
    run = subprocess.run(
        script(progress), check=True, capture_output=True, text=True, input="\n", env=ENVIRONMENT
    )
    assert run.stderr == ""
    assert run.stdout.split() == ["begun", "ended"]


class Terminal:
    """A process with its standard error on a terminal of the test's own."""

    def __init__(self, command):
        pty = pytest.importorskip("pty")
        self._end, process_end = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=process_end,
            env=ENVIRONMENT,
            text=True,
        )
        os.close(process_end)
        self.seen = b""

    def read(self) -> bool:
        """Wait for output; tell whether there may be more."""
        try:
            data = os.read(self._end, 4096)
        except OSError:  # Linux says so when the process is gone
            data = b""
        self.seen += data
        return bool(data)

    def until(self, text: bytes) -> None:
        """Read on until the terminal has shown `text`."""
        while text not in self.seen:
            assert self.read(), f"the process ended without showing {text!r}: {self.seen!r}"

    def finish(self) -> str:
        """Let the process end; return what it wrote to its standard output."""
        out, _ = self.process.communicate("\n", timeout=60)
        while self.read():
            pass
        os.close(self._end)
        assert self.process.returncode == 0
        return out


def test_a_bar_is_shown_at_once_where_it_is_asked_for():
    """With `progress=True` a terminal shows label and counts, which leave no trace."""
    terminal = Terminal(script(True))
    terminal.until(b"working on it")
    terminal.until(b"3/10")
    assert terminal.finish().split() == ["begun", "ended"]
    assert terminal.seen.rstrip().endswith(b"\x1b[2K")


def test_a_bar_is_shown_for_long_work_on_a_terminal():
    """By default work that goes on beyond a second is shown on a terminal."""
    terminal = Terminal(script(None))
    terminal.until(b"3/10")
    assert terminal.finish().split() == ["begun", "ended"]


def test_work_without_a_total_is_shown_by_its_label():
    """Where the rows in all are not known a terminal shows the label and the time."""
    terminal = Terminal(script(True, total=None))
    terminal.until(b"working on it")
    terminal.until(b"3/?")
    terminal.finish()


def test_a_bar_switched_off_stays_off_on_a_terminal():
    """With `progress=False` a terminal shows nothing."""
    terminal = Terminal(script(False))
    terminal.finish()
    assert terminal.seen == b""


def test_short_work_is_not_shown_on_a_terminal():
    """Work that ends before the delay leaves the terminal empty and loads nothing to draw with."""
    after = "assert 'rich' not in sys.modules, 'rich was imported'"
    command = script(None, after=after)
    command[-1] = command[-1].replace("    sys.stdin.readline()\n", "")
    terminal = Terminal(command)
    terminal.finish()
    assert terminal.seen == b""


FAILING = """
import sys
from castore.progress import shown

try:
    with shown(True, "working on it", 10):
        sys.stdin.readline()
        raise RuntimeError("stop")
except RuntimeError as error:
    print(error)
"""


def test_the_bar_ends_with_the_work_that_fails():
    """Where the computation raises, the bar is taken away and the error passes through."""
    terminal = Terminal([sys.executable, "-c", FAILING])
    terminal.until(b"working on it")
    assert terminal.finish().split() == ["stop"]


def test_a_bar_that_is_asked_for_off_a_terminal_says_nothing():
    """Even with `progress=True` nothing is written where there is no terminal to draw on."""
    run = subprocess.run(
        script(True),
        check=True,
        capture_output=True,
        text=True,
        input="\n",
        env=ENVIRONMENT,
    )
    assert run.stderr.strip() == ""
