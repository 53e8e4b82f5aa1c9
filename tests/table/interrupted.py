"""Streams that end before their last row; as a script, in processes that are killed.

Standard input of the script: one JSON object a line, the keyword arguments of `run`. Each runs in
a child of its own, which kills itself after its last batch; the answer is its wait status. With
an argument the script is such a child itself: it says "sealed" where it would kill itself, and
waits for somebody else to do so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from castore.backend.local import LocalBackend
from castore.blobs import parts
from castore.canonical import identify
from castore.identity.rows import digest_rows
from castore.table import sealing
from castore.table.index import Kin
from castore.table.result import Sink, collect
from castore.table.sealing import Sealing
from castore.table.writer import Writer, origin

DERIVATION = {"suffix": "interrupted"}
TABLE = identify("table", DERIVATION)
CODE = {"fn": "00" * 16}
KIN = Kin(TABLE, "00" * 16, lambda manifest: manifest.derivation["recorded"]["functions"] == CODE)


def identified(count):
    """Row ids of `count` samples, and what a manifest says of where the key came from."""
    row_ids = np.arange(4 * count, dtype="<u4").view(np.uint8).reshape(count, 16)
    entry = {"rows": [count, digest_rows(row_ids)], "table": TABLE, "variant": {}}
    recorded = {"functions": CODE}
    return row_ids, {"entry": entry, "recorded": recorded, "sources": [], "table": DERIVATION}


def rows(count, dtype="<f4", shape=(3,)):
    """Return `count` rows that are all different, and the same in every process."""
    raw = np.random.default_rng(7).integers(0, 2, (count, *shape, np.dtype(dtype).itemsize), "u1")
    return np.ascontiguousarray(raw).reshape(count, -1).view(dtype).reshape(count, *shape)


def batches(columns, sizes, at_end=lambda: None):
    """Yield some rows of each of `columns` at a time, then do as told."""
    start = 0
    for size in sizes:
        yield {name: column[start : start + size] for name, column in columns.items()}
        start += size
    at_end()


def sealed_after(yielded, seals):
    """Yield the same, and have the batches numbered in `seals` sealed at once, others never."""
    numbers = itertools.count()
    while True:
        sealing.SEAL_SECONDS = 0.0 if next(numbers) in seals else float("inf")
        try:
            batch = next(yielded)
        except StopIteration:
            return
        yield batch


def compute(backend, yielded, count, publish=True, on_rows=lambda _: None):
    """Stream `yielded` as rows of `count` samples, and publish them."""
    row_ids, documents = identified(count)
    key = identify("key", documents["entry"])
    writer = Writer(backend, TABLE, DERIVATION)
    with contextlib.ExitStack() as uploads:
        seals = uploads.enter_context(Sealing(backend, TABLE, key, row_ids, lambda: documents))
        sink = Sink(lambda: uploads.enter_context(backend.upload()), on_rows=on_rows, seals=seals)
        result = collect(yielded, count, "interrupted", sink)
        header = {
            "table": TABLE, "key": key, "rows": count, "aligned": True, "form": result.form,
            "derivation": documents, "origin": origin(1),
        }  # fmt: skip
        if publish:
            writer.publish(result.draft(writer.algorithm, row_ids), header)


def run(root, *, count, sizes, columns, seals, end, part=parts.PART_NBYTES):
    """Stream `columns`, given as [dtype, shape]; seal after the batches `seals`; end as told."""
    parts.PART_NBYTES = part
    arrays = {f"c{i}": rows(count, d, tuple(s)) for i, (d, s) in enumerate(columns)}
    compute(LocalBackend(Path(root)), sealed_after(batches(arrays, sizes, end), seals), count)


def die():
    """End this process at once, as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def hold():
    """Say that all is sealed, and wait until somebody ends this process."""
    sys.stdout.write("sealed\n")
    sys.stdout.flush()
    sys.stdin.read()


def main():
    """Run what is asked for."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line), end=die)
            os._exit(0)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(**json.loads(sys.argv[1]), end=hold)
    else:
        main()
