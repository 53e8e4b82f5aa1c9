"""A stage is a Zarr store like any other: zarr's own tests of stores, over both backends."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from zarr.core.buffer import Buffer, cpu
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests
from zarr.testing.strategies import keys

import castore
from castore import tally
from castore.backend.open import open_backend
from castore.errors import ConfigError
from castore.zarrstore.folder import Folder
from castore.zarrstore.publishing import Publishing
from castore.zarrstore.stage import Stage


def url_of(kind, folder):
    """The URL of an empty store of this kind."""
    return str(folder / "store") if kind == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    """Return the URL of an empty store of each kind."""
    return url_of(request.param, tmp_path)


class TestStage(StoreTests[Stage, cpu.Buffer]):
    """What zarr asks of a store that can be written."""

    store_cls = Stage
    buffer_cls = cpu.Buffer

    async def set(self, store: Stage, key: str, value: Buffer) -> None:
        """Write beside the store: into the file."""
        path = store._folder.zarr / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())

    async def get(self, store: Stage, key: str) -> Buffer:
        """Read beside the store: from the file."""
        return self.buffer_cls.from_bytes((store._folder.zarr / key).read_bytes())

    @pytest.fixture
    def store_kwargs(self, url, tmp_path):
        """Return a folder and where it is to be published."""
        folder = Folder(tmp_path / "stage")
        folder.make()
        destination = Publishing(open_backend(url), tally.recorder(url))
        return {"folder": folder.place, "destination": destination}

    def test_store_repr(self, store: Stage) -> None:
        """The folder and the store are named."""
        assert (
            repr(store)
            == f"Stage({str(store._folder.place)!r}, {store._destination.backend.url!r})"
        )

    def test_store_supports_writes(self, store: Stage) -> None:
        """It can be written."""
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store: Stage) -> None:
        """It can be listed."""
        assert store.supports_listing


class StoreMachine(ZarrStoreStateMachine):
    """Zarr's machine of keys, without those that no node has: one below another's."""

    @rule(key=keys(), data=st.binary(max_size=100))
    def set(self, key, data):
        """Set a key, or see that what lies above or below another is refused."""
        near = [old for old in self.model if f"{old}/".startswith(f"{key}/") and old != key]
        near += [old for old in self.model if key.startswith(f"{old}/")]
        if near:
            with pytest.raises(ConfigError, match="above or below"):
                self.store.set(key, cpu.Buffer.from_bytes(data))
        else:
            super().set(key, data)


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize(
    ("machine", "examples"),
    [(StoreMachine, 20), (ZarrHierarchyStateMachine, 6)],
    ids=["store", "hierarchy"],
)
def test_a_stage_is_what_zarr_models(kind, machine, examples, tmp_path):
    """Whatever zarr does to a store, a stage does as zarr's own model of one."""
    stage = castore.open(url_of(kind, tmp_path)).zarr_store()
    run_state_machine_as_test(
        lambda: machine(stage),
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure of some hundred steps takes long to shrink
        ),
    )  # fmt: skip
