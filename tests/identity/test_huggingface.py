"""Datasets of HuggingFace by the content of their rows, wherever and however they are stored."""

from __future__ import annotations

import datetime as dt
import functools
import io
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore.canonical import dumps
from castore.errors import ConfigError, FingerprintError, RandomError
from castore.identity.datasets.huggingface import rule_for
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import Terms

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

datasets.disable_progress_bars()

Dataset, Features, List, Value = (
    datasets.Dataset,
    datasets.Features,
    datasets.List,
    datasets.Value,
)

ROWS = {
    "text": ["a", None, "", "d"],
    "label": [0, 1, 0, None],
    "words": [["x", None], [], None, ["", "y"]],
    "day": [dt.date(2020, 1, day) for day in range(1, 5)],
    "box": [{"at": [1.5], "name": "n"}, {"at": None, "name": None}, {"at": [], "name": ""}, None],
}


def samples(dataset, indices=None, **terms):
    """The identity of the samples of a dataset, or of some."""
    indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
    return samples_of(dataset, indices, Terms(**terms))


def ids(dataset, indices=None, **terms) -> list[str]:
    """Row ids of a dataset, or of some of its samples, as text."""
    return [row.tobytes().hex() for row in samples(dataset, indices, **terms).row_ids]


def picture(colour, kind="PNG") -> bytes:
    """A small picture as a file has it."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (4, 3), (colour, 0, 0)).save(file, kind)
    return file.getvalue()


# Items


def test_the_same_rows_have_the_same_ids_however_they_are_stored(tmp_path):
    """Memory, disk, Parquet, chunks, slices and indices mappings make no difference."""
    dataset = Dataset.from_dict(ROWS)
    expected = ids(dataset)
    assert len(set(expected)) == 4
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "rows.parquet")
    cache = str(tmp_path / "cache")
    assert ids(datasets.load_from_disk(tmp_path / "saved")) == expected
    assert ids(Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=cache)) == expected
    halves = [dataset.select([0, 1]), dataset.select([2, 3])]
    assert ids(datasets.concatenate_datasets(halves)) == expected
    assert ids(Dataset(dataset.data.table.slice(1))) == expected[1:]
    assert ids(dataset, [-1, 1, 1]) == [expected[3], expected[1], expected[1]]


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
@given(st.permutations(range(6)), st.integers(1, 6))
@settings(max_examples=20)
def test_an_indices_mapping_is_the_rows_it_maps_to(order, count):
    """Rows chosen, shuffled and sorted have their own ids, as have copies of them."""
    dataset = Dataset.from_dict({"n": list(range(6)), "text": list("abcdef")})
    expected = ids(dataset)
    chosen = dataset.select(order).select(range(count))
    assert ids(chosen) == ids(chosen.flatten_indices()) == [expected[i] for i in order[:count]]
    assert ids(chosen.sort("n")) == [expected[i] for i in sorted(order[:count])]
    assert set(ids(dataset.shuffle(seed=count))) == set(expected)


def test_every_value_of_a_row_counts():
    """A row with another value in any column, or a null for an empty one, is another row."""
    base = {name: values[:1] for name, values in ROWS.items()}
    features = Dataset.from_dict(ROWS).features
    others = [
        {"text": ["b"]},
        {"text": [""]},
        {"text": [None]},
        {"label": [1]},
        {"words": [["x"]]},
        {"words": [["x", ""]]},
        {"words": [[]]},
        {"words": [None]},
        {"day": [dt.date(2021, 1, 1)]},
        {"box": [{"at": [1.25], "name": "n"}]},
        {"box": [{"at": [1.5], "name": None}]},
        {"box": [{"at": None, "name": None}]},
        {"box": [None]},
    ]
    found = [ids(Dataset.from_dict({**base, **other}, features)) for other in [{}, *others]]
    assert len({tuple(rows) for rows in found}) == len(others) + 1


def test_maps_and_filters_count_by_what_came_of_them():
    """What a dataset was made by does not count, nor what the library says of it."""
    dataset = Dataset.from_dict({"n": [1, 2, 3]})
    double = dataset.map(lambda row: {"n": row["n"] * 2}, keep_in_memory=True)
    assert ids(double) == ids(Dataset.from_dict({"n": [2, 4, 6]}))
    few = dataset.filter(lambda row: row["n"] > 1, keep_in_memory=True)
    assert ids(few) == ids(dataset)[1:]
    named = Dataset(dataset.data.table, fingerprint="another", split=datasets.Split.TEST)
    assert ids(named) == ids(dataset)


def test_a_generator_and_a_copy_on_disk_are_known_by_their_rows(tmp_path):
    """Where the cache of a dataset lies does not count."""
    first = datasets.load_dataset(
        "json", data_files=_lines(tmp_path / "a"), split="train", cache_dir=str(tmp_path / "1")
    )
    again = datasets.load_dataset(
        "json", data_files=_lines(tmp_path / "b"), split="train", cache_dir=str(tmp_path / "2")
    )
    assert ids(first) == ids(again) == ids(Dataset.from_dict({"n": [1, 2]}))


def _lines(folder) -> str:
    folder.mkdir()
    (folder / "rows.json").write_text('{"n": 1}\n{"n": 2}\n')
    return str(folder / "rows.json")


def test_dictionaries_and_wide_offsets_are_the_texts_they_stand_for():
    """Text stored as a dictionary, or with offsets of 64 bits, is that text."""
    texts = pa.array(["a", None, "b"])
    stored = [texts, texts.cast(pa.large_string()), texts.dictionary_encode()]
    found = [ids(Dataset(pa.table({"t": array}))) for array in stored]
    assert found[1:] == found[:1] * 2


# Sources


def test_what_makes_a_sample_of_a_row_counts():
    """Columns, their order and types, and the format are part of what a sample is."""
    dataset = Dataset.from_dict({"a": [1.0], "b": [2.0]})
    array = Features({"a": datasets.Array2D((1, 2), "int8")})
    listed = Features({"a": List(List(Value("int8"), length=2), length=1)})
    sources = [
        dataset,
        dataset.rename_column("a", "c"),
        dataset.select_columns(["b", "a"]),
        dataset.cast_column("a", Value("float32")),
        dataset.with_format("numpy"),
        dataset.with_format("numpy", dtype=np.int8),
        dataset.with_format("pandas"),
        dataset.with_format("arrow"),
        dataset.with_format(columns=["a"]),
        dataset.with_format("numpy", columns=["a"], output_all_columns=True),
        dataset.with_format("numpy", columns=["b"], output_all_columns=True),
        dataset.with_transform(lambda batch: batch),
        dataset.with_transform(lambda batch: {"a": batch["b"]}),
        Dataset.from_dict({"a": [[[1, 2]]]}, array),
        Dataset.from_dict({"a": [[[1, 2]]]}, listed),
    ]
    assert len({dumps(samples(source).sources) for source in sources}) == len(sources)
    assert len({tuple(ids(source)) for source in sources}) == len(sources)


def test_columns_that_no_sample_has_do_not_count():
    """A column that the format leaves out is no part of the samples."""
    narrow = Dataset.from_dict({"a": [1]})
    wide = Dataset.from_dict({"a": [1], "b": ["x"]})
    assert ids(wide.with_format("numpy", columns=["a"])) == ids(narrow.with_format("numpy"))
    assert ids(wide.with_format("numpy")) != ids(narrow.with_format("numpy"))


def test_names_of_classes_do_not_count():
    """A class is the number that a sample has, not what the dataset calls it."""
    labels = [
        Features({"y": datasets.ClassLabel(names=["cat", "dog"])}),
        Features({"y": datasets.ClassLabel(names=["dog", "fox", "cat"])}),
        Features({"y": Value("int64")}),
    ]
    found = [ids(Dataset.from_dict({"y": [0, 1]}, features)) for features in labels]
    assert found[1:] == found[:1] * 2


def test_tables_show_the_types_that_arrow_stores():
    """Formats that give tables tell a long text type from a short one; others do not."""
    short = Dataset(pa.table({"t": pa.array(["a"])}))
    long = Dataset(pa.table({"t": pa.array(["a"], pa.large_string())}))
    assert ids(short) == ids(long)
    for kind in ("arrow", "pandas"):
        assert ids(short.with_format(kind)) != ids(long.with_format(kind))


def test_the_device_of_a_format_does_not_count():
    """Tensors are the same wherever they are put."""
    pytest.importorskip("torch")
    dataset = Dataset.from_dict({"a": [1]})
    plain = dataset.with_format("torch")
    assert ids(dataset.with_format("torch", device="cpu")) == ids(plain)
    assert ids(dataset) != ids(plain)


def test_values_a_transform_captures_count():
    """A transform goes by its code and by what it captures."""
    dataset = Dataset.from_dict({"n": [1, 2]})

    def scaled(factor):
        return dataset.with_transform(lambda batch: {"n": [n * factor for n in batch["n"]]})

    assert ids(scaled(2)) == ids(scaled(2))
    assert ids(scaled(2)) != ids(scaled(3))
    joined = functools.partial(lambda batch, key: {key: batch["n"]}, key="m")
    other = functools.partial(lambda batch, key: {key: batch["n"]}, key="k")
    assert ids(dataset.with_transform(joined)) != ids(dataset.with_transform(other))


def test_random_transforms_are_refused():
    """A transform that holds one known to be random is refused, unless draws are frozen."""
    crop = pytest.importorskip("torchvision.transforms").RandomCrop(2)
    dataset = Dataset.from_dict({"n": [1]}).with_transform(lambda batch: {"n": crop(batch["n"])})
    with pytest.raises(RandomError, match="RandomCrop"):
        samples(dataset)
    (frozen,) = samples(dataset, freeze=True).frozen.values()
    assert frozen.endswith("RandomCrop")


def test_samples_of_transforms_are_probed():
    """Of a dataset with a transform a sample is loaded twice; of others there is no need."""
    dataset = Dataset.from_dict({"n": [1]})
    assert samples(dataset).probes == ()
    noisy = dataset.with_transform(lambda batch: {"n": [random.random()]})
    assert samples(noisy).probes == (0,)
    assert samples(noisy, []).probes == ()


# Pictures and other files


@pytest.fixture
def files(tmp_path):
    """Three pictures in files, of which two are the same."""
    paths = []
    for number, colour in enumerate([10, 20, 10]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture(colour))
        os.utime(path, (0, 0))
        paths.append(str(path))
    return paths


def pictured(items, **options):
    """A dataset of pictures."""
    return Dataset.from_dict({"i": items}, Features({"i": datasets.Image(**options)}))


def stored(feature, *items):
    """A dataset of files as Arrow stores them, whatever the library makes of them on the way in."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    info = datasets.DatasetInfo(features=Features({"i": feature}))
    return Dataset(pa.table({"i": pa.array(items, kind)}), info=info)


