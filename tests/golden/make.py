"""Make vectors.json: a preimage and its digest for every rule of identity.

Run by hand, never by a test, and only when a rule is added or the format gets a new number::

    python tests/golden/make.py

What changes in vectors.json for a rule that was there before breaks every store there is.
Run it in an environment with torch; test_vectors.py computes the same without one, less the
section "torch".
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import described
import ml_dtypes
import numpy as np

from castore.canonical import dumps, identify
from castore.digest import identity
from castore.identity import rows
from castore.identity.code import digest_code
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.vouched import named_rows
from castore.identity.function import describe_function
from castore.identity.request import identify_inputs, identify_loader
from castore.identity.values import digest_array, digest_value, encode

FILE = Path(__file__).with_name("vectors.json")

SOURCE = "0123456789abcdeffedcba9876543210"
LAYER = 3


class Colour(enum.Enum):
    """An enum."""

    RED = 1


@dataclasses.dataclass
class Box:
    """A dataclass."""

    side: float
    label: str


Pair = namedtuple("Pair", "a b")  # noqa: PYI024

# Types go by their module too, which is called the same however this file is run.
Colour.__module__ = Box.__module__ = Pair.__module__ = "golden"


def _nan(bits: int) -> float:
    found: float = struct.unpack(">d", struct.pack(">Q", bits))[0]
    return found


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "text": "inception_v3",
    "text beyond ascii": "é😀\n\0",
    "lone surrogate": "\ud800",
    "integer": 1,
    "smallest plain integer": -(2**63),
    "largest plain integer": 2**64 - 1,
    "huge integer": 2**64,
    "huge negative integer": -(2**63) - 1,
    "float": 1.0,
    "tenth": 0.1,
    "negative zero": -0.0,
    "infinity": float("inf"),
    "large float": 1e300,
    "nan": _nan(0x7FF8000000000000),
    "nan with a payload": _nan(0xFFF8000000000123),
    "complex": complex(1.5, -0.0),
    "bytes": b"abc",
    "no bytes": b"",
    "bytearray": bytearray(b"abc"),
    "list": [1, "1", 1.0, True, None],
    "tuple": (1, "1", (1,), []),
    "named tuple": Pair(1, "x"),
    "set": {3, "3", (3,), 3.5},
    "frozenset": frozenset({"b", "a"}),
    "dict": {"b": 1, "a": [2], 1: "int", (1, 2): None},
    "range": range(1, 10, 2),
    "slice": slice(None, 5, 2),
    "int32 array": np.arange(6, dtype=np.int32).reshape(2, 3),
    "big-endian array": np.arange(3, dtype=">f8"),
    "fortran array": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "empty array": np.zeros((0, 3), np.float16),
    "array without axes": np.array(1.5),
    "bool array": np.array([True, False]),
    "complex array": np.array([1 + 2j], np.complex64),
    "times": np.array([0, 1], "datetime64[ns]"),
    "bfloat16 array": np.array([1.0, -2.5], ml_dtypes.bfloat16),
    "float8 array": np.array([1.0, -2.5], ml_dtypes.float8_e4m3fn),
    "text array": np.array([["a", "bc"]]),
    "bytes array": np.array([b"a", b"bc"]),
    "object array": np.array([1, "a", None], object),
    "float32 scalar": np.float32(1.5),
    "int64 scalar": np.int64(-1),
    "bool scalar": np.bool_(1),
    "time scalar": np.datetime64(1, "ms"),
    "text scalar": np.str_("a"),
    "bytes scalar": np.bytes_(b"a"),
    "enum": Colour.RED,
    "dataclass": Box(1.5, "a"),
    "nested": {"layers": [{"name": "conv", "stride": (2, 2), "bias": False}], "seed": None},
}

DTYPES = ["float32", "bool", "complex128", "datetime64[ns]", "bfloat16", "float8_e5m2"]


def plain(loader, layer=3):
    """Extract."""
    total = 0
    for batch in loader:
        total += batch * layer  # a comment
    return total


def formatted(batch):
    """Use text that Pythons write differently."""
    return f"{batch['name']!r:>{LAYER}}" + f'{batch}"' + "it's"


# fmt: off
def formats(x, y):
    """Use every part that formatted text has."""
    text = u"c", ("a" f"{x}" "b"), f"", f"{{}}", f"{x}{{{y}}}"  # noqa: F541, ISC001, UP025
    parts = f"{x:}", f"{x!s:>{y}}{{z}}", f"{x=}", f"a{x = !r:^{y}.{y}}b", f"{x:%H:%M}"
    return text, parts, rf"\d{x}", f"\N{BULLET}{x!a}\t"
# fmt: on


class Extractor:
    """A class with a method."""

    def text(self, x):
        """Use text of many lines."""
        return (
            """a
    b
