"""What a decoder makes of pictures, as a digest.

Two builds of one version of a library may decode a JPEG differently, and most releases decode
alike. So a decoder is known by its behaviour: by the pixels it makes of the few embedded
pictures in ``castore/identity/pictures`` (tests/golden/pictures.py made them), or by the class
of its error. A library that the program has not imported is not asked.
"""

from __future__ import annotations

import contextlib
import functools
import pkgutil
import sys
from collections.abc import Callable, Hashable, Iterator
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from castore import arrays
from castore.canonical import Json, identify
from castore.digest import identity

__all__ = ["LIBRARIES", "behaviour"]

_PICTURES = (
    "alpha.png",
    "baseline.jpg",
    "cmyk.jpg",
    "full-chroma.jpg",
    "grey.jpg",
    "grey16.png",
    "half-chroma.jpg",
    "interlaced.png",
    "lossless.webp",
    "lossy.webp",
    "palette.gif",
    "palette.png",
    "progressive.jpg",
    "rgb16.png",
    "translucent.png",
    "turned.jpg",
)
#: Pillow has a switch for it; the others' C libraries write to the terminal about it.
_TRUNCATED = "truncated.jpg"
_SMALLER = (20, 11)

_State: TypeAlias = tuple[Hashable, ...]


class _Decoder(NamedTuple):
    #: The program's own settings that change what is decoded; None if there is no decoder.
    state: Callable[[], _State | None]
    #: Yields what is seen of one picture, or raises.
    see: Callable[[bytes], Iterator[Json]]
    pictures: tuple[str, ...]


_seen: dict[_State, str] = {}


def behaviour(library: str) -> str | None:
    """Return the digest of what `library` makes of the embedded pictures, 32 hex digits.

    Costs some milliseconds once a process, microseconds from then on. Equal in all processes
    whose library decodes alike, whatever its version. Settings of the program's own that change
    what is decoded (``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``, a plugin registered in place of
    one of Pillow's) count, and are read at every call. For any thread, also after a fork.

    Parameters
    ----------
    library : str
        One of `LIBRARIES`.

    Returns
    -------
    str or None
        None if the program has not imported the library, or it was built without decoders.

    Raises
    ------
    KeyError
        If `library` is none of `LIBRARIES`.
    MemoryError, Warning
        If there is no memory to decode in, or the library warns and the program's filters make
        errors of warnings. Neither is remembered.
    """
    decoder = _DECODERS[library]
    state = decoder.state()
    if state is None:
        return None
    state = (library, *state)
    if state not in _seen:  # two threads may both look: they see the same
        outcomes = {name: _outcomes(decoder.see, _picture(name)) for name in decoder.pictures}
        _seen[state] = identify("decoder", {library: outcomes})
    return _seen[state]


@functools.cache
def _picture(name: str) -> bytes:
    data = pkgutil.get_data("castore.identity", f"pictures/{name}")
    assert data is not None
    return data


def _outcomes(see: Callable[[bytes], Iterator[Json]], data: bytes) -> list[Json]:
    """Return what is seen, which ends with the class of the error if there was one."""
    found = []
    try:
        for outcome in see(data):
            found.append(outcome)  # noqa: PERF402  what came before an error stays
    except (MemoryError, Warning):  # the machine's, and the program's filter of warnings
        raise
    except Exception as error:
        found.append({"error": type(error).__qualname__})
    return found


def _pillow_state() -> _State | None:
    image: Any = sys.modules.get("PIL.Image")
    if image is None:
        return None
    image.preinit()  # as `open` does
    with contextlib.suppress(ImportError):
        import_module("PIL.WebPImagePlugin")  # for WebP, `open` would load all plugins there are
    return (
        bool(import_module("PIL.ImageFile").LOAD_TRUNCATED_IMAGES),
        getattr(sys.modules.get("PIL.GifImagePlugin"), "LOADING_STRATEGY", None),
        *(image.OPEN.get(name) for name in ("GIF", "JPEG", "PNG", "WEBP")),
    )


def _pillow(data: bytes) -> Iterator[Json]:
    """See the picture as opened, turned, converted, and resized as torchvision does it."""
    image: Any = sys.modules["PIL.Image"]
    with image.open(BytesIO(data)) as picture:
        yield _content(picture)
        yield _content(import_module("PIL.ImageOps").exif_transpose(picture))
        # In RGB an alpha for each colour would be lost, and Pillow warns of it.
        alphas = isinstance(picture.info.get("transparency"), bytes)
        converted = picture.convert("RGBA" if alphas else "RGB")
    yield _content(converted)
    for resample in (image.Resampling.BILINEAR, image.Resampling.BICUBIC):
        yield _content(converted.resize(_SMALLER, resample))


def _content(picture: Any) -> Json:
    return [picture.mode, list(picture.size), identity("bytes", picture.tobytes())]


def _opencv_state() -> _State | None:
    return () if hasattr(sys.modules.get("cv2"), "imdecode") else None


def _opencv(data: bytes) -> Iterator[Json]:
    cv2: Any = sys.modules["cv2"]
    encoded = np.frombuffer(data, np.uint8)
    for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
        yield _values(cv2.imdecode(encoded, flags))


def _torchvision_state() -> _State | None:
    """Tell whether torchvision's binary half was loaded; without it nothing is decoded."""
    if "torchvision.io" not in sys.modules:
        return None
    torch: Any = arrays.torch()
    return () if hasattr(torch.ops.image, "decode_image") else None


def _torchvision(data: bytes) -> Iterator[Json]:
    torch: Any = arrays.torch()
    modes = sys.modules["torchvision.io"].ImageReadMode
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    for mode, turned in ((modes.UNCHANGED, False), (modes.RGB, False), (modes.RGB, True)):
        # The operator itself: the function around it warns at each call since torchvision 0.29.
        yield _values(torch.ops.image.decode_image(encoded, mode.value, turned))


def _values(decoded: Any) -> Json:
    array = arrays.as_array(decoded)
    if array is None:  # OpenCV's word for a picture it cannot decode
        return None
    return [arrays.name_of(array.dtype), list(array.shape), identity("bytes", arrays.raw(array))]


_DECODERS = {
    "PIL": _Decoder(_pillow_state, _pillow, (*_PICTURES, _TRUNCATED)),
    "cv2": _Decoder(_opencv_state, _opencv, _PICTURES),
    "torchvision.io": _Decoder(_torchvision_state, _torchvision, _PICTURES),
}

#: Libraries whose behaviour can be told, by the names of their modules.
LIBRARIES = tuple(_DECODERS)