def test_pictures_go_by_what_their_files_contain(files, tmp_path):
    """A picture is the same inside the table and in a file beside it, whatever its path."""
    dataset = pictured(files)
    first, second, third = ids(dataset)
    assert first == third != second
    inside = [{"bytes": picture(10), "path": path} for path in (None, "x.png")]
    assert ids(pictured(inside)) == [first, first]
    dataset.save_to_disk(tmp_path / "saved")
    assert ids(datasets.load_from_disk(tmp_path / "saved")) == [first, second, first]
    moved = shutil.copy(files[1], tmp_path / "moved.png")
    assert ids(pictured([moved])) == [second]
    (tmp_path / "moved.png").write_bytes(picture(30))
    assert ids(pictured([moved])) not in ([first], [second])


def test_pictures_in_lists_and_structs_are_found(files):
    """A picture counts by its content wherever a feature has it."""
    nested = Features({"x": List({"i": datasets.Image(), "n": Value("int8")})})
    beside = [[{"i": files[0], "n": 1}], [], [{"i": None, "n": 1}], None]
    within = [[{"i": {"bytes": picture(10), "path": None}, "n": 1}], *beside[1:]]
    found = ids(Dataset.from_dict({"x": beside}, nested))
    assert found == ids(Dataset.from_dict({"x": within}, nested))
    assert len(set(found)) == 4


