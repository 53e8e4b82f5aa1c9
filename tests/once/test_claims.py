"""Claims between real processes and threads, some of them killed."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from castore.backend.local import LocalBackend
from castore.once.claims import Claims
from castore.once.heartbeat import TTL
from castore.once.lease import acquire, holding, nested
from castore.once.owner import Owner

ROOT = Path(__file__).parents[2]
SCOPE, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2

HOLD = """
import sys
from pathlib import Path
import numpy as np
from castore.once.claims import Claims
rows = np.frombuffer(bytes.fromhex(sys.argv[3]), np.uint8).reshape(-1, 16)
with Claims(sys.argv[2], Path(sys.argv[1])).claim(rows, "held"):
    print("held", flush=True)
    sys.stdin.read()
"""

# Asks for random rows until all are there; a row computed is a file with the process's number.
ASK = """
import os, random, sys
from pathlib import Path
import numpy as np
from castore.backend.local import LocalBackend
from castore.once.claims import Claims
folder, scope, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = LocalBackend(folder / "store")
ids = np.zeros((count, 16), np.uint8)
ids[:, :8] = np.arange(count, dtype="<u8").reshape(-1, 1).view(np.uint8)
number = lambda rows: set(np.ascontiguousarray(rows[:, :8]).view("<u8").reshape(-1).tolist())
def committed():
    names = [i.name.split("/")[1] for i in store.list("rows/")]
    return {int(n) for name in names for n in (store.get("rows/" + name).decode().split())}
chance = random.Random(int(sys.argv[4]))
needs = {row for row in range(count) if chance.random() < 0.6}
print("ready", flush=True)
sys.stdin.readline()
while missing := needs - committed():
    with Claims(scope, folder / "claims").claim(ids[sorted(missing)], "rows") as claim:
        lower = set().union(*(number(one.row_ids) for one in claim.lower()))
        rows = missing - lower - committed()
        store.create(f"computed/{os.getpid()}-{claim.number}", [" ".join(map(str, rows)).encode()])
        if len(sys.argv) > 5 and rows:
            print("computing", flush=True)
            sys.stdin.read()
        store.create(f"rows/{os.getpid()}-{claim.number}", [" ".join(map(str, rows)).encode()])
    left = sorted(needs - committed())
    claim.wait_for_any(ids[left])
print("done", flush=True)
"""


def rows(*numbers):
    """Row ids, uint8 (n, 16), of numbers."""
    found = np.zeros((len(numbers), 16), np.uint8)
    found[:, :8] = np.array(numbers, "<u8").reshape(-1, 1).view(np.uint8)
    return found


def numbers(row_ids):
    """Return what `rows` was given."""
    return np.ascontiguousarray(row_ids[:, :8]).view("<u8").reshape(-1).tolist()


def apart(act, *arguments, **options):
    """Call `act` as from another request of this process: it holds nothing."""
    return contextvars.Context().run(act, *arguments, **options)


def child(script, *arguments):
    """Start `script` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def ended(folder):
    """Tell whether no claim is left."""
    return [info.name for info in LocalBackend(folder).list("")] == []


@pytest.fixture
def claims(tmp_path):
    """Claims of one scope, in a folder of their own."""
    return Claims(SCOPE, tmp_path)


def test_a_claim_shows_its_rows_to_those_above(claims, tmp_path):
    """A later claim sees who computes which rows below it, until that one is done."""
    with claims.claim(rows(1, 2), "the first") as first:
        second = apart(claims.claim, rows(2, 3), "the second")
        assert first.lower() == []
        (found,) = second.lower()
        assert (found.number, found.label, found.owner) == (
            first.number, "the first", Owner.here()
        )  # fmt: skip
        assert numbers(found.row_ids) == [1, 2]
    assert second.lower() == []
    second.done()
    assert ended(tmp_path)


def test_scopes_do_not_meet(claims, tmp_path):
    """Claims on rows of one table say nothing about another's."""
    with claims.claim(rows(1), "one"):
        assert apart(Claims(OTHER, tmp_path).claim, rows(1), "two").lower() == []


def test_an_exception_ends_the_claim(claims, tmp_path):
    """A computation that fails leaves its rows to others."""
    with pytest.raises(ZeroDivisionError), claims.claim(rows(1), "failing"):
        raise ZeroDivisionError
    assert ended(tmp_path)
    assert not holding()


def test_a_claim_counts_as_holding(claims, tmp_path):
    """Who holds a claim waits for no lease; afterwards he does again."""
    store = LocalBackend(tmp_path / "store")
    lease = apart(acquire, store, SCOPE, "theirs", lambda: None)
    with claims.claim(rows(1), "ours"):
        assert holding()
        assert acquire(store, SCOPE, "nested", lambda: None) is None
    assert not holding()
    lease.release()


