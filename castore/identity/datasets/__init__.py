"""What a dataset's samples are, type by type.

A sample is a source and an item. *Source*: what turns the item into the sample: dataset class,
decoder, transforms, and every attribute that the type's rule does not name. *Item*: what the
sample is made of: a file's relative path, content and target; a row's dtype, shape and bytes; or
what the caller vouches for. A row id is the digest of both.

A rule holds for its exact type, and for a subclass only if ``__getitem__``, ``__getitems__``
and ``__len__`` are the type's own. Everything else is refused, with what to write instead.
"""