def test_how_pictures_are_decoded_counts(files):
    """The mode, and whether pictures are decoded at all, is part of the source."""
    features = [{}, {"mode": "L"}, {"decode": False}]
    found = {ids(pictured(files, **options))[0] for options in features}
    raw = ids(pictured(files).with_format("arrow"))[0]
    assert len({*found, raw}) == 4
    assert "decoders" in samples(pictured(files)).sources[0]
    assert "decoders" not in samples(pictured(files, decode=False)).sources[0]


def test_nothing_is_decoded_in_tables_of_arrow(files):
    """Arrow's own format gives files as they are stored: by path, whatever decodes them."""
    raw = pictured(files).with_format("arrow")
    assert ids(raw) == ids(pictured(files, mode="L").with_format("arrow"))
    assert len(set(ids(raw))) == 3


def test_paths_count_where_samples_show_them(files):
    """Of pictures that are not decoded the path counts too, unless it is to be ignored."""
    dataset = pictured(files, decode=False)
    first, second, third = ids(dataset)
    assert len({first, second, third}) == 3
    ignored = ids(dataset, ignored=frozenset(["path"]))
    assert ignored[0] == ignored[2] != ignored[1]
    nameless = stored(datasets.Image(decode=False), {"bytes": b"x", "path": None})
    assert ids(nameless, ignored=frozenset(["path"])) != ids(nameless)
    with pytest.raises(ConfigError, match="nothing can be ignored"):
        samples(pictured(files), ignored=frozenset(["path"]))


