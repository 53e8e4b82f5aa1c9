"""Make the golden stores of the written format, v1 and v1-sha256.

Run by hand, never by a test, and only to add what stored.py has got::

    python tests/golden/make_store.py

A store that is there is added to; what is in it already stays as it was written.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import stored
import zarr

import castore

FOLDER = Path(__file__).parent


def main() -> None:
    """Make both stores."""
    for name, digest in (("v1", "xxh3-128"), ("v1-sha256", "sha256")):
        store = castore.init(FOLDER / name, digest=digest)
        have = {entry.suffix for entry in store.entries()}
        for suffix, (rows, codec, value) in stored.RESULTS.items():
            if suffix not in have:
                identity = {"dataset_id": "golden@1", "row_ids": stored.row_ids(rows)}
                store.put(list(range(rows)), value, suffix, codec=codec, **identity)
        for suffix in stored.HIERARCHIES:
            if suffix not in have:
                stage = store.zarr_store()
                stored.fill(suffix, zarr.create_group(stage))
                stage.commit(suffix, inputs={"slide": "golden@1"})
        shutil.rmtree(FOLDER / name / "tmp", ignore_errors=True)


if __name__ == "__main__":
    main()
