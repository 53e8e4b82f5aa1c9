"""One computation for all who ask: real processes, threads and signals, through the store."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.backend.local import LocalBackend
from castore.canonical import seal, unseal
from castore.once import lease

_spec = importlib.util.spec_from_file_location(
    "castore_players", Path(__file__).with_name("players.py")
)
players = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(players)

ROWS = np.arange(100)
FIRST, SECOND = np.arange(60), np.arange(40, 100)
GONE = 0.3  # seconds after which a player takes a silent one for dead, where it is told to


@pytest.fixture(scope="module")
def shared_stage():
    """Start the process that starts players."""
    with players.Stage() as stage:
        yield stage


@pytest.fixture
def stage(shared_stage):
    """Yield a stage without players, and end those that were started."""
    yield shared_stage
    shared_stage.clear()


@pytest.fixture(scope="module")
def shared_torch_stage():
    """Start the process that starts players who have torch."""
    pytest.importorskip("torch")
    with players.Stage("torch") as stage:
        yield stage


@pytest.fixture
def torch_stage(shared_torch_stage):
    """Yield a stage without players, who will have torch."""
    yield shared_torch_stage
    shared_torch_stage.clear()


@pytest.fixture
def place():
    """Yield the root of a store and a state folder that every user may look into."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield {"root": Path(folder, "store"), "state": Path(folder, "state")}


def leases(place):
    """Return the files of leases."""
    return [path for path in (place["root"] / "leases").rglob("*") if path.is_file()]


def claims(place):
    """Return the files of claims, the last one last."""
    return sorted(path for path in place["state"].rglob("claims/*/*/*") if path.is_file())


def collect(place):
    """Remove the leases of the dead; return how many."""
    return lease.collect(LocalBackend(place["root"]))


def stored(place):
    """Return the values of all entries, each with its samples' rows one after another."""
    store = castore.open(place["root"], mode="ro")
    return [np.array(store.entry(info.key).arrays()["result"]) for info in store.entries()]


def right(asking, samples):
    """Tell whether players get the values of samples, whatever happens before."""
    asking, samples = (one if isinstance(one, list) else [one] for one in (asking, samples))
    found = players.answers(asking)
    return all(map(np.array_equal, found, map(players.values, samples)))


def holding(asking):
    """Wait until each holds or waits; return those that hold."""
    return [player for player in asking if player.hear("holding", "waiting")[0] == "holding"]


# One for all who ask


@pytest.mark.parametrize(("processes", "threads"), [(16, 1), (1, 16), (4, 4)])
@pytest.mark.parametrize("rowwise", [False, True])
def test_one_computes_for_all(stage, place, processes, threads, rowwise):
    """Of 16 processes, 16 threads or a mixture one computes, and all return equal bits."""
    asking = stage.players(processes)
    for player in asking:
        player.ask(threads=threads, samples=ROWS, holds=1, rowwise=rowwise, **place)
    seen = [player.hear("holding", "waiting") for player in asking for _ in range(threads)]
    assert sorted(name for name, _ in seen) == ["holding"] + ["waiting"] * 15
    next(player for player in asking if player.computed()).order()
    got = [player.hear("returned")[1] for player in asking for _ in range(threads)]
    assert {value.tobytes() for value, _ in got} == {players.values(ROWS).tobytes()}
    assert len(stored(place)) == 1
    assert leases(place) == []


def test_a_waiter_counts_and_says_whom_it_waits_for(stage, place):
    """A wait is counted and timed, and its log line names function, process and machine."""
    owner, waiter = stage.players(2)
    owner.ask(samples=ROWS, holds=1, **place)
    owner.hear("holding")
    waiter.ask(samples=ROWS, **place)
    _, line = waiter.hear("waiting")
    assert line.startswith(f"waiting for Work in process {owner.pid} on {socket.gethostname()}, ")
    owner.order()
    assert right(owner, ROWS)
    assert right(waiter, ROWS)
    assert (waiter.stats.waits, waiter.stats.hits, waiter.stats.computations) == (1, 1, 0)
    assert waiter.stats.wait_seconds > 0
    assert (owner.stats.waits, owner.stats.wait_seconds) == (0, 0)


# Owners that end


