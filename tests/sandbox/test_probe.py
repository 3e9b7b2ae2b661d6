"""The facility table, on this machine as it is and with facilities really taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from astor_rl.sandbox import probe, protections

# Bare interpreters (another user's, or one that may not unshare) get the package by path.
_PREAMBLE = """
import json, os, sys, types
package = types.ModuleType("astor_rl")
package.__path__ = [sys.argv[1]]
sys.modules["astor_rl"] = package
from astor_rl.errors import AstorError
from astor_rl.sandbox.api import CallJob, Limits
from astor_rl.sandbox.inside import kernel, seccomp, syscalls
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.probe import facilities
"""
# A filter of our own takes a system call away from this process and all below it.
_DENY = """
def deny(*numbers):
    program = [seccomp._op(0x20, 0)]
    for number in numbers:
        program += seccomp._when(number, seccomp._error(1))
    kernel.no_new_privileges()
    kernel.install_filter(b"".join([*program, seccomp._ret(0x7FFF0000)]))
"""


def _script(body: str, *, user: int | None = None, python: str = sys.executable) -> Any:
    package = str(Path(probe.__file__).resolve().parents[1])
    command = [python, "-P", "-S", "-c", _PREAMBLE + _DENY + textwrap.dedent(body), package]
    ids = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **ids)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_protection_is_listed_once_with_its_guarantee() -> None:
    table = probe.facilities()
    assert [facility.name for facility in table] == list(protections.GUARANTEES)
    for facility in table:
        assert facility.available or facility.why
        assert facility.guarantees


_UNSHARE = {"x86_64": 272, "aarch64": 97}.get(os.uname().machine)


@pytest.mark.skipif(_UNSHARE is None, reason="no system call number for this machine")
def test_without_namespaces_the_pool_stops_and_names_them() -> None:
    found = _script(f"""
    deny({_UNSHARE})
    table = {{f.name: f.available for f in facilities()}}
    message = ""
    try:
        ProcessPool(1)
    except AstorError as error:
        message = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps([table, message]))
    """)
    table, message = found
    for name in ("mountns", "pidns", "netns", "root"):
        assert table[name] is False
        assert name in message
    assert table["seccomp"]
    assert table["landlock"]
    assert message.startswith("SandboxError: the sandbox lacks ")
    assert "\n" not in message


@pytest.mark.skipif(_UNSHARE is None, reason="no system call number for this machine")
def test_allowed_by_name_the_landlock_tier_still_contains(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    tier, rows, status, forked, again = _script(f"""
    deny({_UNSHARE})
    missing = [f.name for f in facilities() if not f.available]
    limits = Limits(wall_s=20, processes=3)
    code = "import os, socket\\nopen('mine', 'w').write('x')"
    with ProcessPool(1, allow_missing=missing) as pool:
        calls = ("1 + 1", "open({str(secret)!r}).read()", "socket.socket()",
                 "os.kill(os.getppid(), 9)", "open('/etc/passwd').read()", "len(os.listdir('.'))")
        first = next(pool.map([CallJob(code, calls, limits=limits)]))
        loop = next(pool.map([CallJob("while True: pass", (), limits=Limits(wall_s=0.3))]))
        fork = next(pool.map([CallJob("import os", ("os.fork()",), limits=limits)]))
        last = next(pool.map([CallJob("import os", ("os.listdir('.')",), limits=limits)]))
    rows = [[c.value, c.error] for c in first.calls]
    print(json.dumps([first.tier, rows, loop.status, fork.calls[0].error, last.calls[0].value]))
    """)
    assert tier == "landlock"
    assert rows[0] == [2, ""]
    assert [error for _, error in rows[1:5]] == ["PermissionError"] * 4
    assert rows[5] == [1, ""]
    assert (status, forked, again) == ("timeout", "BlockingIOError", [])


def test_an_ordinary_user_has_the_full_tier(ordinary_python: str) -> None:
    """As root, by becoming uid 1000; otherwise this is what every other test shows."""
    body = """
    table = {f.name: f.why for f in facilities() if not f.available}
    outcomes = []
    with ProcessPool(1) as pool:
        limits = Limits(wall_s=20)
        calls = ("os.getuid()", "socket.socket()", "open('/etc/passwd')")
        for code, calls in (("import os, socket", calls), ("while True: pass", ())):
            outcome = next(pool.map([CallJob(code, calls, limits=Limits(wall_s=1))]))
            outcomes.append([outcome.status, outcome.tier, [c.error for c in outcome.calls]])
    print(json.dumps([table, outcomes]))
    """
    missing, outcomes = _script(body, user=1000, python=ordinary_python)
    if "userns" in missing or "mountns" in missing:
        pytest.skip(f"ordinary users may not unshare here: {missing}")
    assert missing == {}
    assert outcomes == [
        ["ok", "full", ["", "PermissionError", "FileNotFoundError"]],
        ["timeout", "full", []],
    ]