def test_files_inside_and_beside_differ_where_samples_show_them(files):
    """A sample with the bytes of a file is another than one with only its path."""
    contents = {"bytes": picture(10), "path": files[0]}
    for options, same in (({}, True), ({"decode": False}, False)):
        feature = datasets.Image(**options)
        beside = stored(feature, {**contents, "bytes": None})
        assert (ids(stored(feature, contents)) == ids(beside)) == same


def test_stamps_stand_for_files_on_demand(files):
    """By size and time alone a file beside the table is not read, and a touched one is another."""
    dataset = pictured(files)
    before = ids(dataset, by="stat")
    assert len({*before, *ids(dataset)}) == 5
    os.utime(files[0], (1, 1))
    after = ids(dataset, by="stat")
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    inside = pictured([{"bytes": picture(10), "path": None}])
    assert ids(inside, by="stat") == ids(inside)


def test_files_are_counted(files):
    """The number of files read is reported."""
    seen = []
    copies = [shutil.copy(path, f"{path}.copy") for path in files]
    samples(pictured(copies), on_file=seen.append)
    assert seen[-1] == 3


def test_files_that_cannot_be_read_are_refused(tmp_path):
    """A file that is missing, or on another machine, is refused by its name."""
    with pytest.raises(FingerprintError, match=r"gone\.png"):
        samples(pictured([str(tmp_path / "gone.png")]))
    with pytest.raises(FingerprintError, match="not on this machine"):
        samples(pictured(["https://example.org/a.png"]))


def test_sounds_go_by_content_and_options():
    """A sound counts by its content; another sampling rate makes another sample of it."""
    sound = {"bytes": b"RIFF", "path": None}
    expected = ids(stored(datasets.Audio(), sound))
    assert ids(stored(datasets.Audio(), {**sound, "path": "a.wav"})) == expected
    assert ids(stored(datasets.Audio(), {**sound, "bytes": b"RIFX"})) != expected
    assert ids(stored(datasets.Audio(sampling_rate=8000), sound)) != expected


def test_paths_that_say_what_a_file_is_count():
    """Of files that are decoded by the ending of their names, the path counts."""
    if not hasattr(datasets, "Mesh"):
        pytest.skip("this version knows no meshes")
    meshes = [{"bytes": b"x", "path": path} for path in ("a.ply", "a.stl", "a.ply")]
    first, other, again = ids(stored(datasets.Mesh(), *meshes))
    assert first == again != other


# Types


