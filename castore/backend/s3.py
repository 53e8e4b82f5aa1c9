"""Objects of an S3 bucket, by s3fs: one request a call, and every outcome told apart.

s3fs is asked for as little as it does well: signing, connections, streaming bodies and multipart
uploads. Its caches are off, and so are its retries, which come on top of botocore's own.

A client belongs to one process: sockets and event loops do not survive a fork, so each process
makes its own from bucket and options.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from castore.backend.base import ObjectInfo
from castore.backend.remote_trouble import Outcome, answer_of, outcome_of, trouble

__all__ = ["S3Client"]

#: Longest body of a single PUT; longer ones are multipart uploads, in parts of this length.
_SINGLE = 64 << 20
#: Longest range of a parallel read.
_RANGE = 8 << 20
#: Names in one request to delete: S3's own limit.
_BATCH = 1000
_AT_ONCE = 16
#: How often a read is tried whose body broke off.
_READS = 3
#: What botocore is told unless the user says otherwise.
_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 32,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}


class _Piece(NamedTuple):
    """Some bytes of an object, and how many it has in all."""

    data: bytes
    total: int


class S3Client:
    """A bucket, below a prefix.

    Parameters
    ----------
    bucket : str
        Its name.
    prefix : str
        What every key begins with: ``""`` or a folder, ``"a/b/"``.
    options : mapping
        Of ``s3fs.S3FileSystem``: ``key``, ``secret``, ``profile``, ``anon``, ``client_kwargs`` ...
    """

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, Any]) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._options = dict(options)
        self._fs: Any = None
        self._process = 0

    def get(self, name: str) -> bytes | None:
        """Return the whole object, or None if there is none. One GET."""
        found = self._read(name, [None])
        return None if found is None else found[0].data

    def get_ranges(self, name: str, length: int) -> list[bytes] | None:
        """Return the object in pieces, read in parallel; None if it has not this length.

        One GET a piece of 8 MiB.
        """
        first = self._read(name, [(0, min(_RANGE, length))])
        if first is None or first[0].total != length:
            return None
        starts = range(_RANGE, length, _RANGE)
        rest = self._read(name, [(start, min(length, start + _RANGE)) for start in starts])
        return None if rest is None else [piece.data for piece in (*first, *rest)]

    def _read(self, name: str, ranges: Sequence[tuple[int, int] | None]) -> list[_Piece] | None:
        """Return half-open ranges of an object, or all of it; None if it is not there or ends."""
        from fsspec.asyn import sync

        for attempt in range(_READS):
            try:
                files = self._files()
                found: list[_Piece] = sync(
                    files.loop, _fetch, files, self.bucket, self._key(name), ranges
                )
            except Exception as error:
                outcome = outcome_of(error)
                if outcome in (Outcome.ABSENT, Outcome.UNSATISFIABLE):
                    return None
                if outcome is Outcome.UNKNOWN and attempt < _READS - 1:
                    continue  # a body that broke off: botocore tries again only for the head
                raise self._trouble(error, "s3:GetObject", name) from error
            return found
        return None

    def head(self, name: str) -> ObjectInfo | None:
        """Return size, time and ETag, or None if there is no such object. One HEAD."""
        try:
            found = self._call("head_object", Key=self._key(name))
        except Exception as error:
            if outcome_of(error) is Outcome.ABSENT:
                return None
            raise self._trouble(error, "s3:GetObject", name) from error
        modified = found["LastModified"].timestamp()
        return ObjectInfo(name, found["ContentLength"], modified, found["ETag"])

    def put(self, name: str, body: bytes) -> None:
        """Write an object, replacing what is there. One PUT, or a multipart upload of much."""
        try:
            if len(body) <= _SINGLE:
                self._call("put_object", Key=self._key(name), Body=body)
            else:
                self._files().pipe_file(self._path(name), body, chunksize=_SINGLE)
        except Exception as error:
            raise self._trouble(error, "s3:PutObject", name) from error

    def put_file(self, name: str, path: Path) -> None:
        """Write a file as an object, replacing what is there."""
        try:
            self._files().put_file(str(path), self._path(name), chunksize=_SINGLE)
        except Exception as error:
            raise self._trouble(error, "s3:PutObject", name) from error

    def put_new(self, name: str, body: bytes) -> Outcome:
        """Try to write an object where there is none, by one conditional PUT.

        Returns
        -------
        Outcome
            DONE; EXISTS, perhaps by this very request, whose first answer was lost; CONFLICT:
            nothing was written, try again; UNKNOWN: there was no answer.

        Raises
        ------
        BackendError, ReadOnlyError
            In any other case: nothing was written.

        Notes
        -----
        Never multipart: some servers acknowledge two conditional completions.
        """
        try:
            self._call("put_object", Key=self._key(name), Body=body, IfNoneMatch="*")
        except Exception as error:
            outcome = outcome_of(error)
            if outcome in (Outcome.EXISTS, Outcome.CONFLICT, Outcome.UNKNOWN):
                return outcome
            raise self._trouble(error, "s3:PutObject", name) from error
        return Outcome.DONE

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name begins with `prefix`, by name. One request for 1,000."""
        token: dict[str, str] = {}
        while True:
            try:
                page = self._call("list_objects_v2", Prefix=self._key(prefix), **token)
            except Exception as error:
                raise self._trouble(error, "s3:ListBucket", prefix) from error
            for found in page.get("Contents", ()):
                name = found["Key"][len(self.prefix) :]
                modified = found["LastModified"].timestamp()
                yield ObjectInfo(name, found["Size"], modified, found["ETag"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, whether they are there or not. One request for 1,000."""
        for start in range(0, len(names), _BATCH):
            some = names[start : start + _BATCH]
            listed = [{"Key": self._key(name)} for name in some]
            try:
                found = self._call("delete_objects", Delete={"Objects": listed, "Quiet": True})
            except Exception as error:
                raise self._trouble(error, "s3:DeleteObject", some[0]) from error
            for failed in found.get("Errors", ()):
                raise trouble(
                    failed.get("Code", ""), failed.get("Message", ""), "s3:DeleteObject",
                    f"s3://{self.bucket}/{failed.get('Key')}",
                )  # fmt: skip

    def now(self) -> float:
        """Return the server's time, in seconds since the epoch. One request."""
        try:
            answer = self._call("list_objects_v2", Prefix=self.prefix, MaxKeys=1)
        except Exception as error:
            raise self._trouble(error, "s3:ListBucket", "") from error
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return email.utils.parsedate_to_datetime(date).timestamp()

    def _files(self) -> Any:
        """Return this process's file system."""
        if self._process != os.getpid():  # two threads may make one each, and one is dropped
            self._fs = self._made()
            self._process = os.getpid()
        return self._fs

    def _made(self) -> Any:
        import s3fs

        options = {**self._options}
        options["config_kwargs"] = {**_CONFIG, **options.get("config_kwargs", {})}
        found = s3fs.S3FileSystem(
            **options, use_listings_cache=False, skip_instance_cache=True, default_cache_type="none"
        )
        found.retries = 1  # botocore tries again; both together would 20 times
        return found

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._files().call_s3(method, Bucket=self.bucket, **arguments)

    def _key(self, name: str) -> str:
        return self.prefix + name

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self.prefix}{name}"

    def _trouble(self, error: Exception, needed: str, name: str) -> Exception:
        code, message = _said(error)
        return trouble(code, message, needed, f"s3://{self._path(name)}")


async def _fetch(
    files: Any, bucket: str, key: str, ranges: Sequence[tuple[int, int] | None]
) -> list[_Piece]:
    """Read ranges, some at once, in the event loop of `files`."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def fetch(wanted: tuple[int, int] | None) -> _Piece:
        limits = {} if wanted is None else {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}"}
        async with free:
            answer = await files._call_s3("get_object", Bucket=bucket, Key=key, **limits)  # noqa: SLF001  what `call_s3` runs
            async with answer["Body"] as body:
                data: bytes = await body.read()
            total = answer.get("ContentRange", "").rpartition("/")[2]
            return _Piece(data, int(total) if total.isdecimal() else len(data))

    return list(await asyncio.gather(*map(fetch, ranges)))


def _said(error: BaseException) -> tuple[str, str]:
    """Return the server's code and message, or what the system said."""
    answer = answer_of(error).get("Error", {})
    return str(answer.get("Code", "")), str(answer.get("Message") or error)
