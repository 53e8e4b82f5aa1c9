"""Processes beside a stage's own: they write parts, or kill themselves at a point of a commit."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys

import numpy as np
import zarr

import castore
from castore import points

OLD, NEW = (np.arange(40_000.0).reshape(2, -1) + add for add in (0, 1))


def write_part(pickled, part):
    """Write one part of the array of a stage that came as bytes."""
    zarr.open_array(pickle.loads(pickled), mode="r+")[part] = NEW[part]


def try_to_write(pickled, results):
    """Write into a stage; tell what came of it."""
    try:
        pickle.loads(pickled).set_sync("zarr.json", zarr.core.buffer.cpu.Buffer.from_bytes(b"{}"))
        results.put("written")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


def commit(root, data, **options):
    """Stage and commit one array of two chunks."""
    stage = castore.open(root).zarr_store()
    zarr.create_array(stage, data=data, chunks=(1, 20_000), compressors=None)
    return stage.commit("s", inputs={"a": 1}, **options)


def run(root, force, point, nth):
    """Commit in a child that kills itself; return its wait status and the points it passed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        passed = []

        def observe(name):
            passed.append(name)
            if name == point and passed.count(name) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        points.observer = observe
        commit(root, NEW, force=force)
        os.write(writer, json.dumps(passed).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        passed = json.loads(pipe.read() or "[]")
    return os.waitpid(child, 0)[1], passed


if __name__ == "__main__":
    from pathlib import Path

    base = Path(sys.argv[1])
    for force in (False, True):

        def fresh(name, old=force):
            """Return a new store, with an entry where one is to be replaced."""
            root = base / name
            if old:
                # In a child, so that this process stays without threads and can fork on.
                if os.fork() == 0:
                    commit(root, OLD)
                    os._exit(0)
                os.wait()
            return str(root)

        _, passed = run(fresh(f"{force}-whole"), force, None, 0)
        for point in sorted(set(passed)):
            for nth in sorted({1, passed.count(point)}):
                root = fresh(f"{force}-{point}-{nth}")
                status, _ = run(root, force, point, nth)
                sys.stdout.write(json.dumps([root, force, point, status]) + "\n")
