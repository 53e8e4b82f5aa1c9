"""The ``castore`` command; one module a family of subcommands."""
