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
        return [_from_here(Path(sys.orig_argv[0])), "-m", "astor_rl"]
    if called.name != _NAME or not called.is_file():
        return [_NAME]
    found = shutil.which(_NAME)
    if found is not None and os.path.samefile(found, called):
        return [_NAME]
    return [_from_here(called)]


def _from_here(program: Path) -> str:
    """A program's path as a shell takes it; what was found on the PATH stays a name."""
    if program.name == str(program):
        return str(program) if shutil.which(program) else os.path.join(os.curdir, program)
    here = os.path.relpath(program)
    if here.startswith(os.pardir):
        return os.path.abspath(program)
    return here if os.sep in here else os.path.join(os.curdir, here)
