"""A decoder is known by what it makes of pictures."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from castore.identity import decoders
from castore.identity.decoders import LIBRARIES, behaviour

FOLDER = Path(decoders.__file__).with_name("pictures")
PILLOW = (*decoders._PICTURES, decoders._TRUNCATED)


def elsewhere(*lines: str, seed: str = "0") -> list[str]:
    """Lines that another process prints after running `lines`."""
    code = "\n".join(("import sys", "from castore.identity.decoders import *", *lines))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    """Each test looks for itself."""
    monkeypatch.setattr(decoders, "_seen", {})


@pytest.fixture
def pillow():
    """Pillow's module of images."""
    return pytest.importorskip("PIL.Image")


@pytest.fixture
def jpeg(pillow, monkeypatch):
    """Give a function that registers a decoder of JPEG in place of Pillow's."""
    pillow.preinit()
    _, accept = pillow.OPEN["JPEG"]
    return lambda factory: monkeypatch.setitem(pillow.OPEN, "JPEG", (factory, accept))


def test_all_pictures_are_looked_at():
    """Each picture in the folder is named, and each that is named is in the folder."""
    assert sorted(PILLOW) == sorted(path.name for path in FOLDER.iterdir())


def test_pictures_are_small():
    """All pictures together are no heavier than a page of text."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20_000


def test_libraries_that_are_not_imported_have_no_behaviour():
    """Nothing is imported to be asked: a library the program has not imported gives None."""
    printed = elsewhere(
        "print(*[behaviour(library) for library in LIBRARIES])",
        "print(*{'PIL', 'cv2', 'torch', 'torchvision'} & set(sys.modules))",
    )
    assert printed == ["None"] * len(LIBRARIES)


def test_a_library_that_is_not_known_is_an_error():
    """To ask for a library that castore cannot ask is a KeyError that names it."""
    with pytest.raises(KeyError, match="imageio"):
        behaviour("imageio")


def test_processes_agree(pillow):
    """The digest is the same in another process, with any plugins loaded and any hash seed."""
    ask = "print(behaviour('PIL'))"
    assert elsewhere("import PIL.Image", ask, seed="1") == [behaviour("PIL")]
    before = "import PIL.Image; PIL.Image.init(); import PIL.ImageOps"
    assert elsewhere(before, ask, seed="2") == [behaviour("PIL")]


def test_few_plugins_are_loaded(pillow):
    """To look loads Pillow's plugins for the pictures' formats, not all that Pillow has."""
    printed = elsewhere(
        "import PIL.Image; behaviour('PIL'); print('PIL.XbmImagePlugin' in sys.modules)"
    )
    assert printed == ["False"]


def test_it_is_a_digest(pillow):
    """The behaviour of an imported library is 32 hex digits, the same at every call."""
    digest = behaviour("PIL")
    assert len(bytes.fromhex(digest)) == 16
    assert behaviour("PIL") == digest


def test_pillow_decodes_all_pictures(pillow):
    """Pillow makes five pictures of each: opened, turned, converted and resized two ways."""
    pytest.importorskip("PIL._webp")
    for name in decoders._PICTURES:
        seen = decoders._outcomes(decoders._pillow, decoders._picture(name))
        assert [len(outcome) for outcome in seen] == [3] * 5, name


def test_what_is_seen_differs_where_pixels_do(pillow):
    """Other upsampling, sizes, modes and orientations of one content are seen as different."""
    seen = {name: decoders._outcomes(decoders._pillow, decoders._picture(name)) for name in PILLOW}
    opened = {name: json.dumps(outcomes[0]) for name, outcomes in seen.items()}
    # Entropy coding and orientation are not pixels; palettes share their indices.
    assert opened["baseline.jpg"] == opened["progressive.jpg"] == opened["turned.jpg"]
    assert opened["palette.gif"] == opened["palette.png"] == opened["translucent.png"]
    assert len(set(opened.values())) == len(PILLOW) - 4
    assert [outcome[1] for outcome in seen["turned.jpg"]][:3] == [[33, 17], [17, 33], [33, 17]]
    assert seen["translucent.png"][2][0] == "RGBA"


@pytest.mark.parametrize(("library", "name"), [("PIL", n) for n in PILLOW])
def test_every_picture_counts(library, name, pillow, monkeypatch):
    """A decoder that makes something else of one picture only has another digest."""
    before = behaviour(library)
    picture = decoders._picture
    other = "grey.jpg" if name != "grey.jpg" else "alpha.png"
    monkeypatch.setattr(decoders, "_picture", lambda n: picture(other if n == name else n))
    monkeypatch.setattr(decoders, "_seen", {})
    assert behaviour(library) != before


def test_the_switch_for_truncated_files_counts(pillow, monkeypatch):
    """Pillow's switch for truncated files is read at each call, and off again it is as before."""
    from PIL import ImageFile

    before = behaviour("PIL")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    lenient = behaviour("PIL")
    assert lenient != before
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    assert behaviour("PIL") == before


