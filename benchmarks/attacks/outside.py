"""The controls: the same programs in a plain interpreter, where they work.

An attack that fails in the sandbox because of a mistake in its own code proves nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.attacks.catalogue import Attack, common, source

_PATIENCE_S: Final = 300.0
_RUN: Final = """
import json, sys
job = json.load(sys.stdin)
namespace = {"__name__": "solution"}
exec(compile(job["code"], "solution.py", "exec"), namespace)
values = [eval(call, namespace) for call in job["calls"]]
text = lambda value: value.decode("latin-1") if isinstance(value, bytes) else type(value).__name__
print("\\n" + json.dumps(values, default=text))
"""


def ends(attack: Attack, folder: Path) -> Any:
    """How the attack ends outside, in the form of its `outside` or `outside_exit`.

    Args:
        attack: one that has a control.
        folder: an empty one to run it in.
    """
    if attack.job == "call":
        done = _plain(attack, folder)
        if attack.outside is None:
            return done.returncode
        if done.returncode:
            return f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"
        return json.loads(done.stdout.splitlines()[-1])
    if attack.job == "suite":
        files = {"calc.py": attack.program, **attack.files, "calc_test.py": common()["suite"]}
        return _pytest(files, folder / "suite")
    versions = [common()["correct"], common()["mutant"]]
    codes = [
        _pytest({"calc.py": version, "test_calc.py": attack.program}, folder / str(number))
        for number, version in enumerate(versions)
    ]
    return ["fail" if code else "pass" for code in codes]


def _plain(attack: Attack, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", _RUN],
        input=json.dumps({"code": source(attack), "calls": attack.calls}),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=_PATIENCE_S,
        check=False,
    )


def _pytest(files: dict[str, str], folder: Path) -> int:
    """What pytest exits with: 0 if it believes that every test passed."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    return subprocess.run(
        command, cwd=folder, capture_output=True, timeout=_PATIENCE_S, check=False
    ).returncode
