"""How this program was called."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_NAME = "astor"


def command(*words: str) -> str:
    """A command line of this program that works as it stands where this one was typed.

    An environment that isn't activated has the program in its `bin` only: then it is named by
    its path.
    """
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return ["python", "-m", "astor_rl"]
    if called.name != _NAME or not called.is_file():
        return [_NAME]
    found = shutil.which(_NAME)
    if found is not None and os.path.samefile(found, called):
        return [_NAME]
    here = os.path.relpath(called)
    return [str(called.resolve()) if here.startswith(os.pardir) else here]
