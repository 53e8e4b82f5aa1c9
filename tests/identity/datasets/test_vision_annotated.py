"""Pictures with annotations: Pascal VOC and COCO, from real files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest

from castore.errors import ConfigError, FingerprintError, RandomError
from castore.identity.datasets.rules import samples_of

pytest.importorskip("torch")
tv = pytest.importorskip("torchvision.datasets")
image = pytest.importorskip("PIL.Image")
from torchvision import transforms as T  # noqa: E402, N812
from torchvision.transforms import v2  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)


def write_voc(root):
    """Write a Pascal VOC of three pictures."""
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Main"):
        (base / name).mkdir(parents=True)
    (base / "ImageSets" / "Segmentation").mkdir()
    for part in ("Main", "Segmentation"):
        (base / "ImageSets" / part / "train.txt").write_text("1\n2\n3\n")
    for index, pixels in enumerate(PIXELS, 1):
        image.fromarray(pixels).save(base / "JPEGImages" / f"{index}.jpg", format="png")
        image.fromarray(pixels[..., 0]).save(base / "SegmentationClass" / f"{index}.png")
        text = f"<annotation><object><name>cat</name><x>{index}</x></object></annotation>"
        (base / "Annotations" / f"{index}.xml").write_text(text)


def write_coco(root):
    """Write a COCO of three pictures, of which one has no annotation."""
    (root / "images" / "more").mkdir(parents=True)
    names = ["1.png", "2.png", "more/3.png"]
    for pixels, name in zip(PIXELS, names, strict=True):
        image.fromarray(pixels).save(root / "images" / name)
    document = {
        "images": [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": 10, "bbox": [0.5, 1, 2, 3], "category_id": 1, "caption": "a cat"},
            {"id": 2, "image_id": 10, "bbox": [1, 1, 2, 3], "category_id": 2, "caption": "a dog"},
            {"id": 3, "image_id": 12, "bbox": [0, 0, 2, 3], "category_id": 1, "caption": "one"},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "notes.json").write_text(json.dumps(document))


def read_coco(kind, root, **options):
    """Read a COCO without what pycocotools prints."""
    pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        return kind(str(root / "images"), str(root / "notes.json"), **options)


KINDS = {
    "CocoCaptions": (write_coco, lambda root, **o: read_coco(tv.CocoCaptions, root, **o)),
    "CocoDetection": (write_coco, lambda root, **o: read_coco(tv.CocoDetection, root, **o)),
    "VOCDetection": (write_voc, lambda root, **o: tv.VOCDetection(root, image_set="train", **o)),
    "VOCSegmentation": (
        write_voc,
        lambda root, **o: tv.VOCSegmentation(root, image_set="train", **o),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """The name of a type."""
    return request.param


@pytest.fixture
def root(kind, tmp_path):
    """A folder with the files that the type reads."""
    root = tmp_path / "root"
    KINDS[kind][0](root)
    return root


@pytest.fixture
def read(kind):
    """Read a dataset of the type from a folder."""
    return KINDS[kind][1]


def picture(root, number):
    """Find the file of a picture."""
    return next(path for path in sorted(root.rglob(f"{number}.*")) if "mages" in path.parent.name
                or path.parent.name == "more")  # fmt: skip


def annotate(kind, root, number, value):
    """Change the annotation of a picture."""
    if kind.startswith("Coco"):
        document = json.loads((root / "notes.json").read_text())
        for note in document["annotations"]:
            if note["image_id"] == 9 + number:
                note["caption"] = note["bbox"] = value
        (root / "notes.json").write_text(json.dumps(document))
    elif kind == "VOCDetection":
        path = root / "VOCdevkit/VOC2012/Annotations" / f"{number}.xml"
        path.write_text(f"<annotation><x>{value}</x></annotation>")
    else:
        pixels = np.full((6, 6), value, np.uint8)
        image.fromarray(pixels).save(root / "VOCdevkit/VOC2012/SegmentationClass" / f"{number}.png")


def same(one, two):
    """Tell of each row whether it is the same."""
    return [a == b for a, b in zip(one, two, strict=True)]


def test_equal_builds_agree_wherever_they_lie(root, read, ids, tmp_path):
    """Datasets of equal files have the same rows at any root, and every picture its own."""
    found = ids(read(root))
    assert len(set(found)) == 3
    copy = shutil.copytree(root, tmp_path / "elsewhere" / "deep")
    assert ids(read(copy)) == found
    assert samples_of(read(copy), np.arange(3)).not_keyed == {}


def test_pictures_go_by_what_they_contain(root, read, ids):
    """A picture replaced under its name is another row; the others stay."""
    before = ids(read(root))
    image.fromarray(255 - PIXELS[0]).save(picture(root, 1), format="png")
    assert same(before, ids(read(root))) == [False, True, True]


def test_annotations_are_part_of_the_row(kind, root, read, ids):
    """Another annotation of a picture is another row, unless targets are ignored."""
    before, without = ids(read(root)), ids(read(root), ignored=["target"])
    annotate(kind, root, 3, 7)
    assert same(before, ids(read(root))) == [True, True, False]
    assert ids(read(root), ignored=["target"]) == without
    assert not set(before) & set(without)


def test_parts_of_the_items_can_be_ignored(root, read, ids):
    """Path, target or both can be left out of the rows; nothing else."""
    ways = [(), ("path",), ("target",), ("path", "target")]
    found = [ids(read(root), ignored=ignored) for ignored in ways]
    assert len({row for rows in found for row in rows}) == 12
    with pytest.raises(ConfigError, match=r"of these samples path, target can be ignored"):
        ids(read(root), ignored=["label"])


def test_paths_are_part_of_the_row(root, read, ids):
    """Two pictures of one content differ by their path, and by nothing else without it."""
    shutil.copy(picture(root, 1), picture(root, 2))
    a, b, _ = ids(read(root), ignored=["target"])
    assert a != b
    a, b, c = ids(read(root), ignored=["target", "path"])
    assert a == b != c


def test_transforms_are_part_of_every_row(root, read, ids):
    """Transforms of picture and target, or of both at once, count."""
    options = [
        {},
        {"transform": T.Resize(8)},
        {"transform": T.Resize(9)},
        {"target_transform": lambda target: target},
        {"transform": T.Resize(8), "target_transform": lambda target: target},
        {"transforms": v2.Resize(8)},
        {"transforms": v2.Compose([v2.Resize(8)])},
        {"transforms": lambda picture, target: (picture, target)},
        {"transforms": lambda picture, target: (target, picture)},
    ]
    found = [ids(read(root, **chosen)) for chosen in options]
    assert len({row for rows in found for row in rows}) == 3 * len(options)
    assert found == [ids(read(root, **chosen)) for chosen in options]


def test_transforms_are_those_that_are_read(root, read, ids):
    """``transforms`` counts as it is now; ``transform``, which is only its origin, does not."""
    dataset = read(root, transform=T.Resize(8))
    before = ids(dataset)
    dataset.transform, dataset.target_transform = T.Resize(9), abs
    assert ids(dataset) == before
    dataset.transforms.transform = T.Resize(9)
    assert ids(dataset) == ids(read(root, transform=T.Resize(9)))
    dataset.transforms = v2.Resize(8)
    assert ids(dataset) == ids(read(root, transforms=v2.Resize(8)))


def test_only_target_transforms_go_with_the_target(root, read, ids):
    """Without the target its own transform does not count; a joint one, and the picture's, do."""

    class StandardTransform:
        """What torchvision has too, under the same name."""

        transform = None

        def __call__(self, picture, target):
            return target, picture

    def found(**options):
        return ids(read(root, **options), ignored=["target"])

    assert found(target_transform=lambda target: -target) == found()
    assert found(transform=T.Resize(8), target_transform=abs) == found(transform=T.Resize(8))
    others = [{}, {"transform": T.Resize(8)}, {"transforms": v2.Resize(8)}]
    others.append({"transforms": StandardTransform()})
    assert len({found(**options)[0] for options in others}) == len(others)


