"""Who a process is, and when it is certainly gone: with real processes and real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from castore.once import owner as owner_module
from castore.once.owner import Owner

ROOT = Path(__file__).parents[2]
TELL = """
import json, sys
from castore.once.owner import Owner
print(json.dumps(Owner.here().document()), flush=True)
sys.stdin.read()
"""

# What runs a process as the first of a namespace of its own, or fails where nobody may.
NAMESPACE = (
    ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare")
    else ["false"]
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only Linux tells who is gone"
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@pytest.fixture
def other():
    """Start another process; return it and the owner it says it is."""
    with subprocess.Popen(
        [sys.executable, "-c", TELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        yield process, Owner.of(json.loads(process.stdout.readline()))
        process.kill()


def test_a_running_process_is_not_gone(other):
    """Neither this process nor another that runs is gone, and they differ."""
    _, owner = other
    assert owner != Owner.here()
    assert not owner.is_gone()
    assert not Owner.here().is_gone()


def test_a_stopped_process_is_not_gone(other):
    """A process that was stopped can go on: it is not gone."""
    process, owner = other
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert not owner.is_gone()


def test_a_zombie_is_gone(other):
    """A process that was killed is gone before its parent asks how it ended, and after."""
    process, owner = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists()
    assert owner.is_gone()
    process.wait()
    assert owner.is_gone()


def test_a_process_whose_first_thread_ended_is_not_gone():
    """A process in which only the first thread has ended still computes."""
    script = (
        "import ctypes, json, sys, threading\n"
        "from castore.once.owner import Owner\n"
        "def work():\n"
        "    main.join(0.2)\n"
        "    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z': pass\n"
        "    print(json.dumps(owner.document()), flush=True)\n"
        "    sys.stdin.read()\n"
        "main, owner = threading.main_thread(), Owner.here()\n"
        "threading.Thread(target=work).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        line = process.stdout.readline()
        assert line, "the process ended with its first thread"
        owner = Owner.of(json.loads(line))
        assert not owner.is_gone()
        process.kill()
    assert owner.is_gone()


def test_an_id_used_again_is_another_process(other):
    """A process that has the id and another start time is not the one that was meant."""
    _, owner = other
    assert replace(owner, start=owner.start - 1).is_gone()


@pytest.mark.parametrize(
    ("field", "value"),
    [("boot", "another"), ("boot", None), ("namespace", "pid:[1]"), ("namespace", None),
     ("start", None)],
)  # fmt: skip
def test_nothing_is_certain_from_elsewhere(other, field, value):
    """Of a process of another boot or namespace, or without a start time, nothing is known."""
    process, owner = other
    process.kill()
    process.wait()
    assert owner.is_gone()
    assert not replace(owner, **{field: value}).is_gone()


def test_the_host_name_does_not_matter(other):
    """The name is for people: containers that share processes may have several."""
    process, owner = other
    process.kill()
    process.wait()
    assert replace(owner, host="elsewhere").is_gone()


def test_a_process_hidden_from_the_observer_is_not_gone(other, monkeypatch):
    """Where other users' processes are not shown, a signal tells that one is there."""
    _, owner = other
    here = Owner.here()
    monkeypatch.setattr(owner_module, "_status", lambda _: None)
    monkeypatch.setattr(Owner, "here", classmethod(lambda _: here))
    assert not owner.is_gone()


def test_without_proc_nothing_is_certain(other, monkeypatch, tmp_path):
    """Where the system tells no start times a process has none, and none is gone for sure."""
    process, owner = other
    process.kill()
    process.wait()
    monkeypatch.setattr(owner_module, "_SELF", tmp_path / "self")
    owner_module._here.cache_clear()
    try:
        here = Owner.here()
        assert (here.pid, here.boot, here.namespace, here.start) == (os.getpid(), None, None, None)
        assert not owner.is_gone()
        assert not replace(here, pid=process.pid).is_gone()
    finally:
        owner_module._here.cache_clear()


def test_a_forked_child_is_another_owner():
    """Right after a fork the child is itself, and its parent is not gone."""
    parent = Owner.here()
    child = os.fork()
    if child == 0:
        here = Owner.here()
        os._exit(here == parent or here.pid != os.getpid() or parent.is_gone())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Owner.here() == parent


def test_a_child_in_a_namespace_of_its_own_is_elsewhere():
    """A process id of another namespace says nothing here, though such a process exists."""
    script = TELL.replace("sys.stdin.read()", "")
    run = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", script],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if run.returncode:
        pytest.skip("this machine lets nobody make a namespace")
    owner = Owner.of(json.loads(run.stdout))
    assert owner.boot == Owner.here().boot
    assert owner.namespace != Owner.here().namespace
    assert not owner.is_gone()


def test_a_child_with_its_parents_id_is_another_owner():
    """A child that is the first of a new namespace, as its parent is of its own, is itself."""
    script = (
        "import ctypes, os\n"
        "from castore.once.owner import Owner\n"
        "here = Owner.here()\n"
        "assert here.pid == 1 and here.start\n"
        "assert ctypes.CDLL(None).unshare(0x20000000) == 0\n"  # CLONE_NEWPID
        "child = os.fork()\n"
        "if child == 0: os._exit(os.getpid() == 1 and Owner.here() == here)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    run = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", script],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if run.returncode:
        pytest.skip("this machine lets nobody make a namespace")
    assert run.stdout == "0\n"


def test_names_of_programs_do_not_matter(tmp_path):
    """Spaces and parentheses in a program's name do not shift what is read after it."""
    program = tmp_path / "a) Z (b"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen([program, "60"]) as process:
        while f"({program.name})" not in Path(f"/proc/{process.pid}/stat").read_text():
            os.sched_yield()
        _, state, threads, start = owner_module._status(Path(f"/proc/{process.pid}"))
        assert (state in "RSD", threads) == (True, 1)
        assert start >= Owner.here().start
        process.kill()


def test_documents_are_read_back():
    """A process says who it is in a document, from which it is read back."""
    here = Owner.here()
    assert Owner.of(here.document()) == here
    without = replace(here, boot=None, namespace=None, start=None)
    assert Owner.of(without.document()) == without


@given(document=anything)
def test_what_is_no_owner_is_none(document):
    """A document of any other form names nobody, and is no error."""
    assert Owner.of(document) is None


@given(field=st.sampled_from(["host", "boot", "namespace", "pid", "start"]), value=anything)
def test_ill_formed_owners_are_refused_or_harmless(field, value):
    """Whatever stands in one field, it is refused, or asking for it is harmless."""
    found = Owner.of({**Owner.here().document(), field: value})
    if found is not None:
        assert found.is_gone() in (True, False)


@pytest.mark.parametrize("pid", [0, -1, 2**31, True, 1.0, "1", None])
def test_what_is_no_process_id_names_nobody(pid):
    """Numbers that stand for groups of processes, or for none, are no process ids."""
    assert Owner.of({**Owner.here().document(), "pid": pid}) is None
