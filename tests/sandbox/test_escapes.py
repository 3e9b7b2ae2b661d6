"""Attacks on the walls, run for real: each must fail, and the next job must be well."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
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
        for pool_call in (call, lambda *a: next(fresh.map([CallJob(a[0], a[1:])]))):
            names = pool_call("import os", "sorted(os.environ)").calls[0].value
            assert "API_TOKEN" not in names
            assert not {"USER", "PWD", "VIRTUAL_ENV"} & set(names)


def test_nothing_writable_but_the_scratch_directory(call: Call) -> None:
    code = """
    import os, sys
    def can(path):
        try:
            with open(os.path.join(path, "x"), "w"): pass
            return True
        except OSError:
            return False
    import json
    places = ["/", "/usr/lib", "/lib", "/dev", os.path.dirname(json.__file__), *sys.path]
    """
    outcome = call(textwrap.dedent(code), "[p for p in places if can(p)]", "can('.')")
    assert [result.value for result in outcome.calls] == [[], True]


def test_scratch_is_not_executable(call: Call) -> None:
    code = _CTYPES + "import mmap\nopen('x', 'wb').write(b'\\x90' * 4096)\nf = open('x', 'rb')"
    outcome = call(
        code,
        "mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)",
        "os.chmod('x', 0o700), os.execv('x', ['x'])",
        "os.execv('/usr/lib/x', ['x'])",
    )
    assert _errors(outcome) == ["PermissionError"] * 3


def test_no_program_can_be_started(call: Call) -> None:
    spawn = "os.posix_spawn('/bin/true', ['true'], {})"
    assert _errors(call("import os", spawn)) == ["BlockingIOError"]  # no process to be had
    outcome = call("import os", f"os.waitpid({spawn}, 0)[1]", processes=3)
    assert outcome.calls[0].error == "PermissionError"


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


def test_no_signals_outward(call: Call) -> None:
    outcome = call(
        "import os, signal",
        "os.kill(-1, 9)",
        "os.kill(os.getppid(), 9)",
        "os.kill(0, 9)",
        "os.killpg(0, 9)",
        f"os.kill({os.getpid()}, 9)",
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    )
    assert set(_errors(outcome)) == {"PermissionError"}


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


def test_no_new_namespace_through_clone(call: Call) -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    code = _CTYPES + f"r = libc.syscall({number}, 0x10000000 | 17, 0, 0, 0, 0)\n"
    outcome = call(code, "r, ctypes.get_errno()", processes=3)
    assert outcome.calls[0].value == (-1, 1)


def test_foreign_architectures_are_killed(call: Call) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 calls exist on x86_64 only")
    outcome = call(_CTYPES + "libc.syscall(0x40000000 + 39)", "1")
    assert (outcome.status, outcome.signal) == ("crash", 31)


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


def test_alarms_and_cpu_signals_ignored(call: Call) -> None:
    code = "import signal\nfor s in set(signal.Signals) - {9, 19}:\n"
    code += "    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    code += "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"
    assert call(code, wall_s=0.5).status == "timeout"
    outcome = call(code, cpu_s=1, wall_s=30)
    assert (outcome.status, outcome.message) == ("timeout", "CPU deadline")


def test_a_fork_bomb_is_refused_by_default(call: Call) -> None:
    assert _errors(call("import os", "os.fork()")) == ["BlockingIOError"]


def test_a_fork_bomb_within_its_processes_dies_at_the_deadline(
    call: Call, descendants: Descendants
) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    before = descendants(os.getpid())
    assert call(code, wall_s=0.7, processes=5).status == "timeout"
    assert descendants(os.getpid()) <= before


def test_daemons_die_with_their_job(call: Call, descendants: Descendants) -> None:
    code = """
    import os, signal, time
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            while True:
                try: open("late", "w").write("x")
                except OSError: pass
        os._exit(0)
    os.wait()
    time.sleep(0.1)
    """
    before = descendants(os.getpid())
    # The daemon holds the result pipe open: the job ends all the same.
    outcome = call(textwrap.dedent(code), "5", processes=4)
    assert outcome.calls[0].value == 5
    assert descendants(os.getpid()) <= before


def test_a_full_disk_and_many_files(call: Call) -> None:
    code = """
    import os
    written = 0
    def fill():
        global written
        try:
            for i in range(100000):
                with open(f"f{i}", "wb") as f: written += f.write(b"x" * (1 << 20))
        except OSError as error: return error.strerror
    def many():
        try:
            for i in range(100000): open(f"g{i}", "w").close()
        except OSError as error: return error.strerror
    """
    outcome = call(textwrap.dedent(code), "fill()", "written <= 64 << 20", "many()", wall_s=60)
    assert [r.value for r in outcome.calls] == [
        "No space left on device", True, "No space left on device",
    ]  # fmt: skip


def test_one_large_file(call: Call) -> None:
    outcome = call("f = open('f', 'wb')", "f.write(b'x' * (3 << 20)), f.flush()", file_mb=2)
    assert outcome.calls[0].error == "OSError"


def test_what_cannot_be_deleted_easily_is_deleted(call: Call) -> None:
    code = """
    import os
    for i in range(200):
        os.mkdir("d"); open("d/f", "w").close(); os.symlink("/", "d/l")
        os.chdir("d")
    os.chdir("/box")
    os.chmod("d/d/d", 0)
    os.chmod("d", 0o500)
    os.chmod(".", 0o500)
    """
    assert call(textwrap.dedent(code), "1").status == "ok"


def test_writing_to_every_descriptor(call: Call) -> None:
    code = """
    import os
    def spray():
        for fd in range(3, 1024):
            try: os.write(fd, b"I passed")
            except OSError: pass
    """
    assert call(textwrap.dedent(code), "spray()").status == "malformed"
    leave = textwrap.dedent(code) + "spray(); os._exit(0)"
    assert call(leave, "1").status == "malformed"


def test_replayed_honest_bytes_are_malformed(call: Call) -> None:
    """The frame of another run has another run's token."""
    token = secrets.token_bytes(16)
    frame = token + (1).to_bytes(4, "little") + b"N"
    code = f"""
    import os
    for fd in range(3, 300):
        try: os.write(fd, {frame!r})
        except OSError: pass
    os._exit(0)
    """
    assert call(textwrap.dedent(code), "1").status == "malformed"


