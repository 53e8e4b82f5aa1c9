"""From what the user hands over to what it is: digests and row ids.

Nothing here writes, iterates a loader or draws from a generator.
"""
