"""Results larger than memory: batches go to the store and come back mapped."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

STREAM = """
    import sys, resource
    import numpy as np, castore
    def status(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name)) // 1024
    rows, batch = int(sys.argv[2]), 2048
    loader = range(rows)
    def batches(_):
        for start in range(0, rows, batch):
            yield np.full((min(batch, rows - start), 8192), start, np.float32)
    store = castore.open(sys.argv[1])
    base = status("VmRSS")
    value = store.get_or_compute(list(loader), batches, "big", model=None, dataset_id="rows@1")
    peak = status("VmHWM")
    assert value.shape == (rows, 8192) and value.flags.writeable
    assert value[-1, 0] == (rows - 1) // batch * batch
    print(peak - base, value.nbytes >> 20, base)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_streamed_result_takes_the_memory_of_a_batch(tmp_path):
    """Storing a result of 1 GB that is yielded in 64 MB batches takes less than 300 MB."""
    command = [sys.executable, "-c", textwrap.dedent(STREAM), str(tmp_path), str(32 * 1024)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    grown, size, base = map(int, run.stdout.split())
    assert size == 1024
    assert grown + base < 300, (grown, base)
