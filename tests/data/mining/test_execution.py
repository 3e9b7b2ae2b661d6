from __future__ import annotations

from astor_rl.data.mining.execution import Trial, _table, run_trials
from astor_rl.sandbox.api import CallResult, Outcome
from astor_rl.sandbox.pool import ProcessPool


def test_results_come_in_order(sandbox: ProcessPool) -> None:
    trials = [
        Trial((f"def f(x):\n    return x + {n}\n", "def f(x):\n    return x\n"), "f", ("1", "2"))
        for n in range(20)
    ]
    for n, table in enumerate(run_trials(trials, sandbox)):
        assert [[seen.text for seen in row] for row in table] == [
            [str(1 + n), str(2 + n)],
            ["1", "2"],
        ]


def test_what_differs_the_second_time_has_no_table(sandbox: ProcessPool) -> None:
    source = "import time\ndef f(x):\n    return time.perf_counter_ns()\n"
    steady = "def f(x):\n    return x\n"
    once, twice, fine = run_trials(
        [Trial((source,), "f", ("1",)), Trial((source,), "f", ("1",), repeat=2),
         Trial((steady,), "f", ("1",), repeat=2)],
        sandbox,
    )  # fmt: skip
    assert once[0][0].verdict == "value"
    assert twice == ()
    assert fine[0][0].text == "1"


def test_a_loop_outside_the_budget_ends_with_the_job(sandbox: ProcessPool) -> None:
    stuck = "import itertools\ndef f(x):\n    return sum(itertools.repeat(x))\n"
    quick = "def f(x):\n    return x\n"
    first, second = run_trials([Trial((s,), "f", ("1",)) for s in (stuck, quick)], sandbox)
    assert first == ()
    assert second[0][0].text == "1"


def test_what_comes_back_is_checked() -> None:
    """Mined code runs beside the observer and could answer in its place."""
    trial = Trial(("x",), "f", ("1",))
    good = [[("value", "1", False, 3)]]

    def outcome(value: object) -> Outcome:
        return Outcome("ok", calls=(CallResult("value", value),))

    assert _table(outcome(good), trial)[0][0].text == "1"
    for bad in (None, [], [[], []], [[("value", "1")]], [[("value", 1, False, 3)]], [["x"]], [3]):
        assert _table(outcome(bad), trial) == ()
    assert _table(Outcome("timeout"), trial) == ()
    assert _table(Outcome("ok", calls=(CallResult("unstable"),)), trial) == ()
