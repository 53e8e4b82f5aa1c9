"""Make castore/identity/pictures: what decoders are known by.

Run by hand, never by a test, and only when a picture is added::

    python tests/golden/pictures.py

Another Pillow writes other bytes, and other bytes are other digests: every store whose rows
come from a decoder misses once. So what is committed stays, and a new picture is a new file.

The sizes are odd, so that chroma is upsampled at an edge and blocks are cut; the content is a
gradient with saturated corners and noise, so that another IDCT, upsampling or rounding shows.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parents[2] / "castore" / "identity" / "pictures"
WIDTH, HEIGHT = 33, 17
ORIENTATION = 0x0112

#: x and y of the first pixel, and the steps between pixels, of each pass of Adam7.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

Pixels = NDArray[np.generic]


def colours(channels: int, maximum: int = 255) -> NDArray[np.int64]:
    """Gradients, one a channel, with saturated corners and noise; shape (17, 33, channels)."""
    y, x, c = np.mgrid[:HEIGHT, :WIDTH, :channels]
    ramp = np.select([c == 0, c == 1, c == 2], [x / (WIDTH - 1), y / (HEIGHT - 1), 1 - x / 40], 0.6)
    noise = np.random.default_rng(1).integers(-24, 25, ramp.shape) / 255
    corner = np.select([x + y < 8, x - y > 26, y - x > 9], [c == 0, c == 1, c == 2], ramp + noise)
    return np.rint(corner.clip(0, 1) * maximum).astype(np.int64)


def png(pixels: Pixels, depth: int, *, interlaced: bool = False) -> bytes:
    """Encode grey or RGB `pixels` as PNG of 8 or 16 bits, the rows filtered in turn.

    https://www.w3.org/TR/png-3/
    """
    height, width = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    data = b"".join(
        filtered(pixels[y0::dy, x0::dx].astype(f">u{depth // 8}")) for x0, y0, dx, dy in passes
    )
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def filtered(pixels: Pixels) -> bytes:
    """Rows of one pass: by turns as they are, less their left, and less their upper neighbours."""
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(len(pixels), -1)
    step = rows.shape[1] // pixels.shape[1]
    left = np.pad(rows, ((0, 0), (step, 0)))[:, :-step]
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    kinds = [rows, rows - left, rows - above]
    return b"".join(bytes([y % 3]) + kinds[y % 3][y].tobytes() for y in range(len(rows)))


def saved(pixels: Pixels, mode: str, kind: str, **options: object) -> bytes:
    """Let Pillow encode `pixels`."""
    stream = io.BytesIO()
    size = pixels.shape[1::-1]
    Image.frombytes(mode, size, pixels.astype(np.uint8).tobytes()).save(stream, kind, **options)
    return stream.getvalue()


def main() -> None:
    """Write the pictures."""
    rgb, rgba, cmyk = colours(3), colours(4), colours(4)
    jpeg = {"kind": "JPEG", "quality": 80, "optimize": True}
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned a quarter clockwise

    stream = io.BytesIO()
    palette = Image.frombytes("RGB", (WIDTH, HEIGHT), rgb.astype(np.uint8).tobytes()).quantize(24)
    palette.save(stream, "PNG", transparency=5, optimize=True)
    translucent = io.BytesIO()
    alphas = bytes(range(10, 250, 10))
    palette.save(translucent, "PNG", transparency=alphas, optimize=True)
    gif = io.BytesIO()
    palette.save(gif, "GIF", transparency=5)

    baseline = jpeg_of(rgb, "4:2:0")
    pictures = {
        "baseline.jpg": baseline,
        "progressive.jpg": jpeg_of(rgb, "4:2:0", progressive=True),
        "full-chroma.jpg": jpeg_of(rgb, "4:4:4"),
        "half-chroma.jpg": jpeg_of(rgb, "4:2:2"),
        "cmyk.jpg": saved(cmyk, "CMYK", **jpeg),
        "grey.jpg": saved(rgb[..., 0], "L", **jpeg),
        "turned.jpg": jpeg_of(rgb, "4:2:0", exif=exif.tobytes()),
        "truncated.jpg": baseline[: -len(baseline) // 4],
        "alpha.png": saved(rgba, "RGBA", "PNG", optimize=True),
        "palette.png": stream.getvalue(),
        "translucent.png": translucent.getvalue(),
        "grey16.png": png(colours(1, 65535)[..., 0], 16),
        "rgb16.png": png(colours(3, 65535), 16),
        "interlaced.png": png(rgb, 8, interlaced=True),
        "lossy.webp": saved(rgb, "RGB", "WEBP", quality=80, method=6),
        "lossless.webp": saved(rgba, "RGBA", "WEBP", lossless=True, method=6),
        "palette.gif": gif.getvalue(),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, data in pictures.items():
        (FOLDER / name).write_bytes(data)


def jpeg_of(pixels: Pixels, subsampling: str, **options: object) -> bytes:
    """Encode RGB `pixels` as JPEG."""
    options = {"quality": 80, "optimize": True, "subsampling": subsampling, **options}
    return saved(pixels, "RGB", "JPEG", **options)


if __name__ == "__main__":
    main()
