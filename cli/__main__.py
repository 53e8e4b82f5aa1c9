"""``python -m castore.cli`` is the command too."""

from castore.cli.main import main

main(prog_name="castore")
