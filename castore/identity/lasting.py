"""What lasts in an object from call to call, and what is only left there by the last one.

A tokenizer remembers how it last padded, a transform what it last drew. Neither changes what the
next call returns, and a key that moved with them would never be found again.
"""

from __future__ import annotations

import sys
from typing import Any

from castore.identity.incidental import incidental
from castore.identity.members import attributes
from castore.identity.transforms import bookkeeping

__all__ = ["lasting"]

#: What transformers' tokenizers have warned of, once each.
_SAID = "deprecation_warnings"
_FAST = "_tokenizer"
#: By the module within: looking anything up in transformers itself imports it.
_TOKENIZERS = "transformers.tokenization_utils_base"


def lasting(value: Any) -> dict[str, Any]:
    """Return an object's attributes that make it what it is.

    Parameters
    ----------
    value : Any
        Any object; what castore knows the last call to leave in one is left out.
    """
    apart = bookkeeping(value) | incidental(type(value))
    found = {name: item for name, item in attributes(value).items() if name not in apart}
    if isinstance(value, _type(_TOKENIZERS, "PreTrainedTokenizerBase")):
        found.pop(_SAID, None)
        if isinstance(found.get(_FAST), _type("tokenizers", "Tokenizer")):
            found[_FAST] = _unpadded(found[_FAST].to_str())
    return found


def _unpadded(document: str) -> bytes:
    """Return a tokenizer's document without how it pads and truncates.

    transformers sets both anew at every call, by the arguments of the call. In the document
    they come first, and quotes within them are escaped.
    """
    head, found, rest = document.partition(',"added_tokens":')
    return (rest if found else head).encode()


def _type(module: str, name: str) -> Any:
    """Return a type of a module that the user has imported, or what nothing is an instance of."""
    return getattr(sys.modules.get(module), name, ())
