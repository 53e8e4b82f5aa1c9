"""S3 servers: Python ones for every run, a real one for tests marked `s3`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "castore_s3_servers", Path(__file__).with_name("servers.py")
)
servers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = servers
_spec.loader.exec_module(servers)

#: Parameters of `endpoint`; the real server is left out unless asked for.
SERVERS = ("ministack", "moto", pytest.param("ceph", marks=pytest.mark.s3))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `s3`, unless CASTORE_TEST_S3=1 or `-m` speaks of it."""
    if os.environ.get("CASTORE_TEST_S3") == "1" or re.search(r"\bs3\b", config.option.markexpr):
        return
    real = [item for item in items if item.get_closest_marker("s3")]
    if real:
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if not item.get_closest_marker("s3")]


@pytest.fixture(scope="module", autouse=True)
def aws_settings() -> Iterator[None]:
    """Keep the user's AWS settings out: no profile, no endpoint, no proxy; one region."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def ministack() -> Iterator[servers.Endpoint]:
    """Run MiniStack: all conditional writes, checksums verified, signatures not."""
    for module in ("boto3", "hypercorn", "ministack", "s3fs"):
        pytest.importorskip(module)
    with servers.serving("ministack") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto() -> Iterator[servers.Endpoint]:
    """Run moto: conditional writes, nothing verified."""
    for module in ("boto3", "flask_cors", "moto", "s3fs"):
        pytest.importorskip(module)
    with servers.serving("moto") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ceph() -> Iterator[servers.Endpoint]:
    """Run Ceph's gateway, in memory; it is fetched from Debian once. Its tests are marked `s3`."""
    for module in ("boto3", "s3fs"):
        pytest.importorskip(module)
    with servers.serving("ceph") as endpoint:
        yield endpoint


@pytest.fixture(scope="session", params=SERVERS)
def endpoint(request: pytest.FixtureRequest) -> servers.Endpoint:
    """Each server in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(endpoint: servers.Endpoint) -> Iterator[str]:
    """Name of a fresh bucket on `endpoint`."""
    with servers.fresh_bucket(endpoint) as name:
        yield name


@pytest.fixture
def client(endpoint: servers.Endpoint) -> Iterator[object]:
    """Return a boto3 client of `endpoint` that tries once."""
    made = endpoint.client()
    yield made
    made.close()


@pytest.fixture
def storage_options(endpoint: servers.Endpoint) -> dict:
    """What s3fs takes for `endpoint`."""
    return endpoint.storage_options


@pytest.fixture
def proxied() -> Iterator[Callable[..., servers.Proxied]]:
    """Put a proxy before an endpoint: ``proxied(endpoint, seed=0)``; stopped after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda endpoint, seed=0: stack.enter_context(servers.proxied(endpoint, seed=seed))
