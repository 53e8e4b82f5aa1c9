"""An entry as users hold it: readable by what reads Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from castore.arrays import AnyArray
from castore.progress import Progress, shown
from castore.table.entry import Entry
from castore.table.values import Values

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

__all__ = ["HeldEntry"]


class HeldEntry(Entry):
    """One committed, immutable entry of a store. Made by `castore.Store.entry`."""

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return `entry` as users hold it."""
        return cls(entry.manifest, entry.backend, entry.copy)

    def arrays(self) -> dict[str, AnyArray]:
        """Return every array, checked, in memory of the caller's own.

        Of a result those are its columns, mapped privately; of a Zarr hierarchy all its arrays,
        by path, read through zarr.

        Raises
        ------
        DamagedError
            If any byte is missing or not what was stored.
        """
        if not self.is_hierarchy:
            return super().arrays()
        import zarr

        store = self.zarr_store()
        return {
            path: zarr.open_array(store, path=path, mode="r")[...]  # type: ignore[misc]
            for path in Values(self).arrays
        }

    def zarr_store(self) -> Store:
        """Return the entry as a read-only Zarr store (`castore.zarrstore.entry_store`)."""
        from castore.zarrstore.entry_store import EntryStore

        return EntryStore(self)

    def zarr(self) -> zarr.Group | zarr.Array[Any]:
        """Open the entry by zarr: a group, or the array where its root is one. Read-only."""
        import zarr

        found: zarr.Group | zarr.Array[Any] = zarr.open(self.zarr_store(), mode="r")
        return found

    def to_xarray(self, **options: Any) -> Any:
        """Open the entry as an ``xarray.Dataset``, read when used; xarray must be installed.

        Parameters
        ----------
        **options
            Further arguments of ``xarray.open_zarr``.
        """
        import xarray

        return xarray.open_zarr(self.zarr_store(), **{"consolidated": False, **options})

    def to_dask(self, array: str = "") -> Any:
        """Return an array of the entry as a ``dask.array.Array``; dask must be installed.

        Parameters
        ----------
        array : str
            Its path; by default the only array, or the root.
        """
        import dask.array
        import zarr

        paths = [path for path in Values(self).arrays if not path.startswith("_")]
        path = array or (paths[0] if len(paths) == 1 else "")
        found = zarr.open_array(self.zarr_store(), path=path, mode="r")
        return dask.array.from_zarr(found)  # type: ignore[no-untyped-call]

    def export(self, folder: str | Path, progress: Progress = None) -> Path:
        """Write the entry as plain files of a Zarr v3 hierarchy; return the folder.

        Parameters
        ----------
        folder : str or path
            Must not exist, or be empty. It appears whole: if anything fails there is none.
        progress : bool or callable, optional
            As for `castore.Store.get_or_compute`; counts files.

        Raises
        ------
        ConfigError
            If there is something already.
        DamagedError
            If any byte is missing or not what was stored.
        """
        from castore.zarrstore.exporting import export

        values = Values(self)
        with shown(progress, f"exporting {self.key[:8]}", len(values.keys)) as update:
            return export(values, Path(folder), update)
