"""The command as a whole: help, exit codes, streams, completion."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import castore
from castore.cli.main import main

READING = [("ls",), ("ls", "double"), ("du",), ("info", "ab"), ("rm", "ab", "--yes")]
COMMANDS = main.list_commands(click.Context(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(run, name):
    """Every command has help with an example of itself, and prints JSON on demand."""
    text = run(name, "--help").stdout
    assert "Example" in text
    assert f"  castore {name} " in text
    assert "--json" in text


def test_help_lists_every_command(run):
    """`castore --help` lists the commands, the exit codes, and how to get completion."""
    text = run("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert "10 no store there" in text
    assert "_CASTORE_COMPLETE=bash_source castore" in text


def test_version_is_the_package_version(run):
    """`castore --version` prints the version."""
    assert run("--version").stdout == f"castore {castore.__version__}\n"


def test_help_and_json_do_without_rich(keys):
    """Neither help nor JSON imports the library that draws tables."""
    script = (
        "import sys; from castore.cli.main import main\n"
        "for words in (['--help'], ['ls', '--json'], ['du', '--json']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_no_store_is_exit_code_10(run, store, words):
    """A command on a place without a store ends with 10 and says how to make one."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (10, "")
    assert f"castore: no store at {store.url}; `castore init {store.url}` makes one" in (
        result.stderr
    )


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_reading_makes_no_store(run, tmp_path, words):
    """A command on a place without a store leaves nothing there."""
    run(*words, "--store", tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_store_option_wins_over_the_environment(run, keys, tmp_path):
    """`--store` names another store than $CASTORE_URL does."""
    castore.init(tmp_path / "other")
    assert run("ls", "--store", tmp_path / "other", "--json").stdout == "[]\n"
    assert run("ls", "-s", tmp_path / "other", "--json").stdout == "[]\n"
    assert run("ls", "--json").stdout != "[]\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 2),
        (["ls", "--nonsense"], 2),
        (["info"], 2),
        (["ls", "--store", "gopher://hole"], 1),
        (["info", "zzzz"], 1),
        (["ls", "zzzz"], 1),
    ],
)
def test_errors_go_to_stderr(spawn, keys, words, code):
    """What goes wrong is told on stderr without a traceback, and nothing is printed as data."""
    done = spawn(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert words[-1] in done.stderr or words == ["info"]


def test_errors_of_the_store_begin_with_the_name_of_the_command(run, keys, tmp_path):
    """An error of castore's own is its message after `castore: `, with exit code 1."""
    (tmp_path / "store" / "castore.json").write_text("{}")
    result = run("ls")
    assert result.exit_code == 1
    assert result.stderr.startswith("castore: ")
    assert "castore.json" in result.stderr


def test_interrupt_is_exit_code_130(keys):
    """Ctrl-C in the middle of a command ends it with 130, without a traceback."""
    script = (
        "import signal, sys; from castore.cli.main import main\n"
        "def hook(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('castore.json'):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.addaudithook(hook)\n"
        "main(['ls'])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "castore: interrupted\n"


def test_leaving_a_question_is_an_interrupt(keys, store, terminal):
    """The end of input at a question ends the command with 130, and deletes nothing."""
    session = terminal("rm", keys["small"])
    session.until("[y/N]")
    session.type("\x04")
    code, lines = session.end()
    assert (code, lines[-1]) == (130, "castore: interrupted")
    assert store.entry(keys["small"]).key == keys["small"]


def test_a_closed_pipe_is_no_error(keys):
    """`castore ls | head -0` ends without a traceback."""
    script = f"set -o pipefail; {sys.executable} -m castore.cli ls -q | head -c 0"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_completion_knows_the_commands(spawn):
    """The shell gets command names and options from click's completion."""
    asked = {"_CASTORE_COMPLETE": "zsh_complete", "COMP_WORDS": "castore i", "COMP_CWORD": "1"}
    assert {"init", "info"} <= set(spawn(**asked).stdout.splitlines())
    assert "compdef" in spawn(_CASTORE_COMPLETE="zsh_source").stdout