def test_random_transforms_are_refused(root, read, ids):
    """A random transform is refused by name, alone and in a joint one."""
    for options in ({"transform": T.RandomCrop(2)}, {"transforms": v2.RandomCrop(2)}):
        with pytest.raises(RandomError, match="holds RandomCrop, which is random"):
            ids(read(root, **options))


def test_other_attributes_count(root, read, ids):
    """An attribute that the rule does not name is keyed, or refused by its name."""
    plain, one, odd = read(root), read(root), read(root)
    one.mode, odd.frame = "a", iter([])
    assert not set(ids(plain)) & set(ids(one))
    with pytest.raises(FingerprintError, match=r"attribute 'frame' \(builtins\.list_iterator\)"):
        ids(odd)


#: What reads a sample of every type, and of one type each.
READ = ["__getitem__", "__getitems__", "__len__", "transforms"]
READ_BY = {
    "CocoCaptions": ["_load_image", "_load_target"],
    "CocoDetection": ["_load_image", "_load_target"],
    "VOCDetection": ["annotations", "parse_voc_xml"],
    "VOCSegmentation": ["masks"],
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, own in READ_BY.items() for name in READ + own]
)
def test_subclasses_that_read_otherwise_are_refused(kind, root, read, ids, name):
    """A subclass with its own way to read a picture or an annotation is refused by its name."""
    dataset = read(root)
    own = property(lambda self: lambda *_: 1, lambda self, value: None)
    dataset.__class__ = type("Own", (type(dataset),), {name: own})
    with pytest.raises(FingerprintError, match=r"cannot tell what Own "):
        samples_of(dataset, np.arange(1))