@pytest.mark.parametrize("rowwise", [False, True])
def test_a_killed_owner_is_replaced(stage, place, rowwise):
    """When the owner is killed one of those who wait computes, and nothing is left of him."""
    owner, *waiters = stage.players(3)
    owner.ask(samples=ROWS, holds=1, rowwise=rowwise, **place)
    owner.hear("holding")
    for player in waiters:
        player.ask(samples=ROWS, holds=1, rowwise=rowwise, **place)
        player.hear("waiting")
    assert collect(place) == 0
    assert len(leases(place)) == 1
    begun = time.monotonic()
    owner.kill()
    second = players.first(waiters)
    second.hear("holding")
    print(f"taken over after {time.monotonic() - begun:.3f} s")  # noqa: T201
    assert collect(place) == 0
    second.order()
    assert right(waiters, [ROWS, ROWS])
    assert sum(len(player.computed()) for player in waiters) == 1
    assert len(stored(place)) == 1
    assert collect(place) == 1
    assert leases(place) == []


ENDS = {
    "error": lambda owner: owner.order(ValueError("no")),
    "exit": lambda owner: owner.order(SystemExit(1)),
    "interrupt": lambda owner: owner.signal(signal.SIGINT),
}


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_an_error_is_not_kept(stage, place, end, rowwise):
    """Whatever ends the owner's function, its lease is free and another computes at once."""
    owner, waiter = stage.players(2)
    owner.ask(samples=ROWS, holds=1, rowwise=rowwise, **place)
    owner.hear("holding")
    waiter.ask(samples=ROWS, holds=1, rowwise=rowwise, **place)
    waiter.hear("waiting")
    ENDS[end](owner)
    owner.hear("raised")
    waiter.hear("holding")
    waiter.order()
    assert right(waiter, ROWS)
    owner.ask(samples=ROWS, rowwise=rowwise, **place)
    assert right(owner, ROWS)
    assert len(owner.computed()) == len(waiter.computed()) == 1
    assert leases(place) == []


# Those who do not wait


@pytest.mark.parametrize("wait", [False, 0, 0.2])
@pytest.mark.parametrize(("samples", "rowwise"), [(ROWS, False), (ROWS, True), (FIRST, True)])
def test_who_does_not_wait_computes_beside_the_owner(stage, place, wait, samples, rowwise):
    """A call that may not wait, or no longer, computes; the first to publish is who all have."""
    owner, other = stage.players(2)
    owner.ask(samples=ROWS, holds=1, stamp=True, rowwise=rowwise, **place)
    owner.hear("holding")
    other.ask(samples=samples, stamp=True, rowwise=rowwise, wait=wait, **place)
    assert (other.value() == other.pid).all()
    assert np.concatenate(other.computed()).tolist() == samples.tolist()
    assert other.stats.waits == bool(wait)
    assert other.stats.wait_seconds >= wait / 2
    owner.order()
    assert (owner.value() == (other.pid if samples is ROWS else owner.pid)).all()
    assert owner.stats.disagreements == (samples is ROWS)
    assert len(stored(place)) == 1 + (samples is not ROWS)
    assert leases(place) == []


# Overlapping rows


def subsets(seed):
    """Return eight random subsets of 5,000 of 8,000 samples; the last is the first reversed."""
    draw = np.random.default_rng(seed)
    drawn = [draw.choice(8000, 5000, replace=False) for _ in range(7)]
    return [*drawn, drawn[0][::-1]]


def ask(asking, wanted, **question):
    """Have each ask for what it wants."""
    for player, samples in zip(asking, wanted, strict=True):
        player.ask(samples=samples, **question)


def without(ended, asking, wanted):
    """Return the players that have not ended, and what they want."""
    left = [pair for pair in zip(asking, wanted, strict=True) if pair[0] not in ended]
    return [player for player, _ in left], [samples for _, samples in left]


def computed(asking):
    """Return all samples that some players computed, one after another."""
    return np.concatenate([rows for player in asking for rows in player.computed()])


def repeated(samples):
    """Return how many of some samples were there before."""
    return len(samples) - len(np.unique(samples))


