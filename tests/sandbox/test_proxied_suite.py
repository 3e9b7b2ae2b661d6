"""`SuiteJob` in two processes: its modules and files, its threads, its say, its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from astor_rl.sandbox.api import Outcome

Suite = Callable[..., Outcome]


def test_modules(check: Suite) -> None:
    check(
        """
        count = 0
        _hidden = 5
        def up():
            global count
            count += 1
        def ask(): return input("name? ")
        """,
        """
        import sol
        import sol as other
        from sol import *
        def test_state():
            before = sol.count
            up()
            assert (sol.count, count, other.count) == (before + 1, 0, before + 1)
            assert "_hidden" not in globals() and sol._hidden == 5 and "up" in dir(sol)
        def test_patched(monkeypatch):
            monkeypatch.setattr(sol, "input", lambda text: text + "me", raising=False)
            assert sol.ask() == "name? me"
        def test_restored():
            assert not hasattr(sol, "input")
        """,
    )


@pytest.mark.parametrize("name", ["queue", "calendar", "statistics", "json"])
def test_a_solution_may_be_called_like_a_module_of_the_library(suite: Suite, name: str) -> None:
    outcome = suite(
        "",
        f"import {name}\ndef test(): assert {name}.mine() == 7",
        more={f"{name}.py": "def mine(): return 7"},
    )
    assert outcome.targets[0].passed == ("test",), outcome


def test_support_files_are_of_both_sides(check: Suite) -> None:
    support = {"data.py": "WORDS = ['a', 'b']\n", "more.txt": "7"}
    check(
        "import data\ndef words(): data.WORDS = ['x']; return len(open('more.txt').read())",
        "import sol, data\ndef test(): assert sol.words() == 1 and data.WORDS == ['a', 'b']",
        support=support,
    )


def test_one_solution_serves_all_threads_of_the_tests(check: Suite) -> None:
    check(
        """
        class Account:
            def __init__(self): self.balance = 0
            def deposit(self, amount): self.balance += amount
        """,
        """
        import threading
        from sol import Account
        def test_threads():
            account = Account()
            def work():
                for _ in range(20): account.deposit(1)
            threads = [threading.Thread(target=work) for _ in range(5)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert account.balance == 100
        """,
    )


def test_which_methods_had_a_say_is_told(check: Suite, suite: Suite) -> None:
    solution = """
    class N:
        def __init__(self, n): self.n = n
        def __eq__(self, other): return self.n == getattr(other, "n", other)
        def __lt__(self, other): return self.n < getattr(other, "n", other)
        def __add__(self, other): return N(self.n + other)
        def __contains__(self, n): return n == self.n
    """
    tests = """
    from sol import N
    def test_equal(): assert N(1) == N(1)
    def test_less(): assert N(1) < 2 and N(1) + 1 == N(2)
    """
    result = check(solution, tests).targets[0]
    assert result.judged == ("__add__", "__eq__", "__lt__")
    again = suite(solution, tests, judging=("__eq__",)).targets[0]
    assert (again.passed, again.failed) == (("test_equal",), ("test_less",))
    assert "'<' not supported" in again.message


def test_waiting_for_a_busy_solution_is_no_sleep(check: Suite) -> None:
    busy = """
    import time
    def work():
        end = time.process_time() + 3
        while time.process_time() < end: pass
        return 1
    """
    check(busy, "import sol\ndef test(): assert sol.work() == 1")


def test_a_solution_that_sleeps_is_ended(suite: Suite) -> None:
    outcome = suite("import time\ndef f(): time.sleep(300)", "import sol\ndef test(): sol.f()")
    assert (outcome.status, outcome.message) == ("timeout", "did nothing but sleep")


def test_what_it_costs_counts_both_processes(check: Suite) -> None:
    solution = "def f():\n    data = bytearray(60 << 20)\n    return len(data) >> 20"
    outcome = check(solution, "import sol\ndef test(): assert sol.f() == 60")
    assert outcome.peak_memory_mb > 60
