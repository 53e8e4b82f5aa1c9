"""From what the user hands over to what it is: digests and row ids.

Nothing here iterates a loader or draws from a generator. All that is written are content digests
of files: the machine's memo, and a document beside the data where `castore digests` is run.
"""
