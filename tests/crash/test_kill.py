"""A process killed anywhere within a commit leaves the old value or the new one."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.points import POINTS

DRIVER = Path(__file__).with_name("driver.py")
_spec = importlib.util.spec_from_file_location("castore_crash_driver", DRIVER)
driver = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(driver)

pytestmark = pytest.mark.crash


def drive(jobs):
    """Run the driver over `jobs`; return its lines."""
    run = subprocess.run(
        [sys.executable, str(DRIVER)], input=json.dumps(jobs), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Kill a commit at every pass of every point, in every scenario; return the stores left."""
    base = tmp_path_factory.mktemp("killed")
    whole = drive([[str(base / name), name, None, 0] for name in driver.SCENARIOS])
    jobs = [
        [str(base / f"{name}-{point}-{nth}"), name, point, nth]
        for _, name, _, _, status, passed in whole
        for point in sorted(set(passed))
        for nth in range(1, passed.count(point) + 1)
    ]
    passed = {name: passed for _, name, _, _, _, passed in whole}
    return passed, drive(jobs)


def test_every_named_point_is_passed(killed):
    """A commit of a new table passes every point there is, so every one is tested."""
    passed, _ = killed
    for scenario, reached in passed.items():
        assert set(reached) == set(POINTS), scenario


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("scenario", driver.SCENARIOS)
def test_killed_at(killed, scenario, point):
    """After the kill a reader gets the old value or the new one, whole; then all goes on."""
    runs = [run for run in killed[1] if run[1:3] == [scenario, point]]
    fn = driver.batches if scenario == "stream" else driver.whole
    assert runs
    for root, _, _, _, status, _ in runs:
        assert status == signal.SIGKILL, (root, "was not killed")
        store = castore.open(root)
        found = store.get(driver.ROWS, fn, "s", model=None)
        assert store.stats().misses == {}
        if scenario in ("replace", "put"):
            assert found is not None, (root, "neither the old value nor the new one")
        if found is not None:
            right = driver.NEW if np.array_equal(found, driver.NEW) else driver.OLD
            assert np.array_equal(found, right), (root, "a mixture")
            assert scenario in ("replace", "put") or right is driver.NEW
        if point in ("commit.published", "commit.looked"):
            assert np.array_equal(found, driver.NEW), (root, "published and not found")
        again = store.get_or_compute(driver.ROWS, fn, "s", model=None)
        assert np.array_equal(again, driver.NEW if found is None else found)
        assert store.stats().misses == ({"absent": 1} if found is None else {})
        assert np.array_equal(castore.open(root).get(driver.ROWS, fn, "s", model=None), again)


def test_a_killed_commit_leaves_only_temporary_files(killed):
    """What a killed writer leaves under final names is whole: documents sealed, blobs true."""
    from castore.canonical import unseal
    from castore.digest import hexdigest

    for root, *_ in killed[1]:
        for path in Path(root).rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name.startswith("blobs/"):
                assert hexdigest([path.read_bytes()]) == path.name
            elif path.is_file() and not name.startswith("tmp/"):
                unseal(path.read_bytes(), name)
