"""Entries: nothing unchecked comes out, and whatever is wrong is damage and nothing else."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import layout
from castore.canonical import seal
from castore.errors import CastoreError, DamagedError
from castore.table.column import Column
from castore.table.draft import Draft
from castore.table.entry import Entry, find_entry, manifests
from castore.table.tree import assemble
from castore.table.writer import Writer, initialise, origin

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
LARGE = np.arange(60_000, dtype="<f4").reshape(600, 100)
SMALL = np.arange(5, dtype="<i8")
IDS = np.arange(600 * 16, dtype="<u4").astype("u1").reshape(600, 16)
ALGORITHMS = ["xxh3-128", "sha256", "blake3"]


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return MemoryBackend(uuid.uuid4().hex)


def commit(backend, algorithm="xxh3-128", arrays=None, rows=None, key=KEY):
    """Publish `arrays` and return what a reader finds."""
    if algorithm == "blake3":
        pytest.importorskip("blake3")
    initialise(backend, algorithm)
    made = Draft(algorithm)
    arrays = {"large": LARGE, "small": SMALL} if arrays is None else arrays
    for name, array in arrays.items():
        made.add(name, array)
    if rows is not None:
        made.add_rows(rows)
    header = {
        "table": TABLE,
        "key": key,
        "rows": None if rows is None else len(rows),
        "aligned": rows is not None,
        "form": {"dict": [[name, {"array": name}] for name in arrays]},
        "derivation": {},
        "origin": origin(0),
    }
    Writer(backend, TABLE, {}).publish(made, header)
    return find_entry(backend, TABLE, key)


def crafted(backend, **changes):
    """Replace parts of the manifest, sealed as it should be, and return what a reader finds."""
    name = layout.entry(TABLE, KEY)
    document = {**json.loads(backend.get(name)), **changes}
    del document["digest"]
    backend.put(name, [seal(document)])
    return find_entry(backend, TABLE, KEY)


def document(backend):
    """What the manifest says now."""
    return json.loads(backend.get(layout.entry(TABLE, KEY)))


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arrays_are_private_and_writable(backend, algorithm, copy):
    """Every array of an entry may be written to, and nobody else sees that."""
    commit(backend, algorithm)
    entry = find_entry(backend, TABLE, KEY, copy=copy)
    first, second = entry.arrays(), entry.arrays()
    for name, array in first.items():
        assert array.flags.writeable
        array[...] = 7
        assert second[name].tobytes() == {"large": LARGE, "small": SMALL}[name].tobytes()
    assert find_entry(backend, TABLE, KEY).arrays()["large"].tobytes() == LARGE.tobytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("place", [0, 123_456, 239_999, 240_000, -5, -1])
def test_a_flipped_bit_is_damage(backend, algorithm, place):
    """A blob with one bit flipped, among its rows or behind them, is damage under every digest."""
    entry = commit(backend, algorithm)
    (ref,) = entry.manifest.blobs
    data = bytearray(backend.get(ref.name))
    data[place] ^= 16
    backend.put(ref.name, [data])
    with pytest.raises(DamagedError, match=rf"{ref.digest} is damaged \(its bytes changed\)"):
        entry.arrays()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_damaged_blob_is_put_again(backend, algorithm):
    """What a reader saw damaged is written again by the next commit, though it has its length."""
    entry = commit(backend, algorithm)
    (ref,) = entry.manifest.blobs
    backend.put(ref.name, [bytes(ref.length)])
    with pytest.raises(DamagedError):
        entry.arrays()
    assert commit(backend, algorithm).arrays()["large"].tobytes() == LARGE.tobytes()


@pytest.mark.parametrize("change", ["missing", "cut", "longer", "empty"])
def test_a_blob_that_is_not_whole_is_damage(backend, change):
    """A blob that is missing, or longer or shorter than the manifest says, is damage."""
    entry = commit(backend)
    (ref,) = entry.manifest.blobs
    data = backend.get(ref.name)
    if change == "missing":
        backend.delete([ref.name])
    else:
        backend.put(ref.name, [{"cut": data[:-1], "longer": data + b"\0", "empty": b""}[change]])
    with pytest.raises(DamagedError, match="is missing or is not"):
        entry.arrays()


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
def test_cryptographic_stores_check_what_has_no_row_checks(backend, algorithm):
    """Under a cryptographic digest what has no row checks is compared with the digest itself."""
    many = np.random.default_rng(0).integers(0, 256, (20_000, 16), np.uint8)
    arrays = {"value": np.arange(20_000)}
    entry = commit(backend, algorithm, arrays, rows=many)
    assert np.array_equal(entry.row_ids(), many)
    column = Column.of("_rows", many)
    ref = entry.manifest.chunks[column.chunk_key]
    data = bytearray(backend.get(ref.name))
    data[100] ^= 1
    backend.put(ref.name, [data])
    with pytest.raises(DamagedError, match=ref.digest):
        entry.row_ids()
    assert entry.arrays()["value"].tolist() == list(range(20_000))


def test_row_ids_come_back(backend):
    """Row ids come back where the result has one row a sample, and are None where it has not."""
    assert np.array_equal(commit(backend, rows=IDS).row_ids(), IDS)
    assert commit(backend, key=TABLE).row_ids() is None


def test_missing_entries_are_none(backend):
    """A key that nobody published has no entry."""
    assert find_entry(backend, TABLE, KEY) is None
    commit(backend)
    assert find_entry(backend, KEY, KEY) is None


def test_entries_know_their_columns_and_size(backend):
    """Columns and their lengths are known without reading a blob."""
    entry = commit(backend)
    backend.delete([ref.name for ref in entry.manifest.blobs])
    assert entry.key == KEY
    assert entry.nbytes == LARGE.nbytes + SMALL.nbytes
    assert {name: column.shape for name, column in entry.columns.items()} == {
        "large": (600, 100),
        "small": (5,),
    }


def test_arrays_without_elements_need_no_blob(backend):
    """Arrays without elements come back with their shape and dtype."""
    arrays = {
        "none": np.empty((0, 3), "<f2"),
        "flat": np.empty((4, 0), "<c8"),
        "point": np.array(5),
    }
    found = commit(backend, arrays=arrays).arrays()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zarr_reads_an_entry_without_castore(backend, algorithm, tmp_path):
    """An entry written out as files is a Zarr group whose arrays, checks and ids zarr reads."""
    entry = commit(backend, algorithm, rows=IDS)
    for key, data in entry.values():
        (tmp_path / "zarr" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zarr" / key).write_bytes(data)
    group = zarr.open_group(tmp_path / "zarr", mode="r")
    assert sorted(group.array_keys()) == ["_rows", "large", "small"]
    assert np.array_equal(group["large"][...], LARGE)
    assert np.array_equal(group["small"][...], SMALL)
    assert np.array_equal(group["_rows"][...], IDS)
    assert group["_checks/large"].shape == (4,)


def test_values_are_checked(backend):
    """Nothing is written out of an entry whose blob is damaged."""
    entry = commit(backend)
    (ref,) = entry.manifest.blobs
    backend.put(ref.name, [bytes(ref.length)])
    with pytest.raises(DamagedError, match=ref.digest):
        list(entry.values())


def test_manifests_are_listed_by_name(backend):
    """All manifests of a store, or of one table, are found by name, and nothing else is."""
    for key in (KEY, TABLE):
        commit(backend, key=key)
    backend.put(layout.entries(KEY) + KEY + ".json", [b"damaged, and listed all the same"])
    backend.put(layout.entries(TABLE) + "notes.txt", [b""])
    own = sorted(layout.entry(TABLE, key) for key in (KEY, TABLE))
    assert list(manifests(backend, TABLE)) == own
    assert list(manifests(backend)) == sorted([*own, layout.entry(KEY, KEY)])
    assert list(manifests(backend, "0" * 32)) == []


def is_damage_or_value(entry):
    """Read everything of a crafted entry; nothing but damage may come of it."""
    for act in (
        lambda: assemble(entry.manifest.form, entry.arrays(), lambda array: array),
        lambda: list(entry.values()),
        entry.row_ids,
        lambda: entry.nbytes,
    ):
        try:
            act()
        except DamagedError as error:
            assert str(error)  # noqa: PT017
    return entry


WHOLE = Column.of("large", LARGE).chunk_nbytes
CHUNKS = {
    "beyond memory": {"digest": "ab" * 16, "generation": 0, "length": 2**60},
    "beyond any number": {"digest": "ab" * 16, "generation": 0, "length": 2**62},
    "missing": {"digest": "ab" * 16, "generation": 0, "length": WHOLE},
    "a longer digest": {"digest": "ab" * 32, "generation": 0, "length": WHOLE},
    "inline and short": {"inline": "AAAA"},
    "inline and empty": {"inline": ""},
}


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
def test_crafted_chunks_are_damage(backend, chunk):
    """A manifest, sealed as it should be, whose chunk leads nowhere is damage and nothing else."""
    commit(backend)
    entry = crafted(backend, chunks={**document(backend)["chunks"], "large/c/0/0": chunk})
    with pytest.raises(DamagedError):
        entry.arrays()
    is_damage_or_value(entry)


def test_a_generation_that_no_file_can_have_is_damage(backend):
    """A generation too long for the name of a file leads to no blob, also beside one that is."""
    commit(backend)
    chunks = document(backend)["chunks"]
    chunks["large/c/0/0"]["generation"] = 10**300
    with pytest.raises(DamagedError):
        crafted(backend, chunks=chunks).arrays()


@pytest.mark.parametrize("length", [2**60, 1, 0])
def test_crafted_lengths_are_damage_where_the_blob_is(backend, length):
    """A blob that is there is never mapped by another length than its own."""
    commit(backend)
    chunks = document(backend)["chunks"]
    chunks["large/c/0/0"]["length"] = length
    with pytest.raises(DamagedError):
        crafted(backend, chunks=chunks).arrays()


def test_a_chunk_that_is_not_named_is_damage(backend):
    """A column whose chunk the manifest lacks is damage, told with the column and its length."""
    commit(backend)
    entry = crafted(backend, chunks={})
    with pytest.raises(DamagedError, match=r"'large' takes [0-9,]+ bytes, the manifest has None"):
        entry.arrays()


FORMS = [
    *({"array": 5}, {"array": None}, {"array": True}, {"array": ["large"]}, {"array": "../large"}),
    *({"array": ""}, {"array": "zarr.json"}, {"array": "_checks/large"}, {"array": "missing"}),
    *({"list": {"array": "large"}}, {"tuple": "large"}, None, [], "large", 5, {}),
    *({"strings": ["large", "small"]}, {"numbers": "large", "of": "int"}, {"scalar": "small"}),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_crafted_forms_are_damage(backend, form):
    """A manifest, sealed as it should be, with any other form is damage or a value."""
    commit(backend)
    is_damage_or_value(crafted(backend, form=form))


@pytest.mark.parametrize("name", [5, None, True, ["x"], {"x": 1}], ids=str)
def test_columns_without_a_text_name_are_damage(backend, name):
    """A form that names a column by anything but text is damage, also where metadata match."""
    commit(backend)
    metadata = {
        **document(backend)["metadata"],
        f"{name}/zarr.json": Column.of("x", SMALL).metadata(),
    }
    entry = crafted(backend, form={"array": name}, metadata=metadata)
    with pytest.raises(DamagedError):
        entry.arrays()


SHAPES = [(0, 2**70), (2**70,), (2**61,), (0, 2**62), (1,) * 65, (0,) * 100, (2**31, 2**31, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape)[:20])
def test_crafted_shapes_are_damage(backend, shape):
    """A manifest whose metadata agree with a shape no array can have is damage and nothing else."""
    commit(backend)
    metadata = document(backend)["metadata"]
    metadata["large/zarr.json"] = Column("large", "float32", shape).metadata()
    is_damage_or_value(crafted(backend, metadata=metadata))


def test_crafted_checks_are_damage(backend):
    """Row checks that are missing, of another type or another length never pass damaged rows."""
    entry = commit(backend, "sha256")
    (ref,) = entry.manifest.blobs
    backend.put(ref.name, [bytes(ref.length)])
    original = document(backend)
    for shape, dtype in (((1,), "uint64"), ((0,), "uint64"), ((4, 1), "uint8"), ((4,), "float64")):
        metadata = dict(original["metadata"])
        metadata["_checks/large/zarr.json"] = Column("_checks/large", dtype, shape).metadata()
        with pytest.raises(DamagedError):
            crafted(backend, metadata=metadata).arrays()
    del metadata["_checks/large/zarr.json"]
    with pytest.raises(DamagedError, match=ref.digest):
        crafted(backend, metadata=metadata).arrays()


@pytest.mark.parametrize("depth", [50, 400, 480, 900, 3000])
def test_deep_forms_are_damage(backend, depth):
    """A form nested as deep as a document can be is damage or a value, and no crash."""
    commit(backend)
    text = '{"list":[' * depth + '{"array":"large"}' + "]}" * depth
    body = json.dumps({**document(backend), "form": "MARK"}, separators=(",", ":"), sort_keys=True)
    body = body.replace(f',"digest":"{document(backend)["digest"]}"', "").replace('"MARK"', text)
    from castore.digest import hexdigest

    data = body[:-1].encode()
    backend.put(layout.entry(TABLE, KEY), [data + b',"digest":"%s"}' % hexdigest([data]).encode()])
    try:
        entry = find_entry(backend, TABLE, KEY)
    except DamagedError:
        return
    is_damage_or_value(entry)


names = st.sampled_from(["large", "small", "_rows", "_checks/large", "zarr.json", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.integers() | names | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["array", "list", "dict", "named", "strings", "value", "int", "inline"])
            | names.map("{}/zarr.json".format)
            | names.map("{}/c/0/0".format),
            inner,
            max_size=2,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["form", "metadata", "chunks", "rows", "aligned"]), values))
def test_any_crafted_manifest_is_damage_or_a_value(changes):
    """Whatever a properly sealed manifest says, reading its entry gives a value or damage."""
    backend = MemoryBackend(uuid.uuid4().hex)
    commit(backend, rows=IDS)
    try:
        entry = crafted(backend, **changes)
    except DamagedError:
        return
    is_damage_or_value(entry)


@given(st.data())
def test_any_crafted_column_is_damage_or_a_value(data):
    """Whatever a properly sealed manifest says of one column, it is a value or damage."""
    backend = MemoryBackend(uuid.uuid4().hex)
    commit(backend)
    metadata = document(backend)["metadata"]
    field = data.draw(st.sampled_from(sorted(metadata["large/zarr.json"])))
    metadata["large/zarr.json"][field] = data.draw(values)
    try:
        is_damage_or_value(crafted(backend, metadata=metadata))
    except CastoreError as error:
        assert isinstance(error, DamagedError)  # noqa: PT017


def test_entries_of_one_manifest_are_equal(backend):
    """Two readers of one manifest have equal entries."""
    first = commit(backend)
    assert first == Entry(first.manifest, backend)
    assert first == find_entry(backend, TABLE, KEY)
