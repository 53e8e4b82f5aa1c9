"""Leases between real processes, threads and killed owners, and whatever else lies in their way."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from castore.backend.local import LocalBackend
from castore.blobs import layout
from castore.canonical import seal
from castore.errors import BackendError, ReadOnlyError
from castore.once import heartbeat
from castore.once.heartbeat import Sign
from castore.once.lease import TTL, Lease, acquire, collect, holding
from castore.once.owner import Owner

ROOT = Path(__file__).parents[2]
KEY, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
ENTRY = "entry"

HOLD = """
import sys
from pathlib import Path
from castore.backend.local import LocalBackend
from castore.once.lease import acquire
lease = acquire(LocalBackend(Path(sys.argv[1])), sys.argv[2], "held", lambda: None)
print("held", flush=True)
sys.stdin.read()
lease.release()
"""

COMPUTE = """
import os, sys
from pathlib import Path
from castore.backend.local import LocalBackend
from castore.once.lease import Lease, acquire
backend = LocalBackend(Path(sys.argv[1]))
look = lambda: backend.get("entry")
print("ready", flush=True)
sys.stdin.readline()
found = look() or acquire(backend, sys.argv[2], "computed", look)
if isinstance(found, Lease):
    with found:
        backend.create(f"computed/{os.getpid()}", [])
        backend.create("entry", [b"value"])
        found = b"value"
print(found.decode(), flush=True)
"""


def absent():
    """Look for an entry that is not there."""


def apart(act, *arguments, **options):
    """Call `act` as from another request of this process: it holds nothing."""
    return contextvars.Context().run(act, *arguments, **options)


def names(backend):
    """Names of all objects there are."""
    return [info.name for info in backend.list("")]


def sign(owner=None):
    """Return a lease file as the process `owner` would write it."""
    return [seal(replace(Sign.begin("left"), owner=owner or Owner.here()).document())]


def child(script, *arguments):
    """Start `script` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


@given(key=st.text("0123456789abcdef", min_size=32, max_size=32), epoch=st.integers(0, 2**70))
def test_names_of_leases_are_read_back(key, epoch):
    """The name of a lease tells its key and epoch, and lies in the folder of its key."""
    name = layout.lease(key, epoch)
    assert layout.lease_of(name) == (key, epoch)
    assert name.startswith(layout.leases(key))
    assert name.startswith(layout.LEASES)


@pytest.mark.parametrize("epoch", ["00", "-1", "1.json", "", "1/2", "٣", "1\n", "x"])
def test_other_names_are_no_leases(epoch):
    """What is not letter by letter the name of a lease is none."""
    assert layout.lease_of(f"leases/{KEY}/{epoch}") is None
    assert layout.lease_of(f"leases/{KEY[1:]}/0") is None


def test_the_first_gets_the_lease_and_leaves_nothing(backend):
    """Who asks first gets the lease, holds it until he releases it, and leaves no file."""
    with acquire(backend, KEY, "a test", absent) as lease:
        assert isinstance(lease, Lease)
        assert lease.key == KEY
        assert names(backend) == [layout.lease(KEY, 0)]
        assert lease.is_held()
        assert holding()
    assert names(backend) == []
    assert not lease.is_held()
    assert not holding()
    if isinstance(backend, LocalBackend):
        assert not (Path(backend.url) / "leases" / KEY).exists()


def test_what_is_there_by_now_is_returned(backend):
    """Who got the lease looks once more, and keeps no lease where the entry is there by now."""
    assert acquire(backend, KEY, "a test", lambda: "found") == "found"
    assert names(backend) == []
    assert not holding()


def test_an_error_of_the_look_keeps_no_lease(backend):
    """Where looking once more fails the lease is released, and the error comes out."""

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        acquire(backend, KEY, "a test", fail)
    assert names(backend) == []
    assert not holding()


def test_an_exception_releases_the_lease(backend):
    """A computation that fails holds nobody up."""
    with (
        pytest.raises(ZeroDivisionError),
        acquire(backend, KEY, "a test", absent),
    ):
        raise ZeroDivisionError
    assert names(backend) == []
    assert not holding()


def test_keys_do_not_meet(backend):
    """Who computes one key does not keep another from computing another."""
    with acquire(backend, KEY, "one", absent):
        other = apart(acquire, backend, OTHER, "two", absent, wait=0)
        assert isinstance(other, Lease)
        other.release()


def test_who_does_not_wait_computes_without(backend, clock):
    """With nothing to wait for, a refused request has no lease, pauses not once, leaves nothing."""
    with acquire(backend, KEY, "one", absent):
        assert apart(acquire, backend, KEY, "two", absent, wait=0) is None
        assert clock.paused == []
        assert names(backend) == [layout.lease(KEY, 0)]