def test_a_nested_claim_knows_of_no_others(claims):
    """Where a claim is held already, a further one sees nobody below, and waits for nobody."""
    theirs = apart(claims.claim, rows(1), "theirs")
    with claims.claim(rows(2), "outer") as outer:
        with claims.claim(rows(1), "inner") as inner:
            assert inner.lower() == []
            assert inner.wait_for_all(rows(1))
        assert [one.label for one in outer.lower()] == ["theirs"]
    with nested():
        assert claims.claim(rows(1), "for another process").lower() == []
    theirs.done()


def test_under_a_lease_one_may_wait_for_claims(claims, tmp_path, clock):
    """Holding a lease is no reason not to wait for rows: nobody with a claim waits for leases."""
    theirs = apart(claims.claim, rows(1), "theirs")
    clock.on_pause = theirs.done
    with (
        acquire(LocalBackend(tmp_path / "store"), SCOPE, "ours", lambda: None),
        claims.claim(rows(1), "ours") as ours,
    ):
        assert len(ours.lower()) == 1
        assert ours.wait_for_all(rows(1))
    assert len(clock.paused) == 1


def test_waiting_for_any_ends_with_the_first_free_row(claims, clock):
    """A wait for any row goes on while all are held, and ends when one claim of several does."""
    one = apart(claims.claim, rows(1, 2), "one")
    two = apart(claims.claim, rows(3), "two")
    with claims.claim(rows(1, 2, 3), "ours") as ours:
        pass
    told = []
    clock.on_pause = lambda: len(clock.paused) == 5 and two.done()
    assert ours.wait_for_any(rows(1, 2, 3), on_wait=told.append)
    assert len(clock.paused) == 5
    assert {one.label for one in told} == {"one"}
    assert ours.wait_for_any(rows(3))
    assert not ours.wait_for_any(rows(1), wait=1)
    one.done()


def test_waiting_for_all_ends_with_the_last_held_row(claims, clock):
    """A wait for all rows goes on until none of them is held, whoever else holds other rows."""
    held = [apart(claims.claim, rows(n), f"{n}") for n in range(3)]
    with claims.claim(rows(0, 1, 7), "ours") as ours:
        left = iter(held)
        clock.on_pause = lambda: next(left).done()
        assert ours.wait_for_all(rows(0, 1, 7))
        assert len(clock.paused) == 2
        assert [one.label for one in ours.lower()] == ["2"]


def test_nothing_missing_is_not_waited_for(claims, clock):
    """With no row to wait for no wait pauses."""
    theirs = apart(claims.claim, rows(1), "theirs")
    with claims.claim(rows(1), "ours") as ours:
        assert ours.wait_for_any(rows())
        assert ours.wait_for_all(rows())
        assert ours.wait_for_all(rows(2, 3))
    assert clock.paused == []
    theirs.done()


def test_a_wait_ends_when_time_is_up_or_it_is_told_to_stop(claims, clock):
    """A wait that is given up says so: after its seconds, or as soon as `stop` says yes."""
    theirs = apart(claims.claim, rows(1), "theirs")
    with claims.claim(rows(1), "ours") as ours:
        begun = clock.time
        assert not ours.wait_for_all(rows(1), wait=60)
        assert clock.time - begun == pytest.approx(60)
        answers = iter([False, False, True])
        clock.paused.clear()
        assert not ours.wait_for_all(rows(1), stop=lambda: next(answers))
        assert len(clock.paused) == 2
        assert not ours.wait_for_any(rows(1), wait=0)
    theirs.done()


def test_a_claim_nobody_renews_dies(claims, clock):
    """A claim that stays as it was for one TTL holds nobody up any longer."""
    apart(claims.claim, rows(1), "stalled")
    with claims.claim(rows(1), "ours") as ours:
        begun = clock.time
        assert ours.wait_for_all(rows(1))
        assert TTL <= clock.time - begun <= TTL + 1
        assert ours.lower() == []


def test_a_renewed_claim_lives(claims, clock):
    """A claim that is renewed is waited for as long as it lasts."""
    renewals = []
    clock.every = lambda _, act: renewals.append(act) or (lambda: None)
    theirs = apart(claims.claim, rows(1), "theirs")
    clock.on_pause = lambda: len(clock.paused) % 50 == 0 and renewals[0]()
    with claims.claim(rows(1), "ours") as ours:
        assert not ours.wait_for_all(rows(1), wait=5 * TTL)
    theirs.done()