"""
            f"""
            {x}
c"""
        )


def patterns(batch, /, *, depth: int = 1):
    """Use what came to the language late."""
    match batch:
        case {"rows": [first, *rest]} if depth > 1:
            return first, rest
        case [x, y] | (x, y):
            return [z for z in (x, y) if (w := z) and w is not None]
    try:
        return batch[1:2, ...], -(2**-2), 1e400, 1_000, 0x10
    except* ValueError as error:
        raise TypeError from error


async def waiting(batches):
    """Wait."""
    async with batches as opened:
        return [x async for x in opened], {**opened, "a": 1}, lambda *a, k=1: (yield a, k)


added = lambda x, *, k=1: x + k  # noqa: E731
# fmt: off
lambdas = [
    lambda x: x if x else not (x in "abc"), lambda x: 1 if True else x,  # noqa: E713, FURB110
    lambda x: (
        x.first(1)  # a comment
        .second(2)
    ),
    lambda x: lambda: (yield x),
]
# fmt: on

FUNCTIONS = {
    "plain": plain,
    "formatted": formatted,
    "patterns": patterns,
    "waiting": waiting,
    "lambda": added,
    "formats": formats,
    "text": Extractor.text,
    **{f"lambda {index}": fn for index, fn in enumerate(lambdas)},
    "lambda in a lambda": lambdas[3](0),
}


def main() -> None:
    """Write vectors.json."""
    if "torch" not in sys.modules:
        import torch  # noqa: F401
    found = {**core(), "torch": with_torch()}
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")


def core() -> dict[str, Any]:
    """Compute the vectors that need no torch, by section and name."""
    return {
        "bytes": _bytes(),
        "code": {name: digest_code(function) for name, function in FUNCTIONS.items()},
        "integers": _integers(),
        "items": described.items(),
        "objects": described.objects(),
        "sources": described.sources(),
        "requests": _requests(),
        "rows": _rows(),
        "values": {name: _value(value) for name, value in {**VALUES, **described.VALUES}.items()}
        | {f"dtype {name}": _value(_dtype(name)) for name in DTYPES},
    }


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def _value(value: Any) -> dict[str, str]:
    """Return a value's document and its digest in the domain "value"."""
    return {
        "preimage": _text("value", dumps(encode(value)).decode()),
        "digest": digest_value("value", value),
    }


def _document(domain: str, document: Any, digest: str | None = None) -> dict[str, str]:
    return {
        "preimage": _text(domain, dumps(document).decode()),
        "digest": digest or identify(domain, document),
    }


def _text(domain: str, text: str) -> str:
    """Return the bytes that are digested, which are ASCII."""
    return f"castore/1/{domain}\n{text}"


def _hex(domain: str, data: bytes) -> str:
    return (f"castore/1/{domain}\n".encode() + data).hex()