def test_files_that_cannot_be_read_are_refused_by_name(root, read, ids):
    """A picture that vanished is refused by its name, if it is asked for."""
    dataset = read(root)
    picture(root, 2).unlink()
    with pytest.raises(FingerprintError, match=r"2\.(png|jpg) cannot be read"):
        ids(dataset)
    assert len(ids(dataset, [0, 2])) == 2


def test_vouched_pictures_go_by_their_path(root, read, ids, tmp_path):
    """Under ``dataset_id=`` the path of a picture names it, and no file is touched."""
    dataset = read(root)
    copy = read(shutil.copytree(root, tmp_path / "copy"))
    picture(root, 2).unlink()
    found = ids(dataset, dataset_id="x@1")
    assert len(set(found)) == 3
    assert ids(copy, dataset_id="x@1") == found
    assert not samples_of(dataset, np.arange(3), dataset_id="x@1").by_index


def test_size_and_time_may_stand_for_content(kind, root, read, ids):
    """By size and time a picture or annotation touched is another row, and nothing is read."""
    before = ids(read(root), by="stat")
    path = picture(root, 1)
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(0, stat.st_mtime_ns))
    assert ids(read(root), by="stat") == before
    os.utime(path, ns=(0, stat.st_mtime_ns + 1))
    assert same(before, ids(read(root), by="stat")) == [False, True, True]


@pytest.mark.parametrize("kind", ["VOCDetection", "VOCSegmentation"])
def test_annotations_of_one_size_and_time_are_told_apart(root, read, ids):
    """By size and time, another annotation file of equal ones is told by its path."""
    for path in root.rglob("*.*"):
        if path.is_file() and "ImageSets" not in str(path):
            path.write_bytes(bytes(100))
            os.utime(path, ns=(0, 10**18))
    dataset = read(root)
    before = ids(dataset, by="stat")
    dataset.targets[:2] = dataset.targets[1::-1]
    assert same(before, ids(dataset, by="stat")) == [False, False, True]


def test_fewer_annotations_than_pictures_are_refused(kind, root, read, ids):
    """A list of annotations or ids that is too short has samples that cannot be read."""
    dataset = read(root)
    if kind.startswith("Coco"):
        del dataset.coco.imgs[11]
    else:
        del dataset.targets[1:]
    assert len(ids(dataset, [0])) == 1
    with pytest.raises(FingerprintError, match=rf"cannot tell what {kind} "):
        ids(dataset)


def test_types_that_read_other_targets_differ(ids, tmp_path):
    """Of one set of files, detections, captions and masks are different rows."""
    write_voc(tmp_path / "voc")
    write_coco(tmp_path / "coco")
    built = [ids(read(tmp_path / name[:3].lower().replace("coc", "coco")))
             for name, (_, read) in KINDS.items()]  # fmt: skip
    assert len({row for rows in built for row in rows}) == 12


def test_pictures_outside_the_root_are_refused(ids, tmp_path):
    """A file name that is absolute is read as such, and has no path below the root."""
    write_coco(tmp_path)
    dataset = read_coco(tv.CocoDetection, tmp_path)
    dataset.coco.imgs[10]["file_name"] = str(tmp_path / "elsewhere.png")
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "elsewhere.png")
    assert dataset[0][0].size == (6, 6)
    with pytest.raises(FingerprintError, match=r"elsewhere\.png is not below"):
        ids(dataset)
