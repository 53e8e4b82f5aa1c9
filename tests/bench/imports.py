"""What importing castore costs, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

from harness import Case, Options, interleave
from results import Section, against

__all__ = ["NAME", "measure"]

NAME = "imports"
_GOALS = {"import numpy": 1.5}
_BARE = "python -c pass"
_OPENED = "castore, and a store opened"
#: A process that may not keep bytecode would compile all of castore each time.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def measure(options: Options) -> Section:
    """Time the import of castore, numpy and torch, and an interpreter that imports nothing."""
    cases = [
        Case("castore", partial(_run, "import castore")),
        Case(_OPENED, partial(_run, "import castore; castore.open('.')")),
        Case("import numpy", partial(_run, "import numpy")),
        Case("import torch", partial(_run, "import torch")),
        Case(_BARE, partial(_run, "pass")),
    ]
    whole = interleave(cases, options.rounds_of(15, 2))
    net = {
        name: [max(0.0, own - bare) for own, bare in zip(seconds, whole[_BARE], strict=True)]
        for name, seconds in whole.items()
        if name != _BARE
    }
    opened = {"castore": net.pop(_OPENED), "import numpy": net["import numpy"]}
    del whole[_OPENED]
    groups = [
        against("the import alone (less a bare interpreter)", net, _GOALS, better="lower"),
        against("the import, and a store opened (less the same)", opened, {}, better="lower"),
        against("the whole process", whole, {}, better="lower", beside=(_BARE,)),
    ]
    note = "castore loads its parts, and numpy with them, when the first name of its own is used."
    return Section(NAME, "Importing", "time ÷ peer's", "lower", groups, note)


def _run(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True, env=_ENVIRONMENT)
