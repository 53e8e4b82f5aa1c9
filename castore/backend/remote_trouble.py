"""What servers answer, as outcomes and as errors that say what to do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from castore.errors import BackendError, ReadOnlyError

__all__ = ["Outcome", "answer_of", "outcome_of", "trouble"]


class Outcome(enum.Enum):
    """What became of a request."""

    DONE = "done"
    #: There is no such object.
    ABSENT = "absent"
    #: There is one already, perhaps by this very request.
    EXISTS = "exists"
    #: Nothing was done; try again.
    CONFLICT = "conflict"
    #: There was no answer: it may have been done, or not.
    UNKNOWN = "unknown"
    #: The object is shorter than the range.
    UNSATISFIABLE = "unsatisfiable"
    #: The server refused.
    REFUSED = "refused"


_BY_CODE = {
    "NoSuchKey": Outcome.ABSENT,
    "404": Outcome.ABSENT,
    "NotFound": Outcome.ABSENT,
    "PreconditionFailed": Outcome.EXISTS,
    "412": Outcome.EXISTS,
    "ConditionalRequestConflict": Outcome.CONFLICT,
    "ConcurrentModification": Outcome.CONFLICT,
    "OperationAborted": Outcome.CONFLICT,
    "409": Outcome.CONFLICT,
    "InvalidRange": Outcome.UNSATISFIABLE,
    "416": Outcome.UNSATISFIABLE,
}
#: Codes after which nobody knows: the server may have failed after it acted.
_UNKNOWN = ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "Throttling")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "InvalidAccessKeyId")
_SERVER_ERROR = 500


def answer_of(error: BaseException | None) -> Mapping[str, Any]:
    """Return what the server answered: botocore's ``response`` of the error or of its causes."""
    seen = 0
    while error is not None and seen < 8:  # noqa: PLR2004  a chain of causes has an end
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            return response
        error, seen = error.__cause__ or error.__context__, seen + 1
    return {}


def outcome_of(error: BaseException) -> Outcome:
    """Return what an exception of s3fs or botocore says became of the request.

    s3fs raises 412 as ``FileExistsError`` or ``OSError(EINVAL)``, by the form of the body, so the
    answer itself is looked at.
    """
    answer = answer_of(error)
    if not answer:
        return Outcome.ABSENT if isinstance(error, FileNotFoundError) else Outcome.UNKNOWN
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    found = _BY_CODE.get(code) or _BY_CODE.get(str(status))
    if code == "NoSuchBucket":
        return Outcome.REFUSED
    if found is not None:
        return found
    return Outcome.UNKNOWN if code in _UNKNOWN or status >= _SERVER_ERROR else Outcome.REFUSED


def trouble(code: str, message: str, needed: str, url: str) -> BackendError | ReadOnlyError:
    """Return the error to raise.

    Parameters
    ----------
    code, message : str
        What the server said; the code is empty where it said nothing.
    needed : str
        The permission that the request needs.
    url : str
        What was asked for; never a secret.
    """
    if code == "NoSuchBucket":
        bucket = url.removeprefix("s3://").partition("/")[0]
        return BackendError(f"there is no bucket {bucket!r}: make it, or choose another URL")
    if code in _DENIED:
        kind = ReadOnlyError if needed in ("s3:PutObject", "s3:DeleteObject") else BackendError
        hint = '; mode="ro" reads without it' if kind is ReadOnlyError else ""
        return kind(f"no permission for {url}: the credentials need {needed}{hint} ({message})")
    said = f"{code}: {message}" if code else message
    return BackendError(f"{needed.removeprefix('s3:')} of {url} failed ({said})")
