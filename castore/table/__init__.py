"""Entries: what a result is made of, how it is written, and how it is found again."""
