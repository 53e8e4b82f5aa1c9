"""Read what castore keeps without castore: format 1, from the page v1.md alone.

    python read_v1.py STORE KEY        # STORE is a folder, KEY the first digits of an entry's key

Reads whole columns that are not coded. Needs numpy and xxhash.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import xxhash

DIGESTS = {
    "xxh3-128": xxhash.xxh3_128_hexdigest,
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


def check(holds: bool, what: str) -> None:
    """Stop where the page says that something is damaged."""
    if not holds:
        raise ValueError(what)


def value(root: Path, chunk: dict, algorithm: str) -> bytes:
    """Return the bytes of a chunk: inline, or of a blob that has its digest."""
    if "inline" in chunk:
        return base64.b64decode(chunk["inline"])
    digest, generation = chunk["digest"], chunk["generation"]
    name = f"{digest}~{generation}" if generation else digest
    data = (root / "blobs" / digest[:2] / name).read_bytes()
    intact = len(data) == chunk["length"] and DIGESTS[algorithm](data) == digest
    check(intact, f"blob {name} is damaged")
    return data


def manifest(root: Path, key: str) -> dict:
    """Return the manifest of the entry whose key begins with `key`, with the map of its keys."""
    (path,) = root.glob(f"tables/*/entries/{key}*.json")
    body, seal = path.read_bytes()[:-45], path.read_bytes()[-45:]
    expected = f',"digest":"{xxhash.xxh3_128_hexdigest(body)}"}}'
    check(seal == expected.encode(), f"{path} has no right seal")
    found = json.loads(body + b"}")
    check(found["format"] == 1 and found["flags"] == [], f"{path} is of another format")
    check((found["table"], found["key"]) == (path.parts[-3], path.stem), f"{path} is another's")
    if "map" in found:
        found |= json.loads(value(root, found["map"], found["digest_algorithm"]))
    return found


def arrays(root: Path, key: str) -> dict[str, np.ndarray]:
    """Return the columns of an entry by name; of a carrier, the integers that are stored."""
    entry, found = manifest(root, key), {}
    for path, node in entry["metadata"].items():
        name = path.removesuffix("/zarr.json")
        if isinstance(node, str) or node["node_type"] != "array" or name.startswith("_"):
            continue
        shard = node["codecs"][0].get("configuration", {})
        check(len(shard.get("codecs", [1])) == 1, f"column {name} is coded")
        zeros = ["0"] * len(node["shape"])
        chunk = entry["chunks"].get("/".join([name, "c", *zeros]), {"inline": ""})
        dtype = np.dtype(node["data_type"]).newbyteorder("<")
        data = value(root, chunk, entry["digest_algorithm"])
        count = int(np.prod(node["shape"], dtype=int))
        found[name] = np.frombuffer(data, dtype, count).reshape(node["shape"])
    return found


if __name__ == "__main__":
    for column, array in arrays(Path(sys.argv[1]), sys.argv[2]).items():
        print(column, array.dtype, array.shape, array, sep="\n", end="\n\n")