def _bytes() -> dict[str, Any]:
    array = np.arange(3, dtype="<i4")
    listed = rows.from_names(SOURCE, ["a", "b"])
    return {
        "array": {"preimage_hex": _hex("array", array.tobytes()), "digest": digest_array(array)},
        "bytes": {"preimage_hex": _hex("bytes", b"abc"), "digest": identity("bytes", b"abc")},
        "rows": {
            "preimage_hex": _hex("rows", listed.tobytes()),
            "digest": rows.digest_rows(listed),
        },
    }


def _integers() -> dict[str, str]:
    """Compute the row ids of integers under `SOURCE`."""
    names = [0, 1, 2, -1, 2**62, -(2**63)]
    found = rows.from_integers(SOURCE, np.array(names))
    return {str(name): row.tobytes().hex() for name, row in zip(names, found, strict=True)}


def _row(kind: str, pieces: bytes, found: rows.RowIds, source: str = SOURCE) -> dict[str, str]:
    return {
        "preimage_hex": _hex(f"row/{kind}/{source}", pieces),
        "digest": found[0].tobytes().hex(),
    }


def _rows() -> dict[str, Any]:
    """Compute a row id of every kind of item."""
    content = bytes(range(16))
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    return {
        "text name": _row("name", "é".encode(), named_rows(SOURCE, ["é"])),
        "digest name": _row("digest", content, named_rows(SOURCE, np.array([list(content)], "u1"))),
        "array row": _sample(array, 'rows[["float32",[2]]]', array[0].tobytes()),
        "list item": _sample([(1, "a")], "value", b'{"tuple":[1,"a"]}'),
        "tuple item": _sample(((1, "a"),), "value", b'{"tuple":[1,"a"]}'),
    }


def _sample(dataset: Any, kind: str, pieces: bytes) -> dict[str, str]:
    """Compute the first sample's row id under the source that castore gives the dataset."""
    samples = samples_of(dataset, np.arange(1))
    return _row(kind, pieces, samples.row_ids, identify("source", samples.sources[0]))


def _requests() -> dict[str, Any]:
    samples = np.arange(6, dtype=np.float32).reshape(3, 2)
    named = describe_function(None, "features", params={"layer": 3}, version="1", model="0" * 32)
    unnamed = describe_function(plain, "")
    over_rows = identify_loader(named, samples)
    vouched = identify_loader(named, samples, dataset_id="isic-2020@3", row_ids=["a", "b", "c"])
    inputs = identify_inputs(named, {"bank": samples, "k": 5})
    return {
        "table with a suffix": _document("table", named.derivation, named.table),
        "table without a suffix": _document("table", unnamed.derivation, unnamed.table),
        "key of rows": _document("key", over_rows.derivation, over_rows.key),
        "key of vouched rows": _document("key", vouched.derivation, vouched.key),
        "key of inputs": _document("key", inputs.derivation, inputs.key),
    }


def with_torch() -> dict[str, Any]:
    """Compute the vectors of tensors and models."""
    import torch

    from castore.identity.models.snapshot import hash_model

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(6.0).reshape(3, 2))
        model[0].bias.copy_(torch.tensor([0.5, -0.0, 1e-40]))
    tensor = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    dataset = torch.utils.data.TensorDataset(tensor, torch.arange(3))
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    kind = 'rows[["float32",[2]],["int64",[]]]'
    request = identify_loader(describe_function(None, "features", model=model), loader)
    return {
        "tensor": _value(tensor),
        "bfloat16 tensor": _value(tensor.bfloat16()),
        "dtype": _value(torch.float16),
        "size": _value(tensor.shape),
        "model": {"digest": hash_model(model)},
        "tensor row": _sample(tensor, 'rows[["float32",[2]]]', tensor[0].numpy().tobytes()),
        "tensor dataset row": _sample(dataset, kind, tensor[0].numpy().tobytes() + bytes(8)),
        "tensor source": _document("source", {"dataset": "tensor"}),
        "table with a model": _document(
            "table", request.function.derivation, request.function.table
        ),
        "key of batches": _document("key", request.derivation, request.key),
    }


if __name__ == "__main__":
    main()
