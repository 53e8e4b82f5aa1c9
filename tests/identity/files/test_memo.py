"""The memo of content digests: a hint that is right or absent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castore.identity.files import memo
from castore.identity.files.scan import Reading
from castore.threads import together

SETTLED = 10_000_000_000
NAMES = st.binary(min_size=1, max_size=4)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
STAMPS = st.tuples(NUMBERS, st.integers(-(2**63), 0), st.integers(-(2**63), 0), NUMBERS)
BATCHES = st.lists(st.dictionaries(NAMES, st.tuples(STAMPS, st.binary(min_size=16, max_size=16))))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The state folder, which is empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def reading(stamp, digest) -> Reading:
    """A reading of a file that has not changed for long."""
    return Reading(digest, *stamp, at_ns=SETTLED, intact=True)


def numbered(count: int, start: int = 0) -> list[tuple[bytes, Reading]]:
    """Readings of files that are called by number and contain it."""
    return [(b"%d" % i, reading((i, 0, 0, i), b"%016d" % i)) for i in range(start, start + count)]


def known(root: str, readings) -> list[bool]:
    """Tell which of the readings are known; what is known must be right."""
    names = [name for name, _ in readings]
    stamps = np.array([one.stamp for _, one in readings], np.int64).reshape(-1, 4)
    digests, found = memo.look_up(root, names, stamps)
    for (_, one), digest, is_known in zip(readings, digests, found, strict=True):
        assert not is_known or digest.tobytes() == one.digest
    return found.tolist()


def the_file() -> Path:
    """The only memo there is."""
    (found,) = memo.folder().iterdir()
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.lists(st.tuples(NAMES, STAMPS)))
def test_memo_is_a_map_by_name_and_stamp(tmp_path_factory, batches, others):
    """A memo gives back the last reading of each name, and only for the stamp it had."""
    root = str(tmp_path_factory.mktemp("root"))
    last = {}
    for batch in batches:
        memo.add(root, [(name, reading(*seen)) for name, seen in batch.items()])
        last.update(batch)
    asked = [(name, stamp) for name, (stamp, _) in last.items()] + others
    stamps = np.array([stamp for _, stamp in asked], np.int64).reshape(-1, 4)
    digests, found = memo.look_up(root, [name for name, _ in asked], stamps)
    for (name, stamp), digest, is_known in zip(asked, digests, found, strict=True):
        assert is_known == (name in last and last[name][0] == stamp)
        assert not is_known or digest.tobytes() == last[name][1]


@pytest.mark.parametrize("field", range(4))
def test_every_part_of_the_stamp_counts(field):
    """A file whose size, either time, or inode is another is not known."""
    memo.add("/data", [(b"a", reading((1, 2, 3, 4), bytes(16)))])
    stamps = np.array([[1, 2, 3, 4]])
    assert memo.look_up("/data", [b"a"], stamps)[1].all()
    stamps[0, field] += 1
    assert not memo.look_up("/data", [b"a"], stamps)[1].any()


def test_the_name_counts():
    """A file by another name is not known, though it have the same stamp."""
    ((_, one),) = numbered(1)
    memo.add("/data", [(b"a", one)])
    assert known("/data", [(b"a", one), (b"b", one), (b"c", one)]) == [True, False, False]


@pytest.mark.parametrize(
    "unsettled",
    [
        {"intact": False},
        {"mtime_ns": SETTLED - 1_999_999_999},
        {"ctime_ns": SETTLED - 1_999_999_999},
        {"mtime_ns": SETTLED + 1},
    ],
)
def test_only_settled_readings_are_kept(unsettled):
    """A reading that a later change might not show in the stamp is not kept."""
    ((name, settled),) = numbered(1)
    memo.add("/data", [(name, settled._replace(**unsettled))])
    assert not memo.folder().exists()


def test_roots_are_apart():
    """What lies below one root is unknown below another."""
    memo.add("/data/a", numbered(1))
    assert known("/data/a", numbered(1)) == [True]
    assert known("/data/b", numbered(1)) == [False]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_done_without(where, bit):
    """Any bit flipped in a memo makes all it holds unknown, and the next writing mends it."""
    memo.add("/data", numbered(20))
    data = bytearray(the_file().read_bytes())
    data[where % len(data)] ^= 1 << bit
    the_file().write_bytes(data)
    assert not any(known("/data", numbered(20)))
    memo.add("/data", numbered(2))
    assert known("/data", numbered(3)) == [True, True, False]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 23, 39, 40, 100, -1])
def test_a_short_file_is_done_without(length):
    """A memo that was cut is as none."""
    memo.add("/data", numbered(3))
    the_file().write_bytes(the_file().read_bytes()[:length])
    assert not any(known("/data", numbered(3)))


def test_a_folder_in_its_place_is_done_without():
    """A memo that cannot be opened or replaced is neither read nor written, silently."""
    memo.add("/data", numbered(1))
    place = the_file()
    place.unlink()
    place.mkdir()
    memo.add("/data", numbered(1))
    assert known("/data", numbered(1)) == [False]
    assert list(memo.folder().iterdir()) == [place], "no temporary file is left"


def test_an_unwritable_state_folder_is_done_without(state):
    """Where no memo can be written, nothing is remembered and nothing is raised."""
    state.write_bytes(b"a file")
    memo.add("/data", numbered(1))
    assert known("/data", numbered(1)) == [False]


def test_writers_at_once_never_damage_it():
    """Writers side by side may lose each other's additions; what remains is right and whole."""
    together(*[lambda i=i: memo.add("/data", numbered(50, 50 * i)) for i in range(8)])
    held = known("/data", numbered(400))
    assert sum(held) >= 50
    assert all(len({*held[i : i + 50]}) == 1 for i in range(0, 400, 50)), "additions are whole"


def test_a_root_has_a_bound(monkeypatch):
    """Beyond the bound a choice of the other files is kept, and all that were read now."""
    monkeypatch.setattr(memo, "LIMIT", 10)
    memo.add("/data", numbered(50))
    memo.add("/data", numbered(30, 50))
    held = known("/data", numbered(80))
    assert all(held[50:])
    assert sum(held[:50]) == 10


def test_unused_memos_are_forgotten():
    """What nobody used for ninety days goes when a memo is written, temporary files too."""
    memo.add("/old", numbered(1))
    (old,) = memo.folder().iterdir()
    (memo.folder() / "left.123").touch()
    memo.add("/young", numbered(1))
    long_ago = time.time() - memo.UNUSED - 1
    for path in memo.folder().iterdir():
        os.utime(path, (long_ago, long_ago))
    assert known("/young", numbered(1)) == [True], "reading it is using it"
    memo.add("/new", numbered(1))
    assert known("/young", numbered(1)) == known("/new", numbered(1)) == [True]
    assert known("/old", numbered(1)) == [False]
    assert len(list(memo.folder().iterdir())) == 2
    assert not old.exists()


def test_memos_are_their_users_own():
    """Nobody else may read what files a user has."""
    memo.add("/data", numbered(1))
    assert memo.folder().stat().st_mode & 0o077 == 0