def test_waiting_ends_after_so_many_seconds(backend, clock):
    """A request waits as long as it was told, is told whom for, and then computes without."""
    told = []
    with acquire(backend, KEY, "one", absent):
        clock.on_pause = lambda: [
            backend.put(layout.lease(KEY, 0), sign()) for _ in range(clock.time % 20 < 0.3)
        ]
        begun = clock.time
        assert apart(acquire, backend, KEY, "two", absent, wait=300, on_wait=told.append) is None
        assert clock.time - begun == pytest.approx(300, abs=1e-6)
    assert {one.owner for one in told} == {Owner.here()}
    assert {one.label for one in told} <= {"one", "left"}
    waited = [one.waited for one in told]
    assert waited == sorted(waited)
    assert 299 < waited[-1] <= 300


def test_an_error_of_whoever_is_told_ends_the_call(backend, clock):
    """Who watches the waiting may end it by raising."""

    def stop(_):
        raise KeyboardInterrupt

    with acquire(backend, KEY, "one", absent), pytest.raises(KeyboardInterrupt):
        apart(acquire, backend, KEY, "two", absent, on_wait=stop)


def test_a_waiter_gets_what_was_computed(backend, clock):
    """A waiter looks again and again, and returns what the owner committed."""
    lease = acquire(backend, KEY, "one", absent)

    def finish():
        if len(clock.paused) == 7:
            backend.create(ENTRY, [b"value"])
            lease.release()

    clock.on_pause = finish
    assert apart(acquire, backend, KEY, "two", lambda: backend.get(ENTRY)) == b"value"
    assert len(clock.paused) == 7
    assert names(backend) == [ENTRY]


def test_a_waiter_takes_over_what_was_given_up(backend, clock):
    """Where the owner releases without a result, a waiter gets the lease."""
    lease = acquire(backend, KEY, "one", absent)
    clock.on_pause = lease.release
    with apart(acquire, backend, KEY, "two", absent) as second:
        assert isinstance(second, Lease)
        assert second.is_held()


def test_who_holds_a_lease_never_waits(backend, clock):
    """A nested call takes a free lease, and computes without one that another holds."""
    theirs = apart(acquire, backend, OTHER, "theirs", absent)
    with acquire(backend, KEY, "ours", absent):
        assert acquire(backend, OTHER, "nested", absent) is None
        assert acquire(backend, KEY, "the same", absent) is None
        with acquire(backend, "a" * 32, "free", absent) as third:
            assert isinstance(third, Lease)
        assert holding()
    assert clock.paused == []
    theirs.release()