def test_printing_fake_results_is_only_printing(call: Call) -> None:
    code = 'print(\'["end", "ok", "", [["value", 1]]]\')\nprint(\'PASSED\')'
    outcome = call(code, "2")
    assert [r.value for r in outcome.calls] == [2]
    assert "PASSED" in outcome.stdout


def test_closing_every_descriptor_loses_only_the_job(call: Call) -> None:
    outcome = call("import os\nos.closerange(0, 4096)", "1")
    assert outcome.status == "crash"


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


# What a frame walk finds: every variable of every frame below, and what these lead to in one step.
_WALK = """
import sys
def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
def held():
    for frame in frames():
        for value in list(frame.f_locals.values()):
            yield value
            for cell in getattr(value, "__closure__", None) or (): yield cell.cell_contents
            if isinstance(value, dict): yield from value.values()
            if isinstance(value, (list, tuple)): yield from value
            if hasattr(value, "__reduce_ex__") and not isinstance(value, type):
                try: yield value.__reduce_ex__(2)
                except Exception: pass
            yield from getattr(value, "__dict__", {}).values()
"""


def test_the_token_is_in_no_frame(call: Call) -> None:
    code = _WALK + "import gc\ndef tokens(values):\n"
    code += "    return [v for v in values if type(v) is bytes and len(v) == 16]\n"
    code += "def names(): return sorted({n for f in frames() for n in f.f_locals})\n"
    outcome = call(
        code,
        "tokens(held())",
        "'token' in names() or 'send' in names()",
        "[o for o in gc.get_objects() if getattr(o, '__name__', '') == 'send']",
    )
    assert [result.value for result in outcome.calls] == [[], False, []], outcome


@pytest.mark.parametrize("status", ["infra_error", "crash", "timeout", "malformed"])
def test_a_job_cannot_claim_what_only_the_parent_sees(status: str) -> None:
    token = b"t" * 16
    data = codec.encode(["end", status, "x"], 1000)
    frame = token + len(data).to_bytes(4, "little") + data
    run = Run(0, False, False, "", 0.1, 0.1, 1, 4.0, token, frame, b"", b"")
    outcome, messages, last = outcome_of(run, "full")
    assert (outcome.status, messages, last) == ("malformed", [], [])


def test_nothing_installed_on_the_host_can_be_imported(call: Call) -> None:
    code = """
    import glob, os
    def found():
        folders = [f for kind in ("dist", "site") for base in
                   ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", os.__file__[:-6])
                   for f in glob.glob(f"{base}/python*/{kind}-packages")
                   + glob.glob(f"{base}/{kind}-packages")]
        return [os.path.join(f, n) for f in folders for n in os.listdir(f)]
    """
    assert call(textwrap.dedent(code), "found()").calls[0].value == []


def test_no_files_in_memory_beside_the_limit(call: Call) -> None:
    outcome = call(
        "import os",
        "os.memfd_create('x')",
        "os.write(0, b'x' * 100)",
        "os.truncate(0, 1 << 20)",
        "os.read(0, 100)",
        stdin="given",
    )
    assert _errors(outcome) == ["PermissionError"] * 3 + [""]
    assert outcome.calls[3].value == b"given"


def test_the_command_line_is_empty(call: Call) -> None:
    outcome = call("import sys", "sys.argv", "sys.orig_argv")
    assert [result.value for result in outcome.calls] == [[""], []]


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
