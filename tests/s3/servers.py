"""S3 servers for tests: processes of their own, found by an `Endpoint`, and faults before them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import pwd
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent

#: Packages of Ceph's gateway: the user's own cache, though tests have another HOME.
PACKAGES = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache"))
    / "start-s3"
    / "forky"
)

_spec = importlib.util.spec_from_file_location("castore_s3_faultproxy", HERE / "faultproxy.py")
faultproxy = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = faultproxy
_spec.loader.exec_module(faultproxy)


@functools.cache
def _session():
    """Return one session for all clients, which reads the description of S3 once."""
    import boto3

    return boto3.session.Session()


@dataclass(frozen=True)
class Endpoint:
    """Where an S3 server is, and who may use it."""

    name: str
    url: str
    key: str
    secret: str
    region: str = "us-east-1"

    def client(self, **config):
        """Return a boto3 client that tries once; `config` goes to botocore's `Config`."""
        from botocore.config import Config

        once = {
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": 32,
            "proxies": {},
        }
        return _session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(**{**once, **config}),
        )

    @property
    def storage_options(self) -> dict:
        """What s3fs takes; a `region_name` would make it send AWS a location that it refuses."""
        return {
            "key": self.key,
            "secret": self.secret,
            "client_kwargs": {"endpoint_url": self.url},
        }


@dataclass(frozen=True)
class Proxied(Endpoint):
    """An endpoint behind a proxy, through which faults are added: `add`, `hits`, `requests`."""

    proxy: faultproxy.FaultProxy | None = None

    def add(self, fault: str, method: str = ".*", target: str = "", **how) -> faultproxy.Rule:
        """Let requests meet a fault; see `faultproxy` for the faults and `Rule` for the rest."""
        return self.proxy.add(fault, method, target, **how)

    def hits(self, fault: str | None = None) -> int:
        """How many requests met a fault, or this one."""
        return self.proxy.hits(fault)

    def requests(self, method: str = ".*", target: str = "") -> list[faultproxy.Request]:
        """Return the requests that came by."""
        return self.proxy.requests(method, target)

    def clear(self) -> None:
        """Forget all faults and requests."""
        self.proxy.clear()


def answers(endpoint: Endpoint) -> bool:
    """Whether a listing of buckets is answered."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = endpoint.client(connect_timeout=1, read_timeout=5)
    try:
        client.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


def _environment() -> dict[str, str]:
    """Return this process's environment without what would change a server's ways."""
    settings = ("AWS_", "CASTORE_", "MINISTACK_", "MOTO_", "COV_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    return {**kept, "START_S3_ROOT": os.environ.get("START_S3_ROOT") or str(PACKAGES)}


@contextlib.contextmanager
def serving(name: str, *, seconds: float = 60) -> Iterator[Endpoint]:
    """Run the server called `name`, and stop it in any case.

    Parameters
    ----------
    name
        ``"ministack"``, ``"moto"`` or ``"ceph"``.
    seconds
        How long it may take until it answers.
    """
    with (
        # a session of its own: Ctrl-C is for the tests, which then stop the server
        subprocess.Popen(
            [sys.executable, str(HERE / "serve.py"), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        ) as process
    ):
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the S3 server {name} did not start; it said why, see above")
            endpoint = Endpoint(name, **json.loads(line))
            end = time.monotonic() + seconds
            while not answers(endpoint):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{name} does not answer at {endpoint.url}; see above")
                time.sleep(0.05)
            yield endpoint
        finally:
            process.terminate()  # and wait, be it for an installation to end: nothing is left


@contextlib.contextmanager
def proxied(endpoint: Endpoint, *, seed: int = 0) -> Iterator[Proxied]:
    """Put a proxy before `endpoint`, whose chances are drawn from `seed`."""
    place = urlsplit(endpoint.url)
    with faultproxy.FaultProxy(place.hostname, place.port, seed=seed) as proxy:
        yield Proxied(**{**vars(endpoint), "url": proxy.url}, proxy=proxy)


@contextlib.contextmanager
def fresh_bucket(endpoint: Endpoint) -> Iterator[str]:
    """Make a bucket, and empty it afterwards: a server keeps all in memory."""
    client = endpoint.client()
    name = f"castore-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            if found := [{"Key": each["Key"]} for each in page.get("Contents", ())]:
                client.delete_objects(Bucket=name, Delete={"Objects": found, "Quiet": True})
        client.close()