def test_a_claim_of_a_killed_process_is_dropped(claims, tmp_path):
    """Rows of a killed process are free at once, and the next claim removes what it left."""
    with child(HOLD, tmp_path, SCOPE, rows(1, 2).tobytes().hex()) as owner:
        assert owner.stdout.readline() == "held\n"
        claim = claims.claim(rows(2, 3), "ours")
        (lower,) = claim.lower()
        assert (lower.owner.pid, lower.label, numbers(lower.row_ids)) == (owner.pid, "held", [1, 2])
        told = []

        def kill(waiting):
            told.append(waiting)
            if len(told) == 3:
                owner.send_signal(signal.SIGKILL)

        assert claim.wait_for_all(rows(2), on_wait=kill, wait=TTL / 2)
        assert told[0].owner == lower.owner
        assert claim.lower() == []
        claim.done()
    claims.claim(rows(1), "the next").done()
    assert ended(tmp_path)


def test_a_forked_child_leaves_the_claim_alone(claims, tmp_path):
    """A child neither renews nor ends its parent's claim, and waits for nobody."""
    with claims.claim(rows(1), "the parent's") as claim:
        pid = os.fork()
        if pid == 0:
            claim.done()
            lower = claims.claim(rows(1), "the child's").lower()
            os._exit(bool(lower) or not holding())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        above = apart(claims.claim, rows(1), "above")
        assert [one.label for one in above.lower()] == ["the parent's"]
        above.done()
    assert ended(tmp_path)


def test_without_a_folder_a_claim_knows_of_no_others(tmp_path, clock):
    """Where the folder cannot be used everybody computes for himself, and nothing is raised."""
    (tmp_path / "file").write_bytes(b"precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with Claims(SCOPE, folder).claim(rows(1), "alone") as claim:
            assert claim.number is None
            assert claim.lower() == []
            assert claim.wait_for_all(rows(1))
            assert claim.wait_for_any(rows(1))
            assert holding()
    assert not holding()
    assert clock.paused == []


def test_a_folder_that_vanishes_is_survived(claims, tmp_path):
    """A folder removed by somebody while claims are held ends no computation."""
    import shutil

    with claims.claim(rows(1), "ours"):
        other = apart(claims.claim, rows(1), "above")
        shutil.rmtree(tmp_path)
        assert other.lower() == []
        other.done()
    with claims.claim(rows(1), "again") as claim:
        assert claim.number == 0


def test_claims_lie_in_the_state_folder(tmp_path, monkeypatch):
    """By default claims lie in the user's state folder, those of each boot apart."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Claims(SCOPE).claim(rows(1), "ours"):
        (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    boot = Owner.here().boot or "-"
    assert path.relative_to(tmp_path).as_posix() == f"castore/claims/{boot}/{SCOPE}/{0:020}"


def test_rows_that_differ_only_in_their_last_bytes_are_few(claims, clock):
    """A wait compares the first half of row ids: too much waiting, never too little."""
    theirs = apart(claims.claim, rows(1), "theirs")
    with claims.claim(rows(1), "ours") as ours:
        alike = rows(1)
        alike[:, 15] = 1
        assert not ours.wait_for_all(alike, wait=0)
        assert not ours.wait_for_all(np.asfortranarray(np.repeat(alike, 2, 0)), wait=0)
    theirs.done()


def test_threads_have_claims_of_their_own(claims, tmp_path):
    """Threads of one process see each other's claims, and together compute each row once."""
    start = threading.Barrier(8)
    lock = threading.Lock()
    committed, computed = set(), []

    def ask(needs):
        start.wait()
        while missing := needs - committed:
            with claims.claim(rows(*missing), "a thread") as claim:
                lower = {n for one in claim.lower() for n in numbers(one.row_ids)}
                with lock:
                    mine = missing - lower - committed
                    computed.extend(mine)
                    committed.update(mine)
            claim.wait_for_any(rows(*(needs - committed)))

    threads = [threading.Thread(target=ask, args=(set(range(n, n + 20)),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == list(range(27))
    assert ended(tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_processes_with_overlapping_rows_compute_each_once(tmp_path, killed):
    """Eight processes with random subsets of 5,000 rows: each row is computed once.

    One that is killed while it computes leaves its rows to the others, and no others.
    """
    count = 5000
    processes = [
        child(ASK, tmp_path, SCOPE, count, seed, *(["hangs"] if killed and seed == 0 else []))
        for seed in range(8)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
        if killed and process is processes[0]:
            assert process.stdout.readline() == "computing\n"
    lost = set()
    store = LocalBackend(tmp_path / "store")
    if killed:
        processes[0].send_signal(signal.SIGKILL)
        processes[0].communicate()
    for process in processes[killed:]:
        assert process.communicate()[0] == "done\n"
    computed = {
        info.name: set(map(int, store.get(info.name).split())) for info in store.list("computed/")
    }
    if killed:
        lost = set().union(
            *(v for k, v in computed.items() if k.startswith(f"computed/{processes[0].pid}-"))
        )
        assert lost
    times = np.zeros(count, int)
    for found in computed.values():
        times[list(found)] += 1
    assert {row for row in range(count) if times[row] > 1} <= lost
    assert times.max() <= 2