def test_a_plugin_in_place_of_pillows_counts(pillow, jpeg):
    """A decoder registered after the first call, which reads JPEG in draft mode, is seen."""
    from PIL.JpegImagePlugin import JpegImageFile

    class Draft(JpegImageFile):
        def _open(self):
            super()._open()
            self.draft("RGB", (16, 8))

    before = behaviour("PIL")
    jpeg(Draft)
    assert behaviour("PIL") != before


def test_an_error_is_what_a_decoder_makes_of_a_picture(pillow, jpeg):
    """Decoders that raise errors of two classes have two digests, and none crashes the call."""

    def failing(error):
        def factory(_stream, _name):
            raise error

        return factory

    digests = [behaviour("PIL")]
    for error in (ValueError("no"), OSError("no")):
        jpeg(failing(error))
        digests.append(behaviour("PIL"))
    assert len(set(digests)) == 3


@pytest.mark.parametrize("error", [MemoryError, DeprecationWarning])
def test_what_is_not_the_decoders_is_not_remembered(error, pillow, jpeg):
    """No memory, or a warning made an error, is the caller's to see; the next call looks again."""

    def factory(_stream, _name):
        if error is MemoryError:
            raise MemoryError
        warnings.warn("gone soon", error, stacklevel=1)

    jpeg(factory)
    with pytest.raises(error):
        behaviour("PIL")
    assert not decoders._seen


def test_threads_agree(pillow):
    """Threads that look at once see the same."""
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: behaviour("PIL"), range(16)))
    assert len(digests) == 1


def test_opencv_is_known_by_its_pictures(monkeypatch):
    """OpenCV has a digest of its own, and another if it makes something else of one picture."""
    pytest.importorskip("cv2")
    before = behaviour("cv2")
    assert len(bytes.fromhex(before)) == 16
    assert before != behaviour("PIL")
    picture = decoders._picture
    monkeypatch.setattr(decoders, "_picture", lambda n: picture(n.replace("rgb16", "grey16")))
    monkeypatch.setattr(decoders, "_seen", {})
    assert behaviour("cv2") != before


def test_what_opencv_cannot_decode_is_nothing():
    """A picture that OpenCV cannot decode is an outcome, not a crash."""
    pytest.importorskip("cv2")
    assert decoders._outcomes(decoders._opencv, b"no picture") == [None, None]


def test_libraries_are_remembered_apart(pillow):
    """What one library was seen to do is never taken for what another does."""
    pytest.importorskip("cv2")
    told = {library: behaviour(library) for library in LIBRARIES}
    asked = {library for library, digest in told.items() if digest is not None}
    assert {key[0] for key in decoders._seen} == asked
    assert len(decoders._seen) == len({told[library] for library in asked})


def test_torchvision_is_asked_if_it_can_decode():
    """Torchvision is known by pixels where its binary half was loaded, else it has no digest."""
    pytest.importorskip("torchvision.io")
    from torchvision.io.image import _has_image_ops

    if not _has_image_ops():
        assert behaviour("torchvision.io") is None
        return
    assert len(bytes.fromhex(behaviour("torchvision.io"))) == 16
    seen = {n: decoders._outcomes(decoders._torchvision, decoders._picture(n)) for n in PILLOW}
    assert [outcome[1] for outcome in seen["turned.jpg"]] == [[3, 17, 33]] * 2 + [[3, 33, 17]]
    assert [outcome[1] for outcome in seen["alpha.png"]] == [[4, 17, 33]] + [[3, 17, 33]] * 2
    assert json.dumps(seen["half-chroma.jpg"]) != json.dumps(seen["full-chroma.jpg"])
    assert seen["truncated.jpg"][0] == {"error": "RuntimeError"}
