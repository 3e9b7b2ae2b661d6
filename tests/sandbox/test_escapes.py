"""Walls against what the host really has: its files, environment, servers and descriptors.

The attacks themselves are in `attacks/`; here each test makes something on the host to look for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.sandbox.messages import outcome_of
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.worker import Run

Call = Callable[..., Outcome]
Descendants = Callable[[int], set[int]]
_CTYPES = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture(autouse=True)
def _the_next_job_is_well(call: Call) -> Iterator[None]:
    yield
    outcome = call("import os", "os.listdir('.')", "sum([1, 2])")
    assert [result.value for result in outcome.calls] == [[], 3], outcome


def _errors(outcome: Outcome) -> list[str]:
    assert outcome.status == "ok", outcome
    return [result.error for result in outcome.calls]


def test_no_files_of_the_host(call: Call, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    here = Path(__file__).resolve()
    outcome = call(
        "import os",
        *(
            f"open({str(path)!r}).read()"
            for path in (secret, here, "/etc/passwd", "/proc/1/environ")
        ),
        "os.listdir('/proc')",
        "os.listdir('/root')",
    )
    assert set(_errors(outcome)) <= {"FileNotFoundError", "PermissionError"}


def test_no_environment_of_the_host(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2")
    with ProcessPool(1) as fresh:
        code, expression = "import os", "sorted(os.environ)"
        for outcome in (call(code, expression), *fresh.map([CallJob(code, (expression,))])):
            names = outcome.calls[0].value
            assert "API_TOKEN" not in names
            assert not {"USER", "PWD", "VIRTUAL_ENV"} & set(names)


def test_signals_that_the_trainer_ignores_or_blocks_are_as_new_for_jobs() -> None:
    code = """
    import os, signal
    ignored = [int(s) for s in signal.Signals if signal.getsignal(s) == signal.SIG_IGN]
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    job = CallJob(textwrap.dedent(code), ("ignored", "blocked", "os.kill(os.getpid(), 3)"))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGXCPU, signal.SIGPROF})
    handlers = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGQUIT, signal.SIGHUP)}
    try:
        with ProcessPool(1) as pool:
            looked = next(pool.map([replace(job, calls=job.calls[:2])]))
            quit_ = next(pool.map([job]))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert [result.value for result in looked.calls] == [[signal.SIGPIPE, signal.SIGXFSZ], []]
    assert (quit_.status, quit_.signal) == ("crash", signal.SIGQUIT)


def test_no_network(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = call(
            "import socket, urllib.request",
            f"socket.create_connection(('127.0.0.1', {port}), timeout=1)",
            "socket.socket(socket.AF_UNIX)",
            "socket.socketpair()",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "urllib.request.urlopen('http://192.0.2.1', timeout=1)",
        )
    assert set(_errors(outcome)) == {"PermissionError", "URLError"}


@pytest.mark.parametrize("processes", [0, 3])
def test_no_privileged_system_calls(call: Call, processes: int) -> None:
    machine = os.uname().machine
    numbers = {
        "x86_64": {
            "ptrace": 101, "process_vm_readv": 310, "unshare": 272, "setns": 308, "mount": 165,
            "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "bpf": 321, "userfaultfd": 323,
            "perf_event_open": 298, "pivot_root": 155, "chroot": 161, "personality": 135,
            "setuid": 105, "open_by_handle_at": 304, "init_module": 175, "execveat": 322,
            "seccomp": 317, "prctl": 157, "landlock_create_ruleset": 444, "socket": 41,
        },
        "aarch64": {"ptrace": 117, "unshare": 97, "mount": 40, "bpf": 280, "socket": 198},
    }[machine]  # fmt: skip
    code = _CTYPES + textwrap.dedent("""
    def errno(number):
        ctypes.set_errno(0)
        result = libc.syscall(number, 0, 0, 0, 0, 0)
        return ctypes.get_errno() if result < 0 else -result
    """)
    outcome = call(code, *(f"errno({n})" for n in numbers.values()), processes=processes)
    got = dict(zip(numbers, (result.value for result in outcome.calls), strict=True))
    assert got == dict.fromkeys(numbers, 1)


def test_limits_cannot_be_raised(call: Call) -> None:
    code = """
    import resource
    def errno(call, *arguments):
        try: call(*arguments)
        except (OSError, ValueError) as error: return str(error)
    """
    outcome = call(
        textwrap.dedent(code),
        "errno(resource.setrlimit, resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "errno(resource.setrlimit, resource.RLIMIT_CPU, (1, 1))",
        "errno(resource.prlimit, 0, resource.RLIMIT_NPROC, (1000, 1000))",
        "resource.getrlimit(resource.RLIMIT_CORE)",
        "resource.getrlimit(resource.RLIMIT_CPU)",
        "resource.getrlimit(resource.RLIMIT_NPROC)",
        cpu_s=7,
    )
    results = [result.value for result in outcome.calls]
    assert all(results[:3]), results
    assert results[3:] == [(0, 0), (7, 8), (18, 18)]


def test_descriptors_of_others_are_not_inherited(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.set_inheritable(server.fileno(), True)
        code = """
        import os
        def opened():
            found = []
            for fd in range(1024):
                try: os.fstat(fd); found.append(fd)
                except OSError: pass
            return found
        """
        with ProcessPool(1) as fresh:
            limits = Limits(wall_s=20)
            outcome = next(
                fresh.map([CallJob(textwrap.dedent(code), ("opened()",), limits=limits)])
            )
    assert outcome.calls[0].value == [0, 1, 2, 201]


@pytest.mark.parametrize("status", ["infra_error", "crash", "timeout", "malformed"])
def test_a_job_cannot_claim_what_only_the_parent_sees(status: str) -> None:
    token = b"t" * 16
    data = codec.encode(["end", status, "x"], 1000)
    frame = token + len(data).to_bytes(4, "little") + data
    run = Run(0, False, False, "", 0.1, 0.1, 1, 4.0, token, frame, b"", b"")
    outcome, messages, last = outcome_of(run, "full")
    assert (outcome.status, messages, last) == ("malformed", [], [])


def test_two_pools_do_not_share_their_threads() -> None:
    code = """
    import threading, time
    def f(n, seconds):
        threads = [threading.Thread(target=time.sleep, args=(seconds,)) for _ in range(n)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        return n
    """
    limits = Limits(wall_s=30)

    async def both(first: ProcessPool, second: ProcessPool) -> tuple[Outcome, Outcome]:
        jobs = [CallJob(textwrap.dedent(code), (f"f(15, {s})",), limits=limits) for s in (1, 0.5)]
        return await asyncio.gather(first.submit(jobs[0]), second.submit(jobs[1]))

    with ProcessPool(1) as first, ProcessPool(1) as second:
        for pool in (first, second):
            list(pool.map([CallJob("", ())]))
        outcomes = asyncio.run(both(first, second))
    assert [outcome.calls[0].value for outcome in outcomes] == [15, 15]


def test_a_job_has_no_field_for_expected_answers() -> None:
    assert set(CallJob.__dataclass_fields__) == {"code", "calls", "repeat", "stdin", "limits"}


def test_deadline_overrun_is_bounded(call: Call) -> None:
    start = time.monotonic()
    outcome = call("while True: pass", wall_s=0.2)
    assert outcome.status == "timeout"
    assert 0.2 <= outcome.seconds <= time.monotonic() - start