def test_a_forked_child_leaves_the_lease_alone(tmp_path):
    """A child holds, so it does not wait, and its release takes nothing from the parent."""
    backend = LocalBackend(tmp_path)
    with acquire(backend, KEY, "the parent's", absent) as lease:
        pid = os.fork()
        if pid == 0:
            lease.release()
            waits = acquire(backend, KEY, "the child's", absent) is not None
            os._exit(waits or not holding() or threading.active_count() != 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert lease.is_held()
    assert names(backend) == []


def test_a_lease_taken_over_is_no_longer_held(backend, clock):
    """Who was taken for dead finds out by asking, and his release leaves the other's alone."""
    lost = acquire(backend, KEY, "stalled", absent)
    clock.on_pause = lambda: setattr(clock, "time", clock.time + TTL)
    with apart(acquire, backend, KEY, "second", absent) as second:
        assert second.is_held()
        assert not lost.is_held()
        assert names(backend) == [layout.lease(KEY, 0), layout.lease(KEY, 1)]
        lost.release()
        assert second.is_held()
    assert names(backend) == []


def test_a_lease_replaced_by_another_is_not_touched(backend, clock):
    """A file of the same name and another nonce is somebody else's."""
    lease = acquire(backend, KEY, "ours", absent)
    backend.put(layout.lease(KEY, 0), sign())
    assert not lease.is_held()
    lease.release()
    assert names(backend) == [layout.lease(KEY, 0)]


def test_nobody_takes_over_from_a_lease_that_was_renewed(backend, clock, monkeypatch):
    """An owner who renews just when he is taken for dead keeps his lease."""
    lease = acquire(backend, KEY, "slow", absent)
    real = backend.create

    def renew_first(name, *arguments, **options):
        if name == layout.lease(KEY, 1):
            lease._keeper.renew()
        return real(name, *arguments, **options)

    monkeypatch.setattr(backend, "create", renew_first)
    clock.on_pause = lambda: setattr(clock, "time", clock.time + TTL)
    assert apart(acquire, backend, KEY, "hasty", absent, wait=1) is None
    assert lease._keeper.is_own()
    assert names(backend) == [layout.lease(KEY, 0)]


def test_a_lease_that_was_left_alone_for_a_ttl_is_not_held(backend, clock):
    """Others may have taken it over and finished meanwhile, though it is the last one again."""
    lease = acquire(backend, KEY, "slow", absent)
    assert lease.is_held()
    clock.time += TTL
    assert not lease.is_held()
    lease._keeper.renew()
    assert not lease.is_held()
    lease.release()


BAD = {
    "empty": b"",
    "foreign": b"\x00\xff\x7fELF",
    "of a later format": seal({**Sign.begin("x").document(), "format": 99}),
    "damaged": seal(Sign.begin("x").document())[:-9] + b'00000000"',
    "of another host": seal(
        replace(
            Sign.begin("x"), owner=Owner("elsewhere", "another boot", "pid:[1]", 1, 1)
        ).document()
    ),
    "huge": bytes(1 << 20),
}


@pytest.mark.parametrize("kind", BAD)
def test_nobody_waits_for_ever_for_a_bad_lease(backend, clock, kind):
    """Whatever a lease file is, it is waited for one TTL, then the next epoch is taken."""
    backend.put(layout.lease(KEY, 0), [BAD[kind]])
    begun = clock.time
    with acquire(backend, KEY, "a test", absent) as lease:
        assert TTL <= clock.time - begun <= TTL + 1
        assert lease.is_held()
        assert names(backend) == [layout.lease(KEY, 0), layout.lease(KEY, 1)]


def test_a_free_epoch_0_is_taken_whatever_is_above(backend, clock):
    """Where epoch 0 is free it is taken, whatever epochs there are."""
    backend.put(layout.lease(KEY, 3), sign())
    with acquire(backend, KEY, "a test", absent):
        assert names(backend) == [layout.lease(KEY, 0), layout.lease(KEY, 3)]
    assert clock.paused == []


def test_a_lease_from_the_future_is_waited_for_one_ttl(tmp_path, clock):
    """A lease dated next year dies when it was not renewed for one TTL."""
    backend = LocalBackend(tmp_path)
    backend.put(layout.lease(KEY, 0), sign())
    ahead = time.time() + 365 * 86400
    os.utime(tmp_path / layout.lease(KEY, 0), (ahead, ahead))
    begun = clock.time
    with acquire(backend, KEY, "a test", absent) as lease:
        assert TTL <= clock.time - begun <= TTL + 1
        assert lease.is_held()


def test_an_old_lease_is_taken_over_at_once(tmp_path, clock):
    """A lease that nobody renewed for long, by the server's clock, holds nobody up."""
    backend = LocalBackend(tmp_path)
    backend.put(layout.lease(KEY, 0), sign(Owner("elsewhere", "b", "n", 1, 1)))
    before = time.time() - TTL - 60
    os.utime(tmp_path / layout.lease(KEY, 0), (before, before))
    with acquire(backend, KEY, "a test", absent, wait=0) as lease:
        assert lease.is_held()
    assert clock.paused == []


def test_a_folder_in_the_way_holds_nobody_up_for_ever(tmp_path, clock):
    """What refuses a lease and is in no listing is waited for one TTL."""
    backend = LocalBackend(tmp_path)
    (tmp_path / layout.lease(KEY, 0) / "odd").mkdir(parents=True)
    begun = clock.time
    with acquire(backend, KEY, "a test", absent) as lease:
        assert TTL <= clock.time - begun <= TTL + 1
        assert lease.is_held()


def test_a_lease_that_may_not_be_read_is_waited_for_one_ttl(tmp_path, clock, monkeypatch):
    """A lease file without permission to read it holds nobody up for longer than one TTL."""
    backend = LocalBackend(tmp_path)
    backend.put(layout.lease(KEY, 0), sign())
    (tmp_path / layout.lease(KEY, 0)).chmod(0)
    if os.geteuid() == 0:  # who may read everything meets a failing disk instead
        real = backend.get

        def fail(name):
            if name == layout.lease(KEY, 0):
                raise BackendError(name)
            return real(name)

        monkeypatch.setattr(backend, "get", fail)
    begun = clock.time
    with acquire(backend, KEY, "a test", absent) as lease:
        assert TTL <= clock.time - begun <= TTL + 1
        assert lease.is_held()


def test_trouble_while_acquiring_comes_out(backend, monkeypatch):
    """A store that cannot be written is the caller's to deal with, and nothing is held."""

    def fail(*_, **__):
        raise ReadOnlyError("no permission")

    monkeypatch.setattr(backend, "create", fail)
    with pytest.raises(ReadOnlyError):
        acquire(backend, KEY, "a test", absent)
    assert not holding()


def test_a_lease_of_a_dead_process_is_taken_over_at_once(backend, clock, gone):
    """A lease whose owner is gone holds nobody up, not even who does not wait."""
    backend.put(layout.lease(KEY, 0), sign(gone))
    with acquire(backend, KEY, "a test", absent, wait=0) as lease:
        assert lease.is_held()
        assert names(backend) == [layout.lease(KEY, 0), layout.lease(KEY, 1)]
    assert names(backend) == [layout.lease(KEY, 0)]
    assert collect(backend) == 1
    assert names(backend) == []


def test_a_killed_owner_is_noticed_while_waiting(tmp_path):
    """A waiter takes over from a killed owner long before the lease would die of age."""
    backend = LocalBackend(tmp_path)
    with child(HOLD, tmp_path, KEY) as owner:
        assert owner.stdout.readline() == "held\n"
        told = []

        def kill(waiting):
            told.append(waiting)
            if len(told) == 3:
                owner.send_signal(signal.SIGKILL)

        lease = acquire(backend, KEY, "a test", absent, on_wait=kill, wait=TTL / 2)
        assert isinstance(lease, Lease)
        assert {one.owner.pid for one in told} == {owner.pid}
        assert told[0].label == "held"
        lease.release()
    assert collect(backend) == 1
    assert names(backend) == []


def test_a_stopped_owner_keeps_its_lease_for_one_ttl(tmp_path, clock):
    """An owner that was stopped is taken over when it renewed nothing for one TTL."""
    backend = LocalBackend(tmp_path)
    with child(HOLD, tmp_path, KEY) as owner:
        assert owner.stdout.readline() == "held\n"
        owner.send_signal(signal.SIGSTOP)
        begun = clock.time
        with acquire(backend, KEY, "a test", absent):
            assert TTL <= clock.time - begun <= TTL + 1
        owner.kill()


def test_sixteen_processes_compute_once(tmp_path):
    """Of 16 processes that ask for one key at once one computes, and all have the value."""
    processes = [child(COMPUTE, tmp_path, KEY) for _ in range(16)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]
    assert answers == ["value\n"] * 16
    backend = LocalBackend(tmp_path)
    assert len(list(backend.list("computed/"))) == 1
    assert list(backend.list(layout.LEASES)) == []


def test_sixteen_threads_compute_once(backend):
    """Of 16 threads that ask for one key at once one computes, and all have the value."""
    start = threading.Barrier(16)
    computed, answers = [], []

    def ask():
        start.wait()
        found = acquire(backend, KEY, "a test", lambda: backend.get(ENTRY))
        if isinstance(found, Lease):
            with found:
                computed.append(1)
                backend.create(ENTRY, [b"value"])
                found = b"value"
        answers.append(found)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]
    assert answers == [b"value"] * 16
    assert names(backend) == [ENTRY]


