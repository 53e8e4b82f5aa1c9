"""What the user is told once, and counted."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

from castore.errors import CastoreError, CastoreWarning
from castore.identity.request import Request
from castore.stats import Recorder

__all__ = ["Notices"]

_log = logging.getLogger("castore")


@dataclass(frozen=True)
class Notices:
    """Says each thing once a store and process.

    Attributes
    ----------
    recorder : Recorder
        Remembers what was said, and counts.
    """

    recorder: Recorder

    def announce(self, request: Request) -> None:
        """Log what the user should know about how the request was identified."""
        for notice in request.notices():
            self.log(notice)

    def log(self, message: str) -> None:
        """Log a hazard."""
        if self.recorder.first(message):
            _log.warning("%s", message)

    def warn(self, message: str) -> None:
        """Warn of what changes the result, or may."""
        if self.recorder.first(message):
            warnings.warn(message, CastoreWarning, stacklevel=2)

    def survive(self, error: CastoreError) -> None:
        """Warn of trouble that a result is returned in spite of, and count it."""
        self.keep_out(error.code, f"{error}\nThe result is returned and not stored.")

    def keep_out(self, reason: str, message: str) -> None:
        """Warn that a result is not stored, and count it under `reason`."""
        self.recorder.add(f"uncached.{reason}")
        self.warn(message)
