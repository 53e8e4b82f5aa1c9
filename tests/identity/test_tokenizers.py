"""Tokenizers and processors of HuggingFace that a function holds."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from castore.canonical import dumps
from castore.identity.captures import capture
from castore.identity.describe import describe

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

WORDS = ("a", "b", "c")


def raw(words=WORDS):
    """A tokenizer of the library written in Rust."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer


def fast(words=WORDS, **options):
    """A tokenizer of transformers around one."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw(words), pad_token="[PAD]", unk_token="[UNK]", **options
    )


def slow():
    """A tokenizer of transformers written in Python."""
    return transformers.ByT5Tokenizer(extra_ids=3)


def image_processor(size=32):
    """A processor of images."""
    pytest.importorskip("PIL")
    pytest.importorskip("torchvision")
    return transformers.ViTImageProcessor(size={"height": size, "width": size})


def document(tokenizer) -> bytes:
    """What identifies a function that uses a tokenizer, and a transform that does."""

    def fn(loader):
        return [tokenizer(batch) for batch in loader]

    found = [capture(fn), describe({"transform": fn})]
    assert [captures.not_keyed for captures in found] == [{}, {}]
    return dumps([[captures.values, captures.functions] for captures in found])


def with_token(tokenizer):
    """The same with one token more."""
    tokenizer.add_tokens(["new"])
    return tokenizer


@pytest.mark.parametrize("build", [raw, fast, slow, image_processor])
def test_equal_ones_agree(build):
    """What is built twice is the same."""
    assert document(build()) == document(build())


@pytest.mark.parametrize("build", [raw, fast, slow])
def test_one_token_more_makes_another(build):
    """A tokenizer with a token added is another one."""
    assert document(with_token(build())) != document(build())


def test_whatever_shapes_the_tokens_counts():
    """Vocabulary, order, special tokens, sides, lengths and normalisation are told apart."""
    lower = raw()
    lower.normalizer = tokenizers.normalizers.Lowercase()
    special = fast()
    special.add_special_tokens({"cls_token": "<x>"})
    found = [
        raw(),
        lower,
        fast(),
        fast(("a", "c", "b")),
        fast(("a", "b", "d")),
        fast(model_max_length=7),
        fast(padding_side="left"),
        fast(truncation_side="left"),
        fast(chat_template="{{ messages }}"),
        special,
        with_token(fast()),
        slow(),
    ]
    assert len({document(tokenizer) for tokenizer in found}) == len(found)


def test_another_size_makes_another_processor():
    """A processor of images with another size is another one."""
    assert document(image_processor(48)) != document(image_processor())


def test_calls_of_fast_tokenizers_change_nothing():
    """How a tokenizer last padded and truncated, and what it warned of, does not count."""
    tokenizer = fast(model_max_length=3)
    before = document(tokenizer)
    tokenizer(["a b", "c"], padding=True, truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.padding is not None
    assert document(tokenizer) == before
    tokenizer("a b c a b c")
    assert tokenizer.deprecation_warnings
    assert document(tokenizer) == before
    tokenizer.decode([2, 3])
    tokenizer.pad([{"input_ids": [1]}, {"input_ids": [1, 2]}])
    assert document(tokenizer) == before


def test_calls_of_slow_tokenizers_change_nothing():
    """A tokenizer written in Python stays what it is when it is called."""
    tokenizer = slow()
    before = document(tokenizer)
    tokenizer(["hello", "a"], padding=True, truncation=True, max_length=4)
    assert document(tokenizer) == before


def test_calls_of_image_processors_change_nothing():
    """A processor of images stays what it is when it is called."""
    processor = image_processor()
    before = document(processor)
    processor([np.zeros((40, 40, 3), np.uint8)])
    assert document(processor) == before


def test_padding_of_raw_tokenizers_counts():
    """A tokenizer that nobody sets anew at every call goes by how it pads and truncates."""
    padded, cut = raw(), raw()
    padded.enable_padding(length=8)
    cut.enable_truncation(2)
    found = {document(tokenizer) for tokenizer in (raw(), padded, cut)}
    assert len(found) == 3


def test_text_within_a_tokenizer_cannot_hide_tokens():
    """A padding token that reads like a document changes nothing in what is keyed."""
    tokenizer, other = fast(), with_token(fast())
    trap = ',"added_tokens":[]'
    for each in (tokenizer, other):
        each.backend_tokenizer.enable_padding(pad_token=trap)
    assert document(tokenizer) == document(fast())
    assert document(other) == document(with_token(fast()))


def test_where_a_tokenizer_was_loaded_from_does_not_count(tmp_path):
    """Two copies of the files of a tokenizer make the same one."""
    for copy in ("one", "two"):
        fast().save_pretrained(tmp_path / copy)
        (tmp_path / copy / "vocab.json").write_text(json.dumps({"[UNK]": 0, "a": 1, "<pad>": 2}))
    load = transformers.PreTrainedTokenizerFast.from_pretrained
    assert document(load(tmp_path / "one")) == document(load(tmp_path / "two"))
    python = transformers.Wav2Vec2CTCTokenizer
    first, second = (python(str(tmp_path / copy / "vocab.json")) for copy in ("one", "two"))
    assert document(first) == document(second)


def test_processors_are_what_they_are_made_of():
    """A processor of texts and images is another with another size or token."""

    def processor(size, tokenizer):
        return transformers.CLIPProcessor(transformers.CLIPImageProcessor(size=size), tokenizer)

    image_processor()  # needs the same libraries
    size = {"shortest_edge": 16}
    expected = document(processor(size, fast()))
    assert document(processor(size, fast())) == expected
    assert document(processor({"shortest_edge": 17}, fast())) != expected
    assert document(processor(size, with_token(fast()))) != expected


def test_copies_are_the_same():
    """A tokenizer that was pickled is the same."""
    assert document(pickle.loads(pickle.dumps(fast()))) == document(fast())


def test_documents_hold_no_vocabulary():
    """A vocabulary is kept as a digest, not word by word."""
    many = tuple(f"word{number}" for number in range(2000))
    assert b"word1999" not in document(fast(many)) + document(raw(many))


def test_documents_are_the_same_in_another_process():
    """No order of sets or address of this process is in a document."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_tokenizers import document, fast, raw, slow\n"
        "sys.stdout.buffer.write(b''.join(map(document, (fast(), raw(), slow()))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {b"".join(map(document, (fast(), raw(), slow())))}
