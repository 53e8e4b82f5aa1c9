"""docs/format/v1.md and its test vectors, read by code that shares nothing with castore's own."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import xxhash
import zarr
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from castore.backend.memory import MemoryBackend
from castore.blobs import layout, shard
from castore.canonical import dumps, seal, unseal
from castore.digest import identity
from castore.identity import rows
from castore.table.entry import find_entry
from castore.table.manifest import Manifest

FOLDER = Path(__file__).parents[1] / "docs" / "format"
PAGE = (FOLDER / "v1.md").read_text()
VECTORS = json.loads((FOLDER / "v1-vectors.json").read_text())
MANIFEST = VECTORS["manifest"]
SEALED = [*VECTORS["sealed"], {"name": MANIFEST["name"], "bytes": MANIFEST["bytes"]}]


def of(name):
    """Run a test once for each vector of the list `name`."""
    return pytest.mark.parametrize("vector", VECTORS[name], ids=str)


def canonical(document):
    """Return the canonical form, from the rules of the page."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def identify(domain, data):
    """Return the digest of `data` with a domain, from the rules of the page."""
    return xxhash.xxh3_128_hexdigest(f"castore/1/{domain}\n".encode() + data)


def tail(vector):
    """Return the padding, index and checksum of a shard, from the rules of the page."""
    group = vector["group_rows"] * vector["row_nbytes"]
    index = b"".join(struct.pack("<QQ", n * group, group) for n in range(vector["groups"]))
    checksum = struct.pack("<I", google_crc32c.value(index))
    return bytes(vector["padding"]) + index + checksum


def value_of(chunk):
    """Return the bytes of a chunk of the vector manifest."""
    if "inline" in chunk:
        return base64.b64decode(chunk["inline"])
    name = f"blobs/{chunk['digest'][:2]}/{chunk['digest']}"
    return bytes.fromhex(MANIFEST["blobs"][name])


@of("canonical")
def test_canonical_form(vector):
    """The canonical form is ASCII JSON with sorted keys and without spaces."""
    assert canonical(vector["document"]).decode() == vector["bytes"]
    assert dumps(vector["document"]).decode() == vector["bytes"]


@pytest.mark.parametrize("vector", SEALED, ids=lambda vector: vector["name"])
def test_seal(vector):
    """A sealed document ends with the digest of all that stands before the seal."""
    data = vector["bytes"].encode()
    body, seal_of_it = data[:-45], data[-45:]
    assert seal_of_it == f',"digest":"{xxhash.xxh3_128_hexdigest(body)}"}}'.encode()
    assert seal(unseal(data, vector["name"])) == data


@of("identity")
def test_identity_digest(vector):
    """A digest that identifies is taken of its domain and the data, and of nothing else."""
    data = bytes.fromhex(vector["data"])
    assert identify(vector["domain"], data) == vector["digest"] == identity(vector["domain"], data)


@pytest.mark.parametrize("vector", VECTORS["row_ids"]["names"], ids=lambda vector: vector["name"])
def test_row_ids_of_names(vector):
    """The row id of a text name is the digest of the name under its source."""
    source = VECTORS["row_ids"]["source"]
    assert identify(f"row/name/{source}", vector["name"].encode()) == vector["row_id"]
    assert rows.from_names(source, [vector["name"]]).tobytes().hex() == vector["row_id"]


@pytest.mark.parametrize(
    "vector", VECTORS["row_ids"]["integers"], ids=lambda vector: str(vector["name"])
)
def test_row_ids_of_integers(vector):
    """Each half of the row id of an integer name mixes the name with a half of its source."""
    source, name = VECTORS["row_ids"]["source"], vector["name"]
    halves = []
    for half in (source[:16], source[16:]):
        x = (name % 2**64) ^ int(half, 16)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ x >> shift) * factor % 2**64
        halves.append(x ^ x >> 31)
    assert struct.pack("<QQ", *halves).hex() == vector["row_id"]
    found = rows.from_integers(source, np.array([name], np.int64))
    assert found.tobytes().hex() == vector["row_id"]


