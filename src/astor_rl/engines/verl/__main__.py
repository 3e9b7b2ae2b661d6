"""`python -m astor_rl.engines.verl KEY=VALUE ...`: what `astor export-verl` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from astor_rl.engines.verl import hydra
from astor_rl.engines.verl.export import read_run
from astor_rl.engines.verl.run import start
from astor_rl.errors import AstorError, ConfigError


def main(given: Sequence[str]) -> int:
    """Train with verl's arguments; returns the exit code."""
    try:
        config, base_dir = read_run(_exported(given))
        start(list(given), config, base_dir=base_dir, note=_note)
    except AstorError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _exported(given: Sequence[str]) -> str:
    for argument in given:
        key, _, value = argument.lstrip("+").partition("=")
        if key == hydra.RUN_KEY:
            return value.strip("'")
    raise ConfigError(
        f"+{hydra.RUN_KEY}=PATH is missing: the run.json that astor export-verl wrote"
    )


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
