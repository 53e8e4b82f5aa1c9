"""A request answered: found, put together from rows, or computed and published."""