@pytest.mark.parametrize("holds", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_computed_twice(stage, place, seed, holds):
    """Eight processes that want overlapping rows compute each once, and all are right."""
    asking, wanted = stage.players(8), subsets(seed)
    ask(asking, wanted, holds=holds, rowwise=True, **place)
    if holds:
        held = holding(asking)
        assert len(held) < 8
        for player in held:
            player.order()
    assert right(asking, wanted)
    assert np.array_equal(np.sort(computed(asking)), np.unique(wanted))
    assert leases(place) == []


@pytest.mark.parametrize("count", [1, 2])
def test_only_rows_of_the_killed_are_computed_twice(stage, place, count):
    """When some of eight are killed while they compute, others compute their rows, each once."""
    asking, wanted = stage.players(8), subsets(7)
    ask(asking, wanted, holds=1, rowwise=True, **place)
    held = sorted(holding(asking), key=lambda player: -len(player.computed()[0]))
    killed, others = held[:count], held[count:]
    for player in killed:
        player.kill()
    for player in others:
        player.order()
    living, wanted = without(killed, asking, wanted)
    assert right(living, wanted)
    assert np.array_equal(np.sort(computed(living)), np.unique(wanted))
    assert len(np.intersect1d(computed(living), computed(killed))) > 0
    assert collect(place) == count
    assert leases(place) == []


@pytest.mark.parametrize("kill", [False, True])
def test_only_a_probe_computes_rows_twice(torch_stage, place, kill):
    """Where a model must be tried first, one process tries it, on a few rows."""
    asking, wanted = torch_stage.players(8), subsets(11)
    ask(asking, wanted, holds=1, torch=True, **place)
    (owner,) = holding(asking)
    if kill:
        owner.kill()
        asking, wanted = without([owner], asking, wanted)
    else:
        owner.order()
    assert right(asking, wanted)
    assert np.array_equal(np.unique(computed(asking)), np.unique(wanted))
    (probed,) = {player.stats.rows_probed for player in asking} - {0}
    assert sum(player.stats.rows_probed > 0 for player in asking) == 1
    assert repeated(computed(asking)) == probed <= 36


# Functions that ask themselves


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("how", ["here", "thread"])
def test_crosswise_calls_end(stage, place, how, rowwise):
    """Two functions that each ask for what the other computes, itself or in a thread, both end."""
    crosswise(stage, place, place=how, rowwise=rowwise)


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_crosswise_workers_end(torch_stage, place, method, opens):
    """So do those whose DataLoader workers ask, through a store of their own or their parent's."""
    crosswise(torch_stage, place, place=method, opens=opens)


def crosswise(stage, where, **how):
    """Have two players compute what the other asks for within."""
    asking = stage.players(2)
    first, second = ({"suffix": s, "samples": n} for s, n in (("a", FIRST), ("b", SECOND)))
    for player, outer, inner in zip(asking, (first, second), (second, first), strict=True):
        player.ask(**outer, holds=1, inner=[{**inner, "root": where["root"]}], **where, **how)
        player.hear("holding")
    for player in asking:
        player.order()
    assert right(asking, [SECOND, FIRST])
    assert right(asking, [FIRST, SECOND])
    assert len(stored(where)) == 2 or how.get("rowwise")
    assert leases(where) == []


# What lies in the way


def foreign(path):
    """Have a file name a process of another machine."""
    header, newline, rest = path.read_bytes().partition(b"\n")
    document = unseal(header, "a test")
    document["owner"]["boot"] = "elsewhere"
    path.write_bytes(seal(document) + newline + rest)


def from_the_future(path):
    """Date a file of another machine a day ahead."""
    foreign(path)
    os.utime(path, (time.time() + 86400,) * 2)


def unreadable(path):
    """Put something in the place of a file that is none."""
    path.unlink()
    path.mkdir()


HARM = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(1000)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "foreign": foreign,
    "future": from_the_future,
    "no file": unreadable,
    "hidden": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("wait", [True, 0.2])
@pytest.mark.parametrize("harm", HARM)
def test_a_bad_lease_holds_nobody_up(stage, place, harm, wait):
    """Whatever a lease is, who waits computes when it does not change, or when he gives up."""
    owner, other = stage.players(2)
    owner.ask(samples=ROWS, holds=1, **place)
    owner.hear("holding")
    owner.kill()
    (path,) = leases(place)
    HARM[harm](path)
    other.ask(samples=ROWS, wait=wait, ttl=GONE if wait is True else None, **place)
    assert right(other, ROWS)
    assert len(other.computed()) == 1
    assert len(stored(place)) == 1


@pytest.mark.parametrize("wait", [True, 0.2])
@pytest.mark.parametrize("harm", HARM)
def test_a_bad_claim_holds_nobody_up(stage, place, harm, wait):
    """Whatever a claim is, its rows are computed when it does not change, or when one gives up."""
    owner, other = stage.players(2)
    owner.ask(samples=FIRST, holds=1, rowwise=True, **place)
    owner.hear("holding")
    owner.kill()
    (path,) = claims(place)
    HARM[harm](path)
    for samples in (SECOND, FIRST, ROWS):
        holds, ttl = samples is SECOND, GONE if wait is True else None
        other.ask(samples=samples, holds=holds, rowwise=True, wait=wait, ttl=ttl, **place)
        if holds:
            other.hold()
            own = [one for one in claims(place) if b'"pid":%d' % other.pid in one.read_bytes()]
            assert len(own) == (harm != "no file")
            other.order()
        assert right(other, samples)
    assert np.array_equal(np.sort(computed([other])), ROWS)


@pytest.mark.parametrize("wait", [True, 0.2])
@pytest.mark.parametrize("rowwise", [False, True])
def test_a_stopped_owner_holds_nobody_up(stage, place, rowwise, wait):
    """Who waits for a stopped process computes at last; it goes on later, and nothing is lost."""
    owner, other = stage.players(2)
    owner.ask(samples=ROWS, holds=1, stamp=True, rowwise=rowwise, **place)
    owner.hear("holding")
    owner.signal(signal.SIGSTOP)
    ttl = GONE if wait is True else None
    other.ask(samples=ROWS, stamp=True, rowwise=rowwise, wait=wait, ttl=ttl, **place)
    assert (other.value() == other.pid).all()
    owner.signal(signal.SIGCONT)
    owner.order()
    assert (owner.value() == other.pid).all()
    assert len(stored(place)) == 1
    assert leases(place) == []


@pytest.mark.parametrize("when", ["held", "released"])
def test_who_lost_his_lease_replaces_nothing(stage, place, when):
    """A stopped process that was to replace a value leaves that to whoever took over."""
    owner, other = stage.players(2)
    other.ask(samples=ROWS, **place)
    assert right(other, ROWS)
    owner.ask(samples=ROWS, holds=1, stamp=True, force=True, ttl=GONE, **place)
    owner.hear("holding")
    owner.signal(signal.SIGSTOP)
    other.ask(samples=ROWS, holds=1, stamp=True, force=True, ttl=GONE, **place)
    other.hold()
    if when == "released":
        other.order()
        assert (other.value() == other.pid).all()
    owner.signal(signal.SIGCONT)
    owner.order()
    assert not (owner.value() == owner.pid).any()
    assert owner.stats.disagreements == 1
    if when == "held":
        other.order()
        assert (other.value() == other.pid).all()
    assert [set(value.flat) for value in stored(place)] == [{other.pid}]


# Other ways of asking


@pytest.mark.parametrize("rowwise", [False, True])
def test_force_waits_its_turn_and_holds_no_reader_up(stage, place, rowwise):
    """A forced call computes after the owner, and replaces; meanwhile others have the old value."""
    owner, forced, reader = stage.players(3)
    owner.ask(samples=ROWS, holds=1, stamp=True, rowwise=rowwise, **place)
    owner.hear("holding")
    forced.ask(samples=ROWS, holds=1, stamp=True, rowwise=rowwise, force=True, **place)
    forced.hear("waiting")
    owner.order()
    assert (owner.value() == owner.pid).all()
    forced.hear("holding")
    reader.ask(samples=ROWS, rowwise=rowwise, **place)
    reader.hear("returned")
    assert (reader.told[-1][1][0] == owner.pid).all()
    forced.order()
    assert (forced.value() == forced.pid).all()
    assert [set(value.flat) for value in stored(place)] == [{forced.pid}]
    assert leases(place) == []


@pytest.mark.parametrize("rowwise", [False, True])
def test_a_reader_takes_no_turn(stage, place, rowwise):
    """Through a store opened read-only one computes beside the owner, and leaves no file."""
    owner, reader = stage.players(2)
    owner.ask(samples=FIRST, holds=1, rowwise=rowwise, **place)
    owner.hear("holding")
    before = files(place)
    for samples in (FIRST, SECOND):
        reader.ask(samples=samples, holds=1, rowwise=rowwise, store={"mode": "ro"}, **place)
        reader.hear("holding")
        assert files(place) == before
        reader.order()
        assert right(reader, samples)
    assert files(place) == before
    owner.order()
    assert right(owner, FIRST)


def files(place):
    """Return all files of the store, and all claims."""
    return sorted(path for path in place["root"].rglob("*") if path.is_file()) + claims(place)


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_where_nobody_may_write_it_computes(stage, place, used, rowwise):
    """In a folder that may not be written one gets the value under on_error="compute"."""
    place["root"].mkdir()
    if used:
        castore.open(place["root"]).put(FIRST, players.values(FIRST), "s")
    for folder in [place["root"], *place["root"].rglob("*/")]:
        folder.chmod(0o555)
    strict, lenient = stage.players(2)
    strict.ask(samples=ROWS, rowwise=rowwise, nobody=True, **place)
    assert "ReadOnlyError" in strict.hear("raised")[1]
    lenient.ask(samples=ROWS, rowwise=rowwise, nobody=True, store={"on_error": "compute"}, **place)
    assert right(lenient, ROWS)
    assert set(lenient.stats.uncached) == {"read-only"}
    for folder in [place["root"], *place["root"].rglob("*/")]:
        folder.chmod(0o755)
