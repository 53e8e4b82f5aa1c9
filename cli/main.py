"""The ``castore`` command: finds a subcommand's module when it is used, and sets exit codes."""

from __future__ import annotations

import importlib
import keyword
import sys
from typing import Any

import click

from castore.cli.shared import INTERRUPTED, FailedError, note
from castore.errors import CastoreError
from castore.version import __version__

__all__ = ["main"]

#: Module of each subcommand, in the order of `castore --help`.
_MODULES = {
    "init": "making",
    "ls": "listing",
    "du": "listing",
    "stats": "accounting",
    "info": "entries",
    "explain": "explaining",
    "rm": "entries",
    "export": "exchanging",
    "import": "exchanging",
    "digests": "digests",
}


class _Commands(click.Group):
    """Subcommands by name; the one place where an error becomes an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"castore.cli.{_MODULES[cmd_name]}")
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CastoreError as error:
            raise FailedError(str(error)) from error
        except (KeyboardInterrupt, click.Abort):
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal shows ^C, or a question, on this line
            note("interrupted")
            ctx.exit(INTERRUPTED)


_EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 usage, 3 disagreement, 10 no store there, 130 interrupted.
Completion: eval "$(_CASTORE_COMPLETE=bash_source castore)"   (or zsh_source)
            _CASTORE_COMPLETE=fish_source castore | source
"""


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Look into a castore store, and tidy it up.

    Every command takes the store from --store, else from $CASTORE_URL, else from `url` in
    castore.toml (or [tool.castore] of pyproject.toml), else it is the user's cache folder.
    Data goes to stdout, messages to stderr; --json makes the data JSON.
    """


if __name__ == "__main__":
    main(prog_name="castore")
