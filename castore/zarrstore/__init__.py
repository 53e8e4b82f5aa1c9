"""Entries as Zarr stores, and Zarr hierarchies as entries."""
