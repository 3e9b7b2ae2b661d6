"""fork(2) and wait4(2) as the zygote does them, in interpreters of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import astor_rl

_PACKAGE = Path(astor_rl.__file__).parent
_START = """
import sys, types
package = types.ModuleType("astor_rl")
package.__path__ = [sys.argv[1]]
sys.modules["astor_rl"] = package
import os, random, threading, time
from astor_rl.sandbox.inside import kernel
told = []
os.register_at_fork(after_in_child=lambda: told.append(1))
"""


def _said(script: str) -> str:
    """What a program prints that begins as a zygote does."""
    command = [sys.executable, "-P", "-s", "-S", "-B", "-c", _START + textwrap.dedent(script)]
    done = subprocess.run(
        [*command, str(_PACKAGE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_python_is_told_of_forks_where_it_matters() -> None:
    found = _said("""
    def ask(**options):
        pid = kernel.fork(**options)
        if pid == 0:
            os._exit(10 + len(told))
        return os.waitstatus_to_exitcode(kernel.wait(pid)[0]) - 10
    alone = ask()
    asked = ask(hooks=True)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    accompanied = ask()
    stop.set()
    thread.join()
    print(alone, asked, accompanied, ask())
    """)
    skips = sys.version_info < (3, 14)
    assert found == ("0 1 1 0\n" if skips else "1 1 1 1\n")


def test_everything_works_after_a_fork_that_python_was_not_told_of() -> None:
    found = _said("""
    import asyncio, concurrent.futures, importlib, logging, queue, signal
    def work():
        inner = os.fork()
        if inner == 0:
            os._exit(0 if told and threading.active_count() == 1 else 1)
        assert kernel.wait(inner)[0] == 0
        with concurrent.futures.ThreadPoolExecutor(3) as executor:
            squares = list(executor.map(lambda n: n * n, range(4)))
        caught = []
        signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not caught:
            time.sleep(0.01)
        importlib.import_module("fractions")
        logging.getLogger("x").debug("locks")
        async def later():
            await asyncio.sleep(0)
            return await asyncio.get_running_loop().run_in_executor(None, os.getpid)
        assert asyncio.run(later()) == os.getpid()
        assert threading.current_thread() is threading.main_thread()
        assert threading.active_count() == 1
        return squares == [0, 1, 4, 9]
    for _ in range(20):
        pid = kernel.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if work() else 2
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        assert kernel.wait(pid)[0] == 0
    print("done")
    """)
    assert found == "done\n"


def test_what_a_child_used_is_what_the_kernel_says() -> None:
    found = _said("""
    pid = kernel.fork()
    if pid == 0:
        data = bytearray(60 << 20)
        while time.process_time() < 0.2:
            pass
        os.kill(os.getpid(), 9)
    status, seconds, peak_kb = kernel.wait(pid)
    print(status, 0.2 <= seconds < 20, 60 << 10 <= peak_kb < 200 << 10)
    try:
        kernel.wait(pid)
    except OSError as error:
        print(str(error) == f"process {pid} can't be waited for", kernel.reap())
    """)
    assert found == "9 True True\nTrue False\n"


def test_all_children_are_reaped() -> None:
    found = _said("""
    for _ in range(3):
        if kernel.fork() == 0:
            os._exit(0)
    print([kernel.reap() for _ in range(4)])
    """)
    assert found == "[True, True, True, False]\n"
