"""Suites that anything that takes part in a store has to pass."""