def test_the_lease_is_renewed_while_the_work_goes_on(backend, monkeypatch):
    """A lease is written again while the function runs, without the function's doing."""
    monkeypatch.setattr(heartbeat, "RENEW", 0.001)
    with acquire(backend, KEY, "a test", absent) as lease:
        first = backend.stat(layout.lease(KEY, 0)).tag
        while backend.stat(layout.lease(KEY, 0)).tag == first:
            pass
        assert lease.is_held()
    assert names(backend) == []


def test_collecting_removes_what_the_dead_left_and_nothing_else(backend, clock, gone):
    """Leases of the dead go, of whatever key; live ones stay, and what is no lease."""
    backend.put(ENTRY, [b"value"])
    backend.put("leases/README", [b"no lease"])
    for epoch in (0, 1, 10):
        backend.put(layout.lease(KEY, epoch), sign(gone))
    live = acquire(backend, OTHER, "live", absent)
    assert collect(backend) == 3
    assert names(backend) == [ENTRY, "leases/README", layout.lease(OTHER, 0)]
    assert live.is_held()
    live.release()
    assert collect(backend) == 0


def test_nothing_below_a_live_lease_is_collected(backend, clock, gone):
    """What a live owner took over stays until he is done: else epoch 0 could be created again."""
    backend.put(layout.lease(KEY, 0), sign(gone))
    with acquire(backend, KEY, "second", absent):
        assert collect(backend) == 0
        assert names(backend) == [layout.lease(KEY, 0), layout.lease(KEY, 1)]
    assert collect(backend) == 1


def test_collecting_stops_above_a_live_lease(backend, clock, gone):
    """Of a live lease below a dead one only the dead one goes."""
    backend.put(layout.lease(KEY, 0), sign())
    backend.put(layout.lease(KEY, 1), sign(gone))
    assert collect(backend) == 1
    assert names(backend) == [layout.lease(KEY, 0)]
