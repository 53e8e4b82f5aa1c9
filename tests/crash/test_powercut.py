"""An acknowledged entry outlives a power cut: whatever was not synced is gone after it.

The cut is the shutdown ioctl of ext4 and xfs, which drops all that is not on the disk yet.
Source: EXT4_IOC_SHUTDOWN in fs/ext4/ext4.h, flag NOLOGFLUSH; XFS_IOC_GOINGDOWN is the same number.
"""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import subprocess

import numpy as np
import pytest

import castore

pytestmark = pytest.mark.powercut

SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
ROWS = np.arange(5000)
#: Where systems keep the tools of root, which a user's own path may leave out.
TOOLS = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, folder, kind):
        self.image = folder / "image"
        self.root = folder / "mounted"
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(400 << 20)
        self._run(f"mkfs.{kind}", "-q", str(self.image))
        self.mount()

    def mount(self):
        """Mount it, replaying the journal as after a crash."""
        self._run("mount", "-o", "loop", str(self.image), str(self.root))

    def cut(self):
        """Drop all that was not synced, and come back."""
        descriptor = os.open(self.root, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, array.array("I", [NO_LOG_FLUSH]))
        os.close(descriptor)
        self.unmount()
        self.mount()

    def unmount(self):
        """Take it away."""
        self._run("umount", str(self.root))

    @staticmethod
    def _run(*command):
        environment = {**os.environ, "PATH": TOOLS}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()}")


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path, request):
    """Make a disk; needs root, loop devices and the file system's tools."""
    if os.geteuid() != 0 or not shutil.which(f"mkfs.{request.param}", path=TOOLS):
        pytest.skip(f"needs root and mkfs.{request.param}")
    made = Disk(tmp_path, request.param)
    yield made
    made.unmount()


def result(n):
    """Return the n-th result: a column, row ids, a small column."""
    return {"features": np.repeat(ROWS[:, None] * n, 20, 1), "note": [f"result {n}"]}


def test_the_cut_drops_what_is_not_synced(disk):
    """The test's own instrument works: an unsynced file is gone or empty after the cut."""
    (disk.root / "unsynced").write_bytes(b"x" * 100_000)
    disk.cut()
    left = disk.root / "unsynced"
    assert not left.exists() or left.stat().st_size == 0


def test_acknowledged_entries_outlive_a_power_cut(disk):
    """Every entry whose call returned is a hit after the cut, first of its table or not."""
    for turn in range(6):
        store = castore.open(disk.root / "deep" / "store")
        for n in range(3 * turn, 3 * turn + 3):
            value = result(n)
            store.get_or_compute(
                ROWS, lambda _, value=value: value, f"s{n % 4}", version=n, model=None,
                ignore=("fn.value",), rowwise=False,
            )  # fmt: skip
        del store
        disk.cut()
        store = castore.open(disk.root / "deep" / "store")
        for n in range(3 * turn + 3):
            found = store.get(ROWS, suffix=f"s{n % 4}", version=n)
            assert found is not None, n
            assert np.array_equal(found["features"], result(n)["features"])
            assert found["note"] == result(n)["note"]
        assert store.stats().misses == {}
        del store, found


def test_replacements_and_shared_blobs_outlive_a_power_cut(disk):
    """The value put last is found after the cut, and an entry that shares its blob with another."""
    store = castore.open(disk.root / "store")
    for n in (1, 2):
        store.put(ROWS, result(n), "s")
    store.put(ROWS, result(2), "t")
    del store
    disk.cut()
    store = castore.open(disk.root / "store")
    for suffix in ("s", "t"):
        assert store.get(ROWS, suffix=suffix)["note"] == ["result 2"]


def test_a_cut_within_a_commit_leaves_old_or_new(disk):
    """Power cut at any named point of a replacement: afterwards the old value or the new one."""
    from castore import points

    class CutError(BaseException):
        pass

    passed = []
    points.observer = passed.append
    castore.open(disk.root / "dry").put(ROWS, result(0), "s")
    for nth in range(1, len(passed) + 1, 3):
        root = disk.root / f"store-{nth}"
        points.observer = None
        castore.open(root).put(ROWS, result(1), "s")
        count = 0

        def cut_at(_point, nth=nth):
            nonlocal count
            count += 1
            if count == nth:
                descriptor = os.open(disk.root, os.O_RDONLY)
                fcntl.ioctl(descriptor, SHUTDOWN, array.array("I", [NO_LOG_FLUSH]))
                os.close(descriptor)
                raise CutError

        points.observer = cut_at
        try:
            castore.open(root).put(ROWS, result(2), "s")
        except (CutError, castore.errors.CastoreError):
            points.observer = None
            disk.unmount()
            disk.mount()
        finally:
            points.observer = None
        store = castore.open(root)
        found = store.get(ROWS, suffix="s")
        assert found is not None, nth
        assert found["note"] in (["result 1"], ["result 2"])
        value = int(found["note"][0][-1])
        assert np.array_equal(found["features"], result(value)["features"])
        del found, store
