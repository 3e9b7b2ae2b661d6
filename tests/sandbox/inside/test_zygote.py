"""What the server of jobs does between them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.sandbox.api import CallJob, Limits, Outcome, TestsJob
from astor_rl.sandbox.inside.protocol import UNWATCHED_S
from astor_rl.sandbox.pool import ProcessPool

Call = Callable[..., Outcome]


def _value(outcome: Outcome) -> object:
    assert outcome.status == "ok", outcome
    return outcome.calls[0].value


_LOOK = CallJob("", ("id(object())", "id([])"))
_BETWEEN = {
    "other limits": CallJob("", ("1",), limits=Limits(memory_mb=300, wall_s=30)),
    "runs longer": CallJob(f"import time; time.sleep({2 * UNWATCHED_S})", ("1",)),
    "killed": CallJob("while True: pass", ("1",), limits=Limits(wall_s=2 * UNWATCHED_S)),
    "killed soon": CallJob("while True: pass", ("1",), limits=Limits(wall_s=UNWATCHED_S / 2)),
    "fails": CallJob("import os; os._exit(3)", ("1",)),
    "prints": CallJob("print('x' * 10**6)", ("1",)),
    "leaves files": CallJob("import os; os.makedirs('a/b'); open('a/b/c', 'w').write('x')", ("1",)),
}


def test_a_job_leaves_no_trace_in_the_addresses_of_the_next() -> None:
    jobs = [job for between in _BETWEEN.values() for job in (_LOOK, between, _LOOK)]
    with ProcessPool(1) as pool:
        outcomes = list(pool.map(jobs))
    assert {outcome.status for outcome in outcomes[::3]} == {"ok"}
    for number, name in enumerate(_BETWEEN):
        assert outcomes[3 * number + 2].calls == outcomes[0].calls, name


@pytest.mark.parametrize("left", ["import os; os.chmod('.', 0)", "import os; os.chmod('.', 0o500)"])
def test_an_empty_scratch_directory_is_usable_again(left: str) -> None:
    write = "open('f', 'w').write('x')"
    with ProcessPool(1) as pool:
        outcomes = list(pool.map([CallJob(left, ("1",)), CallJob("", (write, "open('f').read()"))]))
    assert outcomes[0].status == "ok"
    assert [result.value for result in outcomes[1].calls] == [1, "x"]


def test_a_job_starts_with_python_as_it_is_after_a_fork(call: Call) -> None:
    code = """
import os, random, threading
def f():
    found = []
    threads = [threading.Thread(target=found.append, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    main = threading.current_thread() is threading.main_thread()
    return sorted(found), main, threading.active_count(), random.random(), os.getpid() > 1
"""
    found = _value(call(code, "f()"))
    assert found == _value(call(code, "f()"))
    assert isinstance(found, tuple)
    assert found[:3] == ([0, 1, 2], True, 1)
    assert found[4] is True


def test_a_job_may_fork_after_it_was_forked(call: Call) -> None:
    code = """
import os, threading
def f():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(threading.current_thread() is threading.main_thread()).encode())
        os._exit(0)
    os.wait()
    return os.read(read, 9)
"""
    assert _value(call(code, "f()", processes=1)) == b"True"


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 16, (1 << 16) + 1, 200_000])
def test_results_and_jobs_of_any_size_arrive_whole(call: Call, size: int) -> None:
    outcome = call(f"text = {'x' * size!r}\nprint(text)", "len(text)", "text")
    assert [result.value for result in outcome.calls] == [size, "x" * size]
    assert outcome.stdout == "x" * size + "\n"


def test_flags_of_an_empty_standard_input_are_not_shared() -> None:
    look = "fcntl.fcntl(0, fcntl.F_GETFL)"
    code = "import fcntl, os, sys"
    change = f"fcntl.fcntl(0, fcntl.F_SETFL, {look} | os.O_NONBLOCK | os.O_APPEND)"
    job = CallJob(code, (look, "sys.stdin.read()", change, look))
    with ProcessPool(1) as pool:
        outcomes = list(pool.map([job, job]))
    first, second = ([result.value for result in outcome.calls] for outcome in outcomes)
    assert first == second
    assert first[1] == ""
    assert first[3] != first[0], "the change took effect, in the job that made it"


def test_an_empty_standard_input_stores_nothing(call: Call) -> None:
    found = _value(
        call(
            """
import os
def f():
    refused = []
    for act in (lambda: os.write(0, b"x"), lambda: os.ftruncate(0, 99), lambda: os.lseek(0, 5, 0)):
        try:
            act()
        except OSError as error:
            refused.append(error.errno)
    return refused, os.read(0, 9), os.fstat(0).st_size
""",
            "f()",
        )
    )
    assert found == ([errno.EBADF, errno.EINVAL, errno.ESPIPE], b"", 0)


def test_patched_builtins_are_those_of_one_job() -> None:
    patch = "import builtins\nbuiltins.len = lambda x: 7\nbuiltins.mine = 1"
    look = ("len('ab')", "hasattr(__import__('builtins'), 'mine')")
    with ProcessPool(1) as pool:
        outcomes = list(pool.map([CallJob(patch, look), CallJob("", look)]))
    assert [[result.value for result in outcome.calls] for outcome in outcomes] == [
        [7, True],
        [2, False],
    ]


def test_packages_that_are_preloaded_hear_of_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os\nheard = []\nos.register_at_fork(after_in_child=lambda: heard.append(1))\n"
    tmp_path.chmod(0o755)  # jobs have another user
    (tmp_path / "listening.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with ProcessPool(1, preload=("listening",)) as pool:
        (outcome,) = pool.map([CallJob("import listening", ("listening.heard",))])
    assert _value(outcome) == [1]


def test_packages_that_are_preloaded_hear_of_a_jobs_own_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os\nheard = []\nos.register_at_fork(after_in_child=lambda: heard.append(1))\n"
    tmp_path.chmod(0o755)  # jobs have another user
    (tmp_path / "hearing.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "import hearing\ndef times(): return len(hearing.heard)\n"
    tests = (
        "import hearing\nfrom served import times\n"
        "def test_code(): assert times() == 2\n"  # the zygote's fork, and the job's
        "def test_tests(): assert len(hearing.heard) == 3\n"
    )
    with ProcessPool(1, preload=("hearing",)) as pool:
        (outcome,) = pool.map([TestsJob("served", (code,), tests)])
    assert (outcome.status, outcome.targets[0].failed) == ("ok", ()), outcome
