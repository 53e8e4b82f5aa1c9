"""One computation for all who ask: leases and claims, and who holds them."""
