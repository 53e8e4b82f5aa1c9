"""``castore export`` and ``castore import``, and what other commands say of hierarchies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import zarr

import castore

VALUES = np.arange(40_000.0).reshape(4, 10_000)


@pytest.fixture
def folder(tmp_path):
    """A hierarchy: `a` in four chunks, two of them equal; and `g/n`, a number."""
    place = tmp_path / "in.zarr"
    group = zarr.open_group(place, mode="w")
    array = group.create_array(
        "a", shape=VALUES.shape, chunks=(1, 10_000), dtype="f8", compressors=None
    )
    array[...] = VALUES[[0, 1, 2, 2]]
    group.create_array("g/n", shape=(), dtype="i2", compressors=None)[...] = 5
    return place


@pytest.fixture
def key(store, folder):
    """Key of the entry in the store that the settings name."""
    return store.import_zarr(folder, "era", inputs={"year": 2024}).key


def files(place):
    """Every file below a folder, by its path."""
    return {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()
    }


# import


def test_import_makes_an_entry(run, store, folder):
    """`castore import` makes the store and an entry, and says key, arrays, bytes and where."""
    result = run("import", folder, "--suffix", "era")
    (info,) = store.entries()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"imported {folder} as {info.key} (2 arrays, 320.0 kB) into {store.url}\n"
    )
    assert (info.suffix, info.nbytes) == ("era", 320_002)
    np.testing.assert_array_equal(store.entry(info.key).zarr()["a"][...], VALUES[[0, 1, 2, 2]])
    assert run("import", folder, "--suffix", "era").stdout == result.stdout
    assert len(list(store.entries())) == 1, "equal content is one entry"
    zarr.open_group(folder, mode="r+")["g/n"][...] = 6
    assert run("import", folder, "--suffix", "era").exit_code == 0
    assert len(list(store.entries())) == 2, "other content is another"


def test_import_prints_json(run, store, folder, tmp_path):
    """`--json` has key, arrays, bytes, folder and store; `--store` names another store."""
    url = str(tmp_path / "other")
    result = run("import", folder, "--suffix", "era", "--store", url, "--json")
    (info,) = castore.open(url).entries()
    assert json.loads(result.stdout) == {
        "key": info.key, "arrays": 2, "bytes": 320_002, "folder": str(folder), "url": url
    }  # fmt: skip
    assert not Path(store.url).exists()


INPUTS = {
    "year=2024": {"year": 2024},
    "share=0.5": {"share": 0.5},
    "level=surface": {"level": "surface"},
    'level="7"': {"level": "7"},
    "bounds=[1, 2]": {"bounds": [1, 2]},
    "where=a=b": {"where": "a=b"},
    "empty=": {"empty": ""},
    "none=null": {"none": None},
    "nan=NaN": {"nan": "NaN"},
}


@pytest.mark.parametrize("text", INPUTS)
def test_inputs_are_json_or_text(run, store, folder, text):
    """`--input NAME=VALUE` is JSON where it parses, else text, as `find` takes it in Python."""
    assert run("import", folder, "--suffix", "era", "--input", text).exit_code == 0
    assert store.find("era", inputs=INPUTS[text]) is not None


def test_several_inputs_and_a_version(run, store, folder):
    """`--input` may be repeated; `--version` is a whole number where it is one."""
    words = ["--input", "year=2024", "--input", "level=surface"]
    inputs = {"level": "surface", "year": 2024}
    assert run("import", folder, "--suffix", "era", *words, "--version", "2").exit_code == 0
    assert run("import", folder, "--suffix", "era", *words, "--version", "2a").exit_code == 0
    assert store.find("era", inputs=inputs, version=2) is not None
    assert store.find("era", inputs=inputs, version="2a") is not None
    assert store.find("era", inputs=inputs) is None


def test_what_was_there_first_stays_unless_forced(run, store, folder):
    """Another hierarchy of the same inputs changes nothing; `--force` replaces what is there."""
    words = ["import", folder, "--suffix", "era", "--input", "year=2024"]
    assert run(*words).exit_code == 0
    zarr.open_group(folder, mode="r+")["g/n"][...] = 6
    for extra, value in ([], 5), (["--force"], 6):
        assert run(*words, *extra).exit_code == 0
        assert store.find("era", inputs={"year": 2024}).zarr()["g/n"][()] == value


@pytest.mark.parametrize(
    "words",
    [["--input", "year"], ["--input", "=3"], ["--input", "a=1", "--input", "a=2"]],
    ids=" ".join,
)
def test_inputs_must_have_names(run, folder, store, words):
    """An input without a name, without a value or given twice is a usage error that shows it."""
    result = run("import", folder, "--suffix", "era", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words[-1].partition("=")[0] in result.stderr
    assert not Path(store.url).exists()


def test_import_needs_a_suffix(run, folder):
    """Without `--suffix` it is a usage error."""
    assert run("import", folder).exit_code == 2


@pytest.mark.parametrize("name", ["empty", "file", "none"])
def test_what_is_no_hierarchy_is_refused(run, tmp_path, store, name):
    """What is no folder with a zarr.json is named, and no store is made for it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    result = run("import", tmp_path / name, "--suffix", "era")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"castore: {tmp_path / name} ")
    assert not Path(store.url).exists()


