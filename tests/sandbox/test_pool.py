"""The pool: exact statuses, nothing left behind, many callers, kills."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.errors import DependencyError, SandboxError
from astor_rl.sandbox.api import CallJob, Limits, Opaque, Outcome, TestsJob
from astor_rl.sandbox.pool import ProcessPool

Call = Callable[..., Outcome]
Descendants = Callable[[int], set[int]]


def _values(outcome: Outcome) -> list[object]:
    assert outcome.status == "ok", outcome
    return [result.value for result in outcome.calls]


def test_values_come_back_one_by_one(call: Call) -> None:
    outcome = call("def f(x):\n    return [x, {1: (x,)}]", "f(1)", "f(", "1 / 0", "f('a')")
    kinds = [(r.kind, r.value, r.error) for r in outcome.calls]
    assert kinds == [
        ("value", [1, {1: (1,)}], ""),
        ("raised", None, "SyntaxError"),
        ("raised", None, "ZeroDivisionError"),
        ("value", ["a", {1: ("a",)}], ""),
    ]
    assert outcome.tier == "full"
    assert outcome.seconds > 0
    assert outcome.peak_memory_mb > 1


def test_generators_are_opaque_unless_listed(call: Call) -> None:
    code = "def g():\n    yield 1\n    yield 2"
    first, second, third = _values(call(code, "g()", "list(g())", "iter([1])"))
    assert isinstance(first, Opaque)
    assert first.type_name == "generator"
    assert second == [1, 2]
    assert isinstance(third, Opaque)


def test_stdin_stdout_stderr(call: Call) -> None:
    code = "import sys\nprint(input(), end='')\nprint('é', file=sys.stderr)"
    outcome = call(code, "input()", stdin="first\nsecond\n")
    assert (outcome.stdout, outcome.stderr) == ("first", "é\n")
    assert _values(outcome) == ["second"]
    assert call("input()").message == "EOFError: EOF when reading a line"


def test_a_large_stdin_and_source_pass(call: Call) -> None:
    outcome = call("import sys\nX = '" + "y" * 300_000 + "'", "len(X), len(sys.stdin.read())",
                   stdin="z" * 300_000)  # fmt: skip
    assert _values(outcome) == [(300_000, 300_000)]


@pytest.mark.parametrize(
    ("code", "limits", "status", "message"),
    [
        ("while True: pass", {"wall_s": 0.3}, "timeout", "wall-clock deadline"),
        ("while True: pass", {"cpu_s": 1}, "timeout", "CPU deadline"),
        ("import time; time.sleep(60)", {"wall_s": 0.3}, "timeout", "wall-clock deadline"),
        ("x = 10 ** 10 ** 10", {"wall_s": 0.3}, "timeout", "wall-clock deadline"),
        ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", {"wall_s": 0.3}, "timeout", "wall"),
        ("x = [0] * 10 ** 10", {}, "memory", "MemoryError while loading"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", {}, "memory", "MemoryError"),
        ("def f(:", {}, "error", "SyntaxError"),
        ("\0", {}, "error", "SyntaxError"),
        ("x = " + "-" * 100_000 + "1", {}, "error", "SyntaxError"),
        ("raise ValueError('a\\nb')", {}, "error", "ValueError: a b"),
        ("import sys; sys.exit(0)", {}, "error", "SystemExit: 0"),
        ("raise KeyboardInterrupt", {}, "error", "KeyboardInterrupt"),
        ("import no_such", {}, "error", "ModuleNotFoundError: No module named 'no_such'"),
        ("def f(): return f()\nf()", {}, "error", "RecursionError"),
        ("import os; os._exit(0)", {}, "crash", "exited early with code 0"),
        ("import os; os._exit(3)", {}, "crash", "exited early with code 3"),
        ("import os; os.abort()", {}, "crash", "killed by signal 6"),
        ("import os; os.kill(os.getpid(), 9)", {}, "crash", "killed by signal 9"),
        ("import ctypes; ctypes.string_at(0)", {}, "crash", "killed by signal 11"),
        ("while True: print('x' * 1000)", {}, "output_limit", "output above the limit"),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", {}, "output_limit", "output above"),
    ],
)  # fmt: skip
def test_status(call: Call, code: str, limits: dict[str, float], status: str, message: str) -> None:
    outcome = call(code, "1", **limits)
    assert outcome.status == status, outcome
    assert message in outcome.message
    assert "\n" not in outcome.message
    assert outcome.calls == ()


def test_a_job_that_only_sleeps_is_ended_early(call: Call) -> None:
    code = "import time, threading\nthreading.Thread(target=time.sleep, args=(500,)).start()\n"
    outcome = call(code + "while True: time.sleep(1)", "1", wall_s=500)
    assert (outcome.status, outcome.message) == ("timeout", "did nothing but sleep")
    # What works now and then, or waits for another process, is not asleep.
    spin = "import time\ndef f():\n    for _ in range(3):\n        time.sleep(1)\n"
    spin += (
        "        end = time.process_time() + 0.15\n        while time.process_time() < end: pass\n"
    )
    assert call(spin + "    return 1", "f()", wall_s=60).calls[0].value == 1
    wait = (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        time.sleep(2.6); os._exit(0)\n"
    )
    assert call(wait + "    return os.wait()[1]", "f()", wall_s=60, processes=1).calls[0].value == 0


def test_runaway_c_recursion_is_a_crash_or_an_error_but_never_ok(call: Call) -> None:
    code = """
    import sys
    sys.setrecursionlimit(10 ** 9)
    class A:
        def __repr__(self): return repr(self)
    repr(A())
    """
    assert call(textwrap.dedent(code), "1").status in ("crash", "memory", "error")


def test_memory_in_a_call_and_exit_in_a_call(call: Call) -> None:
    assert call("", "[0] * 10 ** 10").status == "memory"
    outcome = call("import sys", "sys.exit(0)", "7")
    assert [(r.kind, r.error, r.value) for r in outcome.calls] == [
        ("raised", "SystemExit", None),
        ("value", "", 7),
    ]
    assert call("import os", "1", "os._exit(0)").status == "crash"


def test_results_above_the_limit(call: Call) -> None:
    assert call("", "'x' * 300_000").status == "output_limit"
    assert call("", *["'x' * 100_000"] * 3).status == "output_limit"
    assert call("", "'x' * 300_000", output_kb=400).status == "ok"


def test_memory_limit_is_above_the_idle_interpreter(call: Call) -> None:
    assert call("x = bytearray(20 << 20)", "len(x)", memory_mb=40).status == "ok"
    assert call("x = bytearray(60 << 20)", "len(x)", memory_mb=40).status == "memory"


def test_hostile_values(call: Call) -> None:
    code = """
    class Liar(int):
        def __eq__(self, other): return True
        def __hash__(self): return 1
    class Rude:
        def __repr__(self): raise SystemExit
        def __eq__(self, other): return True
    class Endless:
        def __getattr__(self, name): return self
        def __repr__(self): return self
    deep = []
    for _ in range(100_000): deep = [deep]
    """
    outcome = call(
        textwrap.dedent(code), "Liar(3)", "Endless()", "[deep]", "{1: Liar(2)}", "Rude()"
    )
    assert outcome.status == "ok", outcome
    liar, endless, nested, inner = (result.value for result in outcome.calls[:4])
    for value, name in ((liar, "Liar"), (endless, "Endless"), (nested, "list")):
        assert isinstance(value, Opaque)
        assert value.type_name == name
        assert value != 3
    assert isinstance(inner[1], Opaque)
    # Its __repr__ exits: that is the evaluation's own end, not the harness's.
    assert outcome.calls[4].error in ("", "SystemExit")


def test_exceptions_with_hostile_texts(call: Call) -> None:
    code = "class E(Exception):\n    def __str__(self): raise SystemExit\ndef f(): raise E"
    outcome = call(code, "f()")
    assert outcome.status == "ok"
    assert (outcome.calls[0].kind, outcome.calls[0].error) == ("raised", "E")


def test_patched_library_does_not_change_results(call: Call) -> None:
    code = """
    import builtins, json, os, struct, sys
    def bad(*a, **k): raise RuntimeError("patched")
    for name in ("len", "type", "isinstance", "repr", "sorted", "map", "sum", "eval", "compile"):
        setattr(builtins, name, bad)
    json.dumps = json.loads = os.write = os._exit = os.read = bad
    sys.stdout = sys.stderr = None
    sys.exit = bad
    """
    assert _values(call(textwrap.dedent(code), "[1, {2}]")) == [[1, {2}]]


def test_lowered_recursion_limit_does_not_change_results(call: Call) -> None:
    assert _values(call("import sys\nsys.setrecursionlimit(60)", "[[[[1]]]]")) == [[[[[1]]]]]


def test_repeat_shows_chance_and_time_but_not_hashes(call: Call) -> None:
    code = "import random, time, os"
    outcome = call(
        code, "random.random()", "os.urandom(8)", "time.time_ns()", "{'b', 'a'}",
        "str({'x', 'y', 'z'})", "1 / 0", "object()", repeat=2,
    )  # fmt: skip
    assert [r.kind for r in outcome.calls] == [
        "unstable", "unstable", "unstable", "value", "value", "raised", "value",
    ]  # fmt: skip
    assert call(code, "1", repeat=3).calls[0].value == 1


def test_runs_are_equal_across_processes_and_pools(call: Call) -> None:
    expressions = (
        "hash('a')", "random.random()", "time.tzname", "id(object())", "os.environ['LC_ALL']",
    )  # fmt: skip
    code = "import random, time, os"
    first = _values(call(code, *expressions))
    assert _values(call(code, *expressions)) == first
    with ProcessPool(1) as other:
        assert _values(next(other.map([CallJob(code, expressions)]))) == first
    assert first[2] == ("UTC", "UTC")


def test_code_is_a_real_module(call: Call) -> None:
    code = """
    import dataclasses, inspect, pickle
    @dataclasses.dataclass
    class P:
        x: int
    def f(): return 1
    """
    outcome = call(
        textwrap.dedent(code), "pickle.loads(pickle.dumps(P(3))).x", "inspect.getsource(f)",
        "__name__", "'astor_rl' in __import__('sys').modules",
    )  # fmt: skip
    assert _values(outcome) == [3, "def f(): return 1\n", "solution", False]


def test_threads_work_and_do_not_outlive_the_job(call: Call) -> None:
    code = """
    import threading, time
    from concurrent.futures import ThreadPoolExecutor
    def f():
        with ThreadPoolExecutor(4) as pool: return list(pool.map(abs, [-1, -2]))
    threading.Thread(target=lambda: time.sleep(1000)).start()
    """
    assert _values(call(textwrap.dedent(code), "f()")) == [[1, 2]]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_behind_after_300_jobs(descendants: Descendants) -> None:
    before = descendants(os.getpid())
    with ProcessPool(2) as pool:
        jobs = [CallJob("import os\nopen('f', 'w').write('x')", ("os.listdir('.')",))] * 300
        list(pool.map(jobs[:4]))
        descriptors, children = _descriptors(), descendants(os.getpid())
        assert all(_values(outcome) == [["f"]] for outcome in pool.map(jobs))
        gc.collect()
        assert _descriptors() == descriptors
        assert descendants(os.getpid()) == children
    assert descendants(os.getpid()) == before


def test_order_and_bounded_read_ahead() -> None:
    taken = []

    def jobs() -> object:
        for i in range(50):
            taken.append(i)
            yield CallJob("", (str(i),))

    with ProcessPool(2) as pool:
        results = pool.map(jobs())  # type: ignore[arg-type]
        assert _values(next(results)) == [0]
        assert len(taken) < 15
        assert [_values(outcome)[0] for outcome in results] == list(range(1, 50))


def test_threads_and_event_loops_share_a_pool(pool: ProcessPool) -> None:
    results: dict[int, list[object]] = {}

    async def many(base: int) -> list[Outcome]:
        return await asyncio.gather(
            *(pool.submit(CallJob("", (str(base + i),))) for i in range(10))
        )

    def worker(base: int) -> None:
        results[base] = [_values(outcome)[0] for outcome in asyncio.run(many(base))]

    threads = [threading.Thread(target=worker, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {100 * i: list(range(100 * i, 100 * i + 10)) for i in range(4)}


def test_a_cancelled_submission_does_not_disturb_others(pool: ProcessPool) -> None:
    async def scenario() -> Outcome:
        slow = asyncio.ensure_future(
            pool.submit(CallJob("import time; time.sleep(0.3)", (), limits=Limits(wall_s=5)))
        )
        await asyncio.sleep(0.05)
        slow.cancel()
        return await pool.submit(CallJob("", ("5",)))

    assert _values(asyncio.run(scenario())) == [5]


def test_close_ends_running_and_waiting_jobs(descendants: Descendants) -> None:
    pool = ProcessPool(1)
    before = descendants(os.getpid())
    endless = CallJob("while True: pass", (), limits=Limits(wall_s=600, cpu_s=600))

    async def scenario() -> list[Outcome | BaseException]:
        tasks = [asyncio.ensure_future(pool.submit(endless)) for _ in range(3)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(pool.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, SandboxError) for result in asyncio.run(scenario()))
    assert descendants(os.getpid()) <= before
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        next(pool.map([CallJob("", ())]))


def test_a_killed_zygote_is_replaced(descendants: Descendants) -> None:
    with ProcessPool(1) as pool:
        before = descendants(os.getpid())
        assert _values(next(pool.map([CallJob("", ("1",))]))) == [1]
        for pid in descendants(os.getpid()) - before:
            os.kill(pid, signal.SIGKILL)
        assert _values(next(pool.map([CallJob("", ("2",))]))) == [2]


def test_a_zygote_that_keeps_dying_is_an_infra_error(descendants: Descendants) -> None:
    before = descendants(os.getpid())
    done = threading.Event()

    def killer() -> None:
        while not done.wait(0.02):
            below = descendants(os.getpid()) - before
            # Not while it starts, without a job: that would be another error.
            for pid in below if len(below) > 2 else ():
                command = Path(f"/proc/{pid}/cmdline")
                try:
                    if b"astor_rl" in command.read_bytes():
                        os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue

    with ProcessPool(1) as pool:
        list(pool.map([CallJob("", ())]))
        thread = threading.Thread(target=killer)
        thread.start()
        endless = CallJob("while True: pass", (), limits=Limits(wall_s=600, cpu_s=600))
        try:
            assert next(pool.map([endless])).status == "infra_error"
        finally:
            done.set()
            thread.join()


def test_kill_9_of_the_trainer_ends_everything(tmp_path: Path, descendants: Descendants) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(
        textwrap.dedent("""
        import threading
        from astor_rl.sandbox.api import CallJob, Limits
        from astor_rl.sandbox.pool import ProcessPool
        pool = ProcessPool(2)
        limits = Limits(wall_s=600, cpu_s=600, processes=2)
        code = "import os\\nos.fork()\\nwhile True: pass"
        jobs = [CallJob("", ()), CallJob("", ()), CallJob(code, (), limits=limits)]
        results = pool.map(jobs)
        next(results), next(results)
        print("busy", flush=True)
        next(results)
        """)
    )
    trainer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"busy\n"
    deadline = time.monotonic() + 60
    below = descendants(trainer.pid)
    while len(below) < 6 and time.monotonic() < deadline:  # 2 launchers, 2 zygotes, the job's two
        time.sleep(0.05)
        below = descendants(trainer.pid)
    assert len(below) >= 6
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    while any(map(_alive, below)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in below if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_fork_of_the_trainer_does_not_close_the_pool(pool: ProcessPool) -> None:
    list(pool.map([CallJob("", ())]))
    pid = os.fork()
    if pid == 0:
        pool._finalizer()
        os._exit(0)
    os.waitpid(pid, 0)
    # The finalizer's own child-side call must not have reached the shared sockets.
    assert _values(next(pool.map([CallJob("", ("3",))]))) == [3]


def test_a_forgotten_pool_is_collected(descendants: Descendants) -> None:
    before = descendants(os.getpid())
    pool = ProcessPool(1)
    list(pool.map([CallJob("", ())]))
    del pool
    gc.collect()
    assert descendants(os.getpid()) == before


def test_bad_arguments_name_themselves() -> None:
    with pytest.raises(SandboxError, match="workers is 0; it must be at least 1"):
        ProcessPool(0)
    with pytest.raises(SandboxError, match="allow_missing names 'nets'; known: userns, mountns"):
        ProcessPool(1, allow_missing=("nets",))
    with pytest.raises(DependencyError, match="preloads 'no_such_thing', which isn't installed"):
        ProcessPool(1, preload=("no_such_thing",))


def test_preload_makes_installed_packages_importable() -> None:
    code = "import numpy"
    limits = Limits(wall_s=20, cpu_s=20)
    with ProcessPool(1, preload=("numpy",)) as pool:
        outcome = next(pool.map([CallJob(code, ("int(numpy.arange(4).sum())",), limits=limits)]))
        assert _values(outcome) == [6]
    with ProcessPool(1) as pool:
        assert next(pool.map([CallJob(code, (), limits=limits)])).status == "error"


def test_two_profiles_live_side_by_side(pool: ProcessPool) -> None:
    tests = TestsJob("m", ("x = 1",), "from m import x\ndef test_x(): assert x == 1")
    outcomes = list(pool.map([CallJob("", ("1",)), tests, CallJob("", ("2",)), tests]))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 4
    assert outcomes[3].targets[0].passed == ("test_x",)
