"""The same attacks as an ordinary user, and where the kernel gives no namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from benchmarks.attacks import catalogue

_ROOT = Path(__file__).resolve().parents[3]
# A bare interpreter, maybe another user's: it gets the package and the test framework by path.
_MAIN = """
import sys, types
root, packages, *arguments = sys.argv[1:]
package = types.ModuleType("astor_rl")
package.__path__ = [root + "/src/astor_rl"]
sys.modules["astor_rl"] = package
sys.path[:0] = [root]
sys.path.append(packages)
from benchmarks.attacks.__main__ import main
"""
_WITHOUT = """
from astor_rl.sandbox.inside import kernel, seccomp
from astor_rl.sandbox.probe import facilities
program = [seccomp._op(0x20, 0), *seccomp._when(int(arguments.pop()), seccomp._error(1))]
kernel.no_new_privileges()
kernel.install_filter(b"".join([*program, seccomp._ret(0x7FFF0000)]))
arguments += ["--allow-missing", *(f.name for f in facilities() if not f.available)]
"""
_RUN = "sys.exit(main(arguments))\n"
_UNSHARE = {"x86_64": 272, "aarch64": 97}.get(os.uname().machine)


def _attacks(
    folder: Path, *arguments: str, script: str = "", user: int | None = None, python: str
) -> str:
    """The table, once every attack in it ended as it must and left no file behind."""
    folder.chmod(0o777)
    packages = str(Path(pytest.__file__).resolve().parents[1])
    command = [python, "-P", "-S", "-B", "-c", _MAIN + script + _RUN, str(_ROOT), packages]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert list(folder.iterdir()) == []
    return done.stdout


@pytest.mark.slow
def test_as_an_ordinary_user(ordinary_python: str) -> None:
    """As root, by becoming uid 1000; otherwise this is what every other test shows."""
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="astor-user-", dir="/tmp"))
    folder.chmod(0o777)
    try:
        goals = ("--goal", "escape", "spy", "linger", "confuse")
        table = _attacks(folder, *goals, user=1000, python=ordinary_python)
    finally:
        shutil.rmtree(folder)
    assert "missing: nothing; 0 did not end as they must" in table
    assert table.count("\n| ") > 100


@pytest.mark.slow
@pytest.mark.skipif(_UNSHARE is None, reason="no system call number for this machine")
def test_without_namespaces(tmp_path: Path) -> None:
    table = _attacks(tmp_path, str(_UNSHARE), script=_WITHOUT, python=sys.executable)
    assert "mountns" in table.partition("missing: ")[2]
    assert "0 did not end as they must" in table
    assert table.count("\n| ") == sum(attack.anywhere for attack in catalogue.attacks())
