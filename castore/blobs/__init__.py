"""Immutable bytes named by their digest, and the Zarr shards they hold."""
