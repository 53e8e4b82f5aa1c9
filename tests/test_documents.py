"""README.md and docs/: what a reader copies must work."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

#: What an example may need beyond castore: its page is left out where that is not installed.
_OPTIONAL = ("dask", "matplotlib", "sklearn", "tensorstore", "torch", "torchvision", "xarray")

by_name = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


@by_name
def test_python_examples_run(path, tmp_path, monkeypatch):
    """The Python examples of a page run in their order, as one session, in an empty folder."""
    document = Document.parse(str(path), PythonCodeBlockParser(), SkipParser())
    for library in _OPTIONAL:
        if re.search(rf"^(import|from) {library}\b", document.text, flags=re.MULTILINE):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASTORE_URL", str(tmp_path / "store"))
    script = ModuleType("__main__")  # what a reader's functions and classes would belong to
    monkeypatch.setitem(sys.modules, "__main__", script)
    document.namespace = vars(script)
    for example in document.examples():
        example.evaluate()


def command_lines(text):
    """Yield the words after `castore` of each such line in the shell examples of a page."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^(?:\$ )?castore (.*?)(?: [|>].*)?$", block, re.MULTILINE):
            yield shlex.split(line, comments=True)


@by_name
def test_command_lines_parse(path):
    """Every `castore` line in a shell example of a page names a command and options that exist."""
    from castore.cli.main import main

    for name, *arguments in filter(None, command_lines(path.read_text())):
        if not name.startswith("-"):
            command = main.get_command(click.Context(main), name)
            assert command is not None, f"castore has no command {name}"
            command.make_context(name, arguments)
