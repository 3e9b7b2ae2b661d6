"""No two jobs of a machine have one user id, whichever trainers they belong to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox import users
from astor_rl.sandbox.api import CallJob, Limits
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.users import COUNT, FIRST, ClaimedUser

CLAIM = """
import sys
from astor_rl.sandbox.users import ClaimedUser
held = [ClaimedUser() for _ in range(200)]
print(*(user.uid for user in held), flush=True)
sys.stdin.read()
"""


def test_claims_of_several_processes_differ_until_they_end() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        taken = []
        for process in processes:
            assert process.stdout is not None
            taken += [int(uid) for uid in process.stdout.readline().split()]
        assert len(taken) == len(set(taken)) == 600
        assert all(FIRST <= uid < FIRST + COUNT for uid in taken)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def test_when_all_but_one_are_taken_that_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Far from the sandbox's own, so that pools of other tests are not disturbed.
    monkeypatch.setattr(users, "FIRST", 1_000_000)
    monkeypatch.setattr(users, "COUNT", 20)
    held = [ClaimedUser() for _ in range(20)]
    assert sorted(user.uid for user in held) == list(range(1_000_000, 1_000_020))
    with pytest.raises(SandboxError, match="all 20 user ids of sandboxes are taken"):
        ClaimedUser()
    held[7].release()
    held[7].release()
    with_one = ClaimedUser()
    assert with_one.uid == held[7].uid
    for user in (*held, with_one):
        user.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's jobs all have that user's id")
def test_jobs_of_two_pools_and_of_two_kinds_have_different_ids() -> None:
    job = CallJob("import os", ("os.getuid()",), limits=Limits(wall_s=60, cpu_s=20))
    with ProcessPool(2) as one, ProcessPool(2) as other:
        seen = []
        for pool in (one, other):
            list(pool.map([job] * 4))
            seen.append({outcome.calls[0].value for outcome in pool.map([job] * 12)})
    assert seen[0].isdisjoint(seen[1])
    assert all(FIRST <= uid < FIRST + COUNT for uids in seen for uid in uids)
