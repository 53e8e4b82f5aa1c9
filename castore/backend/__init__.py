"""Named bytes: where a store's objects live."""