def test_subclasses_that_read_samples_alike_have_the_rule():
    """A subclass counts if samples are read as its base does, its own attributes then too."""

    class Named(Dataset):
        pass

    class Own(Dataset):
        def __getitem__(self, key):
            return super().__getitem__(key)

    class Inner(Dataset):
        def _getitem(self, key, **kwargs):
            return super()._getitem(key, **kwargs)

    table = pa.table({"n": [1, 2]})
    named = Named(table)
    assert ids(named) == ids(Dataset(table))
    named.scale = 2
    assert ids(named) != ids(Dataset(table))
    named.source = iter([])
    with pytest.raises(FingerprintError, match="attribute 'source'"):
        samples(named)
    for kind in (Own, Inner):
        assert rule_for(kind(table)) is None
        with pytest.raises(FingerprintError, match="has no rule for its type"):
            samples(kind(table))


def test_other_types_of_the_library_are_refused():
    """A stream has no rows to name, and a dict of datasets is no dataset."""
    stream = Dataset.from_dict({"n": [1]}).to_iterable_dataset()
    splits = datasets.DatasetDict({"train": Dataset.from_dict({"n": [1]})})
    for other in (stream, splits):
        assert rule_for(other) is None
        with pytest.raises(FingerprintError, match=r"no length|no rule for its type"):
            samples_of(other, np.zeros(0, np.int64))


def test_features_of_the_users_are_refused():
    """What a feature castore does not know makes of a value is not guessed."""

    class Reversed(datasets.Value):
        def decode_example(self, value, token_per_repo_id=None):
            return value[::-1]

    info = datasets.DatasetInfo(features=Features({"t": Reversed("string")}))
    dataset = Dataset(pa.table({"t": ["ab"]}), info=info)
    with pytest.raises(FingerprintError, match=r"column 't' holds a feature .*Reversed"):
        samples(dataset)


def test_parts_of_torchs_datasets_are_found():
    """Subsets and concatenations of HuggingFace's datasets keep the ids of their rows."""
    torch = pytest.importorskip("torch")
    dataset = Dataset.from_dict(ROWS)
    expected = ids(dataset)
    subset = torch.utils.data.Subset(dataset, [2, 0])
    assert ids(subset) == [expected[2], expected[0]]
    both = torch.utils.data.ConcatDataset([dataset, dataset.select([3])])
    assert ids(both) == [*expected, expected[3]]


# Golden


def test_golden_vectors():
    """The derivation of a dataset and the ids of its rows are part of the format."""
    dataset = Dataset.from_dict(ROWS)
    (source,) = samples(dataset).sources
    assert source == {
        "columns": [
            ["text", "string"],
            ["label", "int64"],
            ["words", {"list": "string"}],
            ["day", "date32[day]"],
            ["box", {"struct": [["at", {"list": "double"}], ["name", "string"]]}],
        ],
        "dataset": "datasets.Dataset",
        "format": {"rest": [], "type": None},
        "features": [],
    }
    assert ids(dataset) == [
        "ea0b1fc385e4e2d8183ece2567b58853",
        "89ee1e547d7f05679d0e48cb50245ebb",
        "08d81f60b84cacb0cfb8f1a5c78edc10",
        "81edb0b57451b6678fe62a071adae1f5",
    ]


def test_golden_vectors_of_files():
    """What a file is known by is part of the format."""
    dataset = stored(datasets.Image(decode=False), {"bytes": b"x", "path": "a"}, None)
    (source,) = samples(dataset).sources
    stored_as = {"struct": [["bytes", "binary"], ["path", "string"]]}
    assert source == {
        "columns": [["i", stored_as]],
        "dataset": "datasets.Dataset",
        "format": {"rest": [], "type": None},
        "features": [[["i"], "Image", {}]],
    }
    assert ids(dataset) == [
        "37d9a52e88bfecf2198fd55c46288929",
        "24376d10d2c534189d4ef8a2130a40c2",
    ]


def test_the_format_counts_under_a_vouched_name():
    """To vouch for the items says nothing of the columns that a sample has, or as what."""
    plain = datasets.Dataset.from_dict({"a": [1, 2], "b": [3, 4]})
    numpy = plain.with_format("numpy")
    several = [plain, numpy, plain.with_format("numpy", columns=["a"])]
    data = pytest.importorskip("torch.utils.data")
    several.append(data.ConcatDataset([numpy]))
    found = {
        samples_of(dataset, np.arange(2), dataset_id="x@1").row_ids.tobytes()
        for dataset in (*several, plain.select([0, 1]))
    }
    assert len(found) == 3