# export


def test_export_writes_a_folder(run, key, folder, tmp_path):
    """`castore export` writes what was imported, byte for byte, and says so."""
    place = tmp_path / "out.zarr"
    assert key[:30] != key[:30].upper()
    result = run("export", key[:30].upper(), place)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"exported {key} to {place} (2 arrays, 320.0 kB)\n"
    assert files(place) == files(folder)


def test_export_prints_json(run, key, tmp_path):
    """`--json` has key, arrays, bytes and the folder."""
    place = tmp_path / "out.zarr"
    found = json.loads(run("export", key, place, "--json").stdout)
    assert found == {"key": key, "arrays": 2, "bytes": 320_002, "folder": str(place)}


def test_results_are_exported_too(run, keys, tmp_path):
    """The result of a function becomes a folder that zarr opens."""
    assert run("export", keys["small"], tmp_path / "out").exit_code == 0
    found = zarr.open_group(tmp_path / "out", mode="r")["result"][...]
    np.testing.assert_array_equal(found, 2 * np.arange(12.0).reshape(6, 2))


def test_export_spares_what_is_there(run, key, tmp_path):
    """A folder with something in it is named, and left as it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    result = run("export", key, tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{tmp_path / 'out'} is there already" in result.stderr
    assert files(tmp_path / "out") == {"file": b"mine"}


def test_export_of_damage_leaves_nothing(run, store, key, tmp_path):
    """Of a damaged entry there is no folder, and the message names the blob."""
    chunk = store.entry(key).manifest.chunks["a/c/1/0"]
    (Path(store.url) / chunk.name).unlink()
    before = set(tmp_path.iterdir())
    result = run("export", key, tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert chunk.name in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_export_needs_an_entry(run, key, tmp_path, store):
    """An unknown key is 1, an empty one 2, a place without a store 10."""
    assert run("export", "zzzz", tmp_path / "out").exit_code == 1
    assert run("export", "", tmp_path / "out").exit_code == 2
    result = run("export", key, tmp_path / "out", "--store", tmp_path / "none")
    assert result.exit_code == 10
    assert f"castore init {shlex.quote(str(tmp_path / 'none'))}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_but_messages_on_a_terminal(terminal, key, tmp_path):
    """On a terminal, too, the last line is what was done."""
    code, lines = terminal("export", key, tmp_path / "out", columns=400).end()
    assert (code, lines[-1]) == (0, f"exported {key} to {tmp_path / 'out'} (2 arrays, 320.0 kB)")


# Other commands


def sections(text):
    """What `castore info` prints, by title: cells by the first of a line."""
    found = {}
    for part in text.split("\n\n"):
        title, *lines = part.splitlines() if found else ["", *part.splitlines()]
        cells = (line.strip().split("  ", 1) for line in lines)
        found[title] = {name: rest[0].strip() if rest else "" for name, *rest in cells}
    return found


def test_info_tells_of_arrays(run, key):
    """`castore info` of a hierarchy has a line an array, of what it is and where its chunks are."""
    told = sections(run("info", key).stdout)
    assert told[""]["rows"] == "-"
    assert told[""]["computed"] == "-", "nobody knows how long it took"
    assert told["arrays"]["a"].split() == ["float64", "(4,", "10000)", "320.0", "kB"]
    assert told["arrays"]["g/n"].split() == ["int16", "()", "2", "B"]
    assert told["keyed: inputs"] == {"year": "2024"}
    assert told["stored"]["a"] == "320.0 kB  4 chunks in 3 blobs"
    assert told["stored"]["g/n"] == "2 B       1 chunk in the manifest"
    assert set(told["stored"]) == {"a", "g/n"}


def test_info_tells_of_content(run, folder, store):
    """Of a hierarchy without inputs it says that it goes by its content."""
    info = store.import_zarr(folder, "era")
    content = info.derivation["entry"]["hierarchy"]["content"]
    told = sections(run("info", info.key).stdout)
    assert told["keyed: content"] == {"all files": f"by name and bytes, digest {content[:8]}"}


def test_info_tells_of_what_belongs_to_no_array(run, folder, store):
    """Files beside the arrays, mixed places and the map of many names have their lines."""
    (folder / "notes.txt").write_text("mine")
    array = zarr.open_group(folder, mode="r+").create_array(
        "many", shape=(2200,), chunks=(1,), dtype="i1", compressors=None
    )
    array[...] = 1
    for number in range(3):
        (folder / f"many/c/{number}").write_bytes(bytes([number]) * 70_000)
    info = store.import_zarr(folder, "era")
    told = sections(run("info", info.key).stdout)["stored"]
    assert told["many"].endswith("2,200 chunks in 3 blobs, 2,197 in the manifest")
    assert told["other files"].endswith("4 B       1 chunk in the manifest")
    keys = store.entry(info.key).manifest.map
    assert told["their names"].endswith(keys.name)
    assert len(json.loads(run("info", info.key, "--json").stdout)["stored"]) == 2206


def test_info_of_a_root_array(run, store, tmp_path):
    """Where the root is an array, it is called /."""
    zarr.create_array(tmp_path / "root", data=np.arange(3.0), compressors=None)
    info = store.import_zarr(tmp_path / "root", "root")
    told = sections(run("info", info.key).stdout)
    assert told["arrays"]["/"].split() == ["float64", "(3,)", "24", "B"]
    assert told["stored"] == {"/": "24 B  1 chunk in the manifest"}


def test_info_prints_every_chunk_as_json(run, key):
    """`castore info --json` keeps a line a chunk."""
    found = json.loads(run("info", key, "--json").stdout)
    assert set(found["stored"]) == {*(f"a/c/{n}/0" for n in range(4)), "g/n/c"}
    assert found["columns"] == {"a": "float64 (4, 10000)", "g/n": "int16 ()"}


def test_ls_lists_hierarchies(run, key):
    """`castore ls` shows a hierarchy with its arrays, and no rows."""
    (table,) = json.loads(run("ls", "--json").stdout)
    assert (table["suffix"], table["entries"], table["rows"], table["size"]) == (
        "era", 1, 0, 320_002
    )  # fmt: skip
    (entry,) = json.loads(run("ls", "era", "--json").stdout)
    assert (entry["rows"], entry["columns"]["a"]) == (None, "float64 (4, 10000)")
    text = run("ls", "era").stdout
    assert "a float64 (4, 10000); g/n int16 ()" in text
    assert run("ls").exit_code == run("du").exit_code == run("stats").exit_code == 0


def test_explain_compares_hierarchies(run, store, folder, key):
    """`castore explain` tells in what inputs and content differ."""
    other = store.import_zarr(folder, "era", inputs={"year": 2025}).key
    found = json.loads(run("explain", other, "--json").stdout)
    assert found["before"]["key"] == key
    assert [one["path"] for one in found["differences"]] == ["inputs.year"]
    line = next(
        line for line in run("explain", key, other).stdout.splitlines() if "inputs.year" in line
    )
    assert line.split() == ["inputs.year", "2024", "2025"]


def test_explain_tells_hierarchies_from_results(run, store, key, keys):
    """A hierarchy beside a result differs in being one; each is nearest to its own kind."""
    text = run("explain", keys["small"], key).stdout
    line = next(line for line in text.splitlines() if line.startswith("hierarchy"))
    assert line.split()[:4] == ["hierarchy", "absent", "by", "its"]
    assert "a Zarr hierarchy is no function's result" in line
    found = json.loads(run("explain", key, "--json").stdout)
    assert found["before"] is None
    assert run("explain", keys["large"]).exit_code == run("explain").exit_code == 0
