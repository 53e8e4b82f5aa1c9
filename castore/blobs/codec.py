"""Encoding one row group, as Zarr's codecs of these names do.

What is stored is not believed. Before a library is called it is seen that the group says of
itself what it must: nobody decodes into, or makes room for, what a length in the data claims.

Sources: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/blosc/index.html,
https://github.com/zarr-developers/zarr-extensions/tree/main/codecs/zstd
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from castore.canonical import Json
from castore.errors import DamagedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CODECS", "NONE", "Codec", "codec_named"]

#: Rows as they are.
NONE = "none"
#: Bytes that tell how much a zstd frame holds; one with a checksum is longer.
_ZSTD_HEAD = 14


class Codec(Protocol):
    """Encodes row groups."""

    #: Bytes a group may have.
    most: int

    def metadata(self, itemsize: int) -> list[Json]:
        """Return what follows ``bytes`` among the codecs of the inner chunks."""

    def encode(self, group: NDArray[np.uint8], itemsize: int) -> bytes:
        """Encode a group of elements of `itemsize` bytes; equal ones become equal bytes."""

    def decode(self, data: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        """Decode what `encode` made of as many bytes as `into` has.

        Raises
        ------
        DamagedError
            If it is not that. What `into` then has is anything.
        """


class _Zstd:
    most = 2**62
    _LEVEL = 3  # zstd's own choice; level 1 saves a third of the time and little else

    def metadata(self, itemsize: int) -> list[Json]:  # noqa: ARG002  zstd knows bytes only
        configuration = {"checksum": True, "level": self._LEVEL}
        return [{"configuration": configuration, "name": "zstd"}]

    def encode(self, group: NDArray[np.uint8], itemsize: int) -> bytes:  # noqa: ARG002
        from numcodecs import zstd

        encoded: bytes = zstd.compress(group, self._LEVEL, True)
        return encoded

    def decode(self, data: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        from numcodecs import zstd

        # numcodecs fills the beginning of `into`, and is content, where a frame holds less.
        if _zstd_nbytes(data[:_ZSTD_HEAD].tobytes()) != len(into):
            raise _damaged("zstd", "its header says another length")
        try:
            zstd.decompress(data, into)
        except Exception as error:  # whatever numcodecs makes of it
            raise _damaged("zstd", error) from error


def _zstd_nbytes(head: bytes) -> int | None:
    """Return how many bytes a zstd frame says it holds, None where it does not (RFC 8878, 3.1)."""
    descriptor = head[4] if head[:4] == b"\x28\xb5\x2f\xfd" and len(head) == _ZSTD_HEAD else 0b11
    if descriptor & 0b1011:  # a dictionary, or what does not exist
        return None
    single, width = descriptor >> 5 & 1, descriptor >> 6
    if not single and not width:
        return None
    start = 6 - single
    found = int.from_bytes(head[start : start + 2**width], "little")
    return found + 256 if width == 1 else found


class _Blosc:
    most = 2**31 - 1 - 16  # BLOSC_MAX_BUFFERSIZE
    _LEVEL, _HEAD, _CRC = 5, 16, 4

    def metadata(self, itemsize: int) -> list[Json]:
        configuration = {
            "blocksize": 0,
            "clevel": self._LEVEL,
            "cname": "lz4",
            "shuffle": ("noshuffle", "shuffle", "bitshuffle")[self._shuffle(itemsize)],
            "typesize": itemsize,
        }
        return [{"configuration": configuration, "name": "blosc"}, {"name": "crc32c"}]

    def encode(self, group: NDArray[np.uint8], itemsize: int) -> bytes:
        from numcodecs import blosc

        # Its own threads would put the blocks of a long row where they come to an end; zarr
        # switches them off too.
        blosc.use_threads = False
        items = group.view(f"V{itemsize}")  # where numcodecs takes the size of an element from
        encoded: bytes = blosc.compress(items, b"lz4", self._LEVEL, self._shuffle(itemsize), 0)
        return encoded + _crc32c(encoded)

    def decode(self, data: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        from numcodecs import blosc

        # numcodecs reads as far as the header says, whatever there is.
        nbytes, _, length = np.frombuffer(data[4:16].tobytes().ljust(12, b"\0"), "<u4").tolist()
        if length != len(data) - self._CRC or length < self._HEAD or nbytes != len(into):
            raise _damaged("blosc", "its header says another length")
        if _crc32c(data[:length]) != data[length:].tobytes():  # blosc has no checks of its own
            raise _damaged("blosc", "its checksum is another")
        try:
            blosc.decompress(data[:length], into)
        except Exception as error:  # whatever numcodecs makes of it
            raise _damaged("blosc", error) from error

    def _shuffle(self, itemsize: int) -> int:
        """Return blosc's number: bits where an element is a byte, whose bytes are in order."""
        return 2 if itemsize == 1 else 1


def _crc32c(data: Buffer) -> bytes:
    import google_crc32c

    found: int = google_crc32c.value(data)
    return found.to_bytes(4, "little")


def _damaged(codec: str, why: object) -> DamagedError:
    return DamagedError(f"a row group is not what {codec} makes of one: {why}")


_CODECS: dict[str, Codec] = {"zstd": _Zstd(), "blosc": _Blosc()}

#: What a caller may choose.
CODECS = (NONE, *_CODECS)


def codec_named(name: str) -> Codec:
    """Return the codec that `CODECS` calls `name`, which is not `NONE`.

    Raises
    ------
    KeyError
        If there is none.
    """
    return _CODECS[name]
