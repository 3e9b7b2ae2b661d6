"""`python -m benchmarks.learning`: build what is missing, compare, write what was found; JSON last.

Stopped at any point, the same command goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.common import ROOT, publish, tell
from benchmarks.learning.build import build
from benchmarks.learning.laboratory import LABORATORIES
from benchmarks.learning.results import COMPARISONS, FROM_RUNS, OUTPUT, collect, findings, page

_HERE: Final = Path(__file__).parent


def _compare(file: str) -> int:
    """Run or continue a comparison; the command's exit code."""
    command = [sys.executable, "-m", "astor_rl", "compare", str(_HERE / file)]
    # Its report is for people: standard output's last line is the result.
    return subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is the first comparison's that did not end well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument(
        "--laboratory",
        action="append",
        choices=sorted(COMPARISONS),
        help="only this one; may be given twice (default: both)",
    )
    options = parser.parse_args(arguments)
    code = 0
    for name in options.laboratory or sorted(COMPARISONS):
        tell(f"Laboratory {name}")
        build(LABORATORIES[name.lower()])
        code = _compare(COMPARISONS[name])
        if code:
            break
    result = collect({name: findings(name) for name in COMPARISONS})
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.with_suffix(".md").write_text(page(result, FROM_RUNS), encoding="utf-8")
    publish(result, OUTPUT)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