@of("shards")
def test_shard_sizes(vector):
    """The sizes and the tail of a shard follow from its rows alone."""
    group_rows = min(vector["rows"], max(1, 65536 // vector["row_nbytes"]))
    groups = -(-vector["rows"] // group_rows)
    padding = (groups * group_rows - vector["rows"]) * vector["row_nbytes"]
    expected = {"group_rows": group_rows, "groups": groups, "padding": padding}
    assert expected == {name: vector[name] for name in expected}
    assert tail(vector)[-4:][::-1].hex() == vector["crc32c"]
    found = shard.Shard(vector["rows"], vector["row_nbytes"])
    assert found.tail() == tail(vector)
    assert found.nbytes == found.data_nbytes + len(tail(vector)) == vector["nbytes"]


@of("row_checks")
def test_row_checks(vector):
    """A row check is the xxh3-64 of a row group, the last and short one without padding."""
    row = bytes(range(vector["row_nbytes"]))
    data, step = row * vector["rows"], 65536 // len(row) * len(row)
    groups = [data[start : start + step] for start in range(0, len(data), step)]
    assert [xxhash.xxh3_64_hexdigest(group) for group in groups] == vector["checks"]
    found = shard.checks(np.frombuffer(data, np.uint8), len(row))
    assert [f"{check:016x}" for check in found.tolist()] == vector["checks"]


@of("blob_names")
def test_blob_names(vector):
    """A blob's name is its digest, and its generation unless that is 0."""
    assert layout.blob(vector["digest"], vector["generation"]) == vector["name"]


def test_manifest_is_self_contained():
    """Name, table id, key, row ids, row checks and blobs of a manifest agree with one another."""
    document = json.loads(MANIFEST["bytes"])
    table, key = document["table"], document["key"]
    assert MANIFEST["name"] == f"tables/{table}/entries/{key}.json"
    assert identify("table", canonical(document["derivation"]["table"])) == table
    assert identify("key", canonical(document["derivation"]["entry"])) == key
    values = {name: value_of(chunk) for name, chunk in document["chunks"].items()}
    reference = document["chunks"]["result/c/0/0"]
    assert xxhash.xxh3_128_hexdigest(values["result/c/0/0"]) == reference["digest"]
    row_ids = values["_rows/c/0/0"][: 16 * document["rows"]]
    assert document["derivation"]["entry"]["rows"] == [3, identify("rows", row_ids)]
    assert values["_checks/result/c/0"][:8] == struct.pack(
        "<Q", xxhash.xxh3_64_intdigest(values["result/c/0/0"][:24])
    )


def test_manifest_is_a_zarr_hierarchy():
    """Zarr alone reads the metadata and chunks of a manifest as the result."""
    document = json.loads(MANIFEST["bytes"])
    files = {name: canonical(metadata) for name, metadata in document["metadata"].items()}
    files |= {name: value_of(chunk) for name, chunk in document["chunks"].items()}
    store = MemoryStore({name: Buffer.from_bytes(data) for name, data in files.items()})
    group = zarr.open_group(store, mode="r")
    assert np.array_equal(group["result"], np.array(MANIFEST["result"], np.float32))


def test_castore_reads_and_writes_the_manifest():
    """The vector manifest is read to its result, and written again byte for byte."""
    backend = MemoryBackend("test-format-document")
    backend.put(MANIFEST["name"], [MANIFEST["bytes"].encode()])
    for name, data in MANIFEST["blobs"].items():
        backend.put(name, [bytes.fromhex(data)])
    table, key = layout.table_of(MANIFEST["name"]), layout.key_of(MANIFEST["name"])
    entry = find_entry(backend, table, key)
    assert entry.arrays()["result"].tolist() == MANIFEST["result"]
    data = MANIFEST["bytes"].encode()
    assert Manifest.from_bytes(data, table, key).to_bytes() == data


def lines(pattern):
    """Return what a pattern finds in the lines of the page."""
    return re.findall(pattern, PAGE, flags=re.MULTILINE)


def test_sealed_documents_of_the_page():
    """Every sealed document that the page shows whole has the seal it must have."""
    shown = lines(r'^(\{.*,"digest":"[0-9a-f]{32}"\})$')
    assert len(shown) >= 2
    for text in shown:
        assert seal(unseal(text.encode(), "shown")).decode() == text


def test_digest_of_the_page():
    """The identity digest that the page works out is that of the bytes it names."""
    ((domain, shown),) = lines(r'^identity\("(\w+)", b""\) .* = +([0-9a-f]{32})$')
    assert identify(domain, b"") == shown


def test_shards_of_the_page():
    """Every row of the table of shards follows from shape and dtype by the rules above it."""
    rows_of_table = lines(r"^\| \(([\d, ]+)\) (\w+) \| ([\d,]+) \|(.*)\| `(\w{8})` \|$")
    assert len(rows_of_table) == 5
    for shape, dtype, row, numbers, checksum in rows_of_table:
        count, *rest = (int(extent) for extent in shape.split(","))
        row_nbytes = int(np.prod(rest, dtype=int)) * np.dtype(dtype).itemsize
        found = shard.Shard(count, row_nbytes)
        ours = [found.group_rows, found.groups, found.data_nbytes]
        ours += [len(found.tail()) - 16 * found.groups - 4, 16 * found.groups, found.nbytes]
        shown = [int(number.replace(",", "")) for number in numbers.split("|")]
        assert (int(row.replace(",", "")), shown) == (row_nbytes, ours)
        assert found.tail()[-4:][::-1].hex() == checksum


def test_dump_of_the_page():
    """The shard that the page shows byte by byte is the one that the worked example names."""
    dump = lines(r"^([0-9a-f]{8})((?:  ?[0-9a-f]{2})+)(?: |$)")
    data = b"".join(bytes.fromhex(row) for _, row in dump)
    starts = [int(start, 16) for start, _ in dump]
    lengths = [len(bytes.fromhex(row)) for _, row in dump]
    assert starts == [sum(lengths[:number]) for number in range(len(lengths))]
    chunk = json.loads(MANIFEST["bytes"])["chunks"]["result/c/0/0"]
    assert (xxhash.xxh3_128_hexdigest(data), len(data)) == (chunk["digest"], chunk["length"])


def test_page_shows_the_vectors():
    """The worked examples of the page are the vectors, and it describes every manifest field."""
    for vector in (*VECTORS["sealed"], MANIFEST):
        assert vector["bytes"][-35:-2] in PAGE
    for vector in VECTORS["shards"]:
        assert vector["crc32c"] in PAGE
    section = PAGE.split("\n## Manifests\n")[1].split("\n## ")[0]
    described = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert sorted(described) == sorted(json.loads(MANIFEST["bytes"]))
