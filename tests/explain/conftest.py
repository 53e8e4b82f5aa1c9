"""A store beside the backend it lies on, and requests that are not made of it."""

from __future__ import annotations

import numpy as np
import pytest

import castore
from castore.backend.open import open_backend
from castore.explain import explain, short_reason
from castore.identity.function import describe_function
from castore.identity.request import identify_loader
from castore.table.entry import find_entry


class Shelf:
    """A store to fill, and to ask why."""

    def __init__(self, path):
        self.store = castore.open(path)
        self.backend = open_backend(str(path))

    def request(self, loader, fn=None, suffix="", *, model=None, **what):
        """Identify a call; what is not of the function is of the loader."""
        loading = {name: what.pop(name) for name in ("dataset_id", "row_ids") if name in what}
        function = describe_function(fn, suffix, model=model, loader=loader, **what)
        return identify_loader(function, loader, **loading)

    def put(self, loader, fn=None, suffix="", *, rows=None, model=None, **what):
        """Store zeros, a row a sample, for a call; return the entry's key."""
        request = self.request(loader, fn, suffix, model=model, **what)
        value = np.zeros((request.rows if rows is None else rows, 1))
        return self.store.put(loader, value, suffix, fn=fn, model=model, **what).key

    def entry(self, key):
        """Return an entry."""
        return self.store.entry(key)

    def why(self, loader, fn=None, suffix="", *, facts=None, **what):
        """Explain a call, answered by its own entry if there is one."""
        request = self.request(loader, fn, suffix, **what)
        entry = find_entry(self.backend, request.function.table, request.key)
        return explain(self.backend, request, entry=entry, **(facts or {}))

    def short(self, loader, fn=None, suffix="", **what):
        """Explain a miss in a line."""
        return short_reason(self.backend, self.request(loader, fn, suffix, **what))


@pytest.fixture(scope="session")
def new_shelf(tmp_path_factory):
    """Return what makes new stores."""
    return lambda: Shelf(tmp_path_factory.mktemp("store"))


@pytest.fixture
def shelf(new_shelf):
    """Return a new store."""
    return new_shelf()
