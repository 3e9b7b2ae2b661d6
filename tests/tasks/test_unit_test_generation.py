from __future__ import annotations

import ast
import asyncio
import gzip
import json
from dataclasses import replace

import pytest

from astor_rl.errors import ConfigError, DataError, SandboxError
from astor_rl.sandbox.api import Coverage, Outcome
from astor_rl.tasks.base import Task
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

CODE = """LIMIT = 10


def clip(n):
    if n > LIMIT:
        return LIMIT
    return n


def double(n):
    return n * 2
"""
ROW = {
    "id": "clip",
    "module": "focal.py",
    "entry_point": "clip",
    "code": CODE,
    "reference_tests": (
        "from focal import *\n\n\ndef test_reference():\n"
        "    assert clip(3) == 3\n    assert clip(30) == 10\n    assert double(4) == 8\n"
    ),
    "mutants": [
        {"op": "return_none", "line": 7, "code": CODE.replace("return n\n", "return None\n")},
        {"op": "const_int", "line": 1, "code": CODE.replace("10", "11")},
    ],
    "buggy": CODE.replace("n > LIMIT", "n < LIMIT"),
}
# 7 lines, of which importing runs 3 (LIMIT and two defs); 2 branches.
SMALL, BIG = "assert clip(3) == 3", "assert clip(30) == 10"


@pytest.fixture(scope="module")
def task(pool):
    # Nothing that uses it loops, so a generous deadline costs nothing on a busy machine.
    return UnitTestGenerationTask(pool, timeout_s=20.0)


def score(task, *texts, **changes):
    example = task.example({**ROW, **changes}, origin="rows:1")
    return asyncio.run(task.score([(example, rollout_of(text)) for text in texts]))


def run(task, tests, **changes):
    (found,) = score(task, f"```python\n{tests}\n```", **changes)
    return found


def test_it_is_a_task():
    task = UnitTestGenerationTask()
    assert isinstance(task, Task)
    assert task.verdict == "detected-only"
    assert asyncio.run(task.respond(task.example(ROW, origin="r"), [])) is None


def test_the_prompt_shows_the_code_and_no_reference():
    task = UnitTestGenerationTask(max_tests=3)
    row = {**ROW, "support_files": {"node.py": "class Node: ..."}}
    (message,) = task.prompt(task.example(row, origin="r"))
    assert f"```python\n{CODE}```" in message["content"]
    assert "class Node" in message["content"]
    assert "`clip`" in message["content"]
    assert "at most 3" in message["content"]
    assert "clip(30)" not in message["content"]
    (message,) = task.prompt(task.example({**ROW, "entry_point": None}, origin="r"))
    assert "tests for this module" in message["content"]


def test_one_case_of_two_is_worth_what_it_reaches(task):
    found = run(task, f"def test_small():\n    {SMALL}")
    assert found.metrics == {
        "line_coverage": 5 / 7,  # not `return LIMIT`, not `return n * 2`
        "branch_coverage": 1 / 2,
        "mutation_score": 1 / 2,
        "detects_bug": 1.0,
        "passes_on_correct": 1.0,
        "compiles": 1.0,
    }
    assert found.outcome == pytest.approx(0.25 * 5 / 7 + 0.25 / 2 + 0.5 / 2)
    assert found.format == 1
    assert found.reason == "5 of 7 lines, 1 of 2 branches, 1 of 2 mutants killed"


@pytest.mark.parametrize(
    "tests",
    [
        f"{SMALL}\n{BIG}\nassert double(4) == 8",
        f"from focal import *\n\ndef test():\n    {SMALL}\n    {BIG}\n    assert double(4)",
        "import unittest\nimport focal\n\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        self.assertEqual(focal.clip(3), 3)\n        self.assertEqual(focal.clip(30), 10)\n"
        "        self.assertTrue(focal.double(1))",
    ],
)
def test_all_forms_of_tests_can_be_perfect(task, tests):
    assert run(task, tests).outcome == 1


CALLS = "clip(3), clip(30), double(1)"


def test_coverage_without_detection_is_worth_nothing(task):
    crash = {"code": CODE.replace("return n\n", "raise ValueError\n")}
    for mutants in (ROW["mutants"], [crash, *ROW["mutants"]]):
        for check in ("assert True", "assert clip", "assert (clip(3) or 1) is not None"):
            found = run(task, f"def test():\n    {CALLS}\n    {check}", mutants=mutants)
            assert found.outcome == 0
            assert found.reason == f"no assertion fails on any of {len(mutants)} mutants"


def test_mutants_that_all_crash_leave_the_source_to_tell(task):
    crash = {"code": CODE.replace("return n\n", "raise ValueError\n")}
    found = run(task, f"def test():\n    {CALLS}\n    assert True", mutants=[crash])
    assert (found.outcome, found.reason) == (0, "no assertion depends on a call of the code")
    assert run(task, SMALL, mutants=[crash]).metrics["mutation_score"] == 1


def test_one_failed_assertion_lets_crashes_count_too(task):
    crash = {"code": CODE.replace("return n\n", "raise ValueError\n")}
    raises = "import pytest\nwith pytest.raises(TypeError):\n    clip('x')"
    wrong = {"code": CODE.replace("n > LIMIT", "not n")}
    for check, mutants in ((SMALL, ROW["mutants"]), (raises, [wrong])):
        tests = "\n".join(f"    {line}" for line in check.split("\n"))
        found = run(task, f"def test():\n    {CALLS}\n{tests}", mutants=[crash, *mutants])
        assert found.metrics["mutation_score"] >= 2 / 3
        assert found.outcome > 0.75


@pytest.mark.parametrize(
    ("tests", "good"),
    [
        (f"{CALLS}\nassert True", False),
        (f"{CALLS}\nassert clip and double", False),
        (f"x = {CALLS}\ny = 1\nassert y", False),
        (f"y = x = {CALLS}\nassert y", True),
        ("def test():\n    out = []\n    for n in map(clip, [3]):\n        assert n == 3", True),
        (
            "import pytest\ndef test():\n    with pytest.raises(TypeError):\n        clip('x')",
            True,
        ),
        ("import focal as f\n\ndef get():\n    return f.clip(3)\n\nassert get() == 3", True),
        (
            "import unittest\nclass T(unittest.TestCase):\n    def setUp(self):\n"
            "        self.n = clip(3)\n    def test(self):\n        self.assertEqual(self.n, 3)",
            True,
        ),
    ],
)
def test_without_mutants_an_assertion_must_depend_on_a_call(task, tests, good):
    found = run(task, tests, mutants=[])
    assert (found.outcome > 0) is good
    assert (found.reason == "no assertion depends on a call of the code") is not good


def test_the_code_itself_is_no_oracle(task):
    copy = "def ref(value):\n    if value > MOST:\n        return MOST\n    return value\n"
    found = run(task, f"MOST = 10\n{copy}\nassert clip(3) == ref(3) and clip(30) == ref(30)")
    assert (found.outcome, found.reason) == (0, "copies the code under test: clip")


def test_versions_cannot_be_told_by_their_formatting(pool):
    odd = CODE.replace("    if n > LIMIT:\n        return", "    # why\n    if(n>LIMIT): return")
    counting = CountingPool(pool)
    task = UnitTestGenerationTask(counting)
    unparsed = ast.unparse(ast.parse(odd))
    broken = odd + "\n)"
    found = run(
        task, SMALL, code=odd, mutants=[{"code": unparsed}, {"code": broken}, *ROW["mutants"]]
    )
    assert found.metrics["mutation_score"] == 2 / 4
    seen = {target for job in counting.jobs for target in job.targets}
    assert len(seen) == 5  # one correct code, however written; what doesn't parse as it is
    assert broken in seen
    assert odd not in seen


@pytest.mark.parametrize(
    "counts",
    [(5, 0, 0, 0), (7 * 10**400, 7, 2, 2), (8, 7, 2, 2), (7, 8, 2, 2), (7, 7, 2, 4), (-1, 7, 0, 2)],
)
def test_forged_coverage_is_worth_nothing(pool, counts):
    class Forging(CountingPool):
        async def submit(self, job):
            outcome = await super().submit(job)
            if len(self.jobs) < 2:  # what importing reaches, measured without the tests
                return outcome
            forged = (
                replace(target, coverage=target.coverage and Coverage(*counts))
                for target in outcome.targets
            )
            return replace(outcome, targets=tuple(forged))

    found = run(UnitTestGenerationTask(Forging(pool), timeout_s=20.0), SMALL)
    assert (found.outcome, found.reason) == (0, "malformed: coverage that isn't of this code")


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"mutants": []}, {}, 0.5 * 5 / 7 + 0.5 / 2),
        ({"mutants": [], "buggy": None}, {"branch_weight": 0.0}, 5 / 7),
        ({"mutants": []}, {"line_weight": 0.0, "branch_weight": 0.0}, (5 / 7 + 1 / 2) / 2),
        ({}, {"line_weight": 1.0, "branch_weight": 3, "mutant_weight": 0}, (5 / 7 + 3 / 2) / 4),
        ({}, {"line_weight": 0.0, "branch_weight": 0.0}, 0.5),
    ],
)
def test_weights_of_parts_that_are_not_there_go_to_the_others(pool, changes, options, expected):
    task = UnitTestGenerationTask.from_config(options, pool)
    found = run(task, SMALL, **changes)
    assert found.outcome == pytest.approx(expected)
    assert ("mutation_score" in found.metrics) == bool(changes.get("mutants", True))


def test_code_without_branches_has_no_branch_part(task):
    code = "def f(n):\n    return n + 1"
    mutant = {"code": code.replace("+", "-")}
    changes = {"code": code, "entry_point": "f", "buggy": None, "mutants": [mutant]}
    found = run(task, "assert f(1) == 2", **changes)
    assert found.outcome == 1
    assert "branch_coverage" not in found.metrics
    # Both 1 and -1 are true: that mutant survives; mutants have two thirds of the weight.
    changes["mutants"] = [mutant, {"code": code.replace("n + 1", "n")}]
    assert run(task, "assert f(0)", **changes).outcome == pytest.approx(1 / 3 + 2 / 3 / 2)
    assert "branch_coverage" not in run(task, "", **changes).metrics


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("assert clip(3) == 4", "fails on the correct code"),
        (f"{SMALL}\nassert clip(3) == 4", "fails on the correct code"),
        (f"{SMALL}\ndef test_x():\n    assert clop(3)", "fails on the correct code"),
        ("def test_x():\n    assert True", "reaches nothing"),
        ("assert 1 + 1 == 2", "reaches nothing"),
        ("def clip(n):\n    return n\n\nassert clip(3) == 3", "reaches nothing"),
        ("def test_x():\n    clip(3)", "no assertion"),
        ("def test_x():\n    clip(3)\n    if False:\n        assert clip(3)", "no assertion"),
        ("def check():\n    assert clip(3) == 3", "no tests"),
        ("x = clip(3)", "no tests"),
        ("def test_x(:", "doesn't parse"),
        ("", "no tests"),
        ("import inspect\nassert inspect.getsource(clip)", "uses inspect.getsource"),
        ("clip.seen = 1\nassert clip(3) == 3", "changes clip.seen"),
        (f"{SMALL}\nraise SystemExit(0)", "on the correct code"),
    ],
)
def test_what_is_worth_nothing(task, tests, reason):
    found = run(task, tests)
    assert found.outcome == 0
    assert reason in found.reason
    assert found.metrics["passes_on_correct"] == 0
    assert found.metrics["line_coverage"] == 0
    assert found.metrics["compiles"] == float("(:" not in tests and tests != "")


def test_tests_that_do_not_end_are_worth_nothing(pool):
    task = UnitTestGenerationTask(pool, timeout_s=0.4)
    found = run(task, "def test_x():\n    while True: pass\n    assert clip(3)")
    assert found.outcome == 0
    assert found.reason.startswith("timeout on the correct code")


STATEFUL = """
import math

math.runs = getattr(math, "runs", 0) + 1


def test_x():
    assert clip(3) == 3
    assert math.runs {condition}
"""


@pytest.mark.parametrize("condition", ["== 1", "<= 2", "% 2", "> 1"])
def test_tests_that_count_their_runs_are_found_out(task, condition):
    tests = STATEFUL.format(condition=condition)
    found = run(task, tests)
    assert (found.outcome, found.reason) == (0, "changes math.runs")
    tests = tests.replace("math.runs = ", "box = math.__name__ and [math][0]\nbox.runs = ")
    found = run(task, tests)
    assert found.outcome == 0
    assert "passes and fails on the same code" in found.reason


def test_a_mutant_that_loops_or_breaks_is_killed(pool):
    task = UnitTestGenerationTask(pool, timeout_s=2.0)
    versions = [
        CODE.replace("return n\n", "while True: pass\n"),
        CODE + "\nraise ValueError",
        CODE + "\n)",
        CODE,
        CODE.replace("return n\n", "return -n\n"),
    ]
    found = run(task, SMALL, mutants=[{"code": code} for code in versions])
    assert found.metrics["mutation_score"] == 4 / 5


def test_names_that_a_version_lacks_are_not_imported(task):
    found = run(task, SMALL, buggy=CODE.replace("double", "triple").replace("n > L", "n < L"))
    assert found.metrics["detects_bug"] == 1
    found = run(task, SMALL, buggy=CODE.replace("double", "triple"))
    assert found.metrics["detects_bug"] == 0


def test_support_files_can_be_imported(task):
    files = {"node.py": "class Node:\n    value = 3"}
    tests = "from node import Node\nassert clip(Node.value) == 3"
    assert run(task, tests, support_files=files).outcome > 0.5
    assert run(task, tests).reason == "imports node"


@pytest.mark.parametrize(
    ("text", "expected", "outcome"),
    [
        (f"```python\n{SMALL}\n```", 1, True),
        (f"Here:\n```python\n{SMALL}\n```\nDone.", 1, True),
        (f"```\n{SMALL}\n```", 2 / 3, True),
        (f"```python\n{SMALL}\n```\n```python\n{BIG}\n```", 2 / 3, True),
        (SMALL, 2 / 3, True),
        (f"```python\n{SMALL}", 0, False),
        ("```python\nassert (\n```", 1 / 3, False),
        ("```python\nx = clip(3)\n```", 2 / 3, False),
        ("```python\n" + f"{SMALL}\n" * 9 + "```", 2 / 3, True),
        ("I can't.", 0, False),
        ("", 0, False),
    ],
)
def test_format(task, text, expected, outcome):
    (found,) = score(task, text)
    assert found.format == pytest.approx(expected)
    assert (found.outcome > 0) is outcome


def test_the_last_block_that_parses_counts(task):
    text = f"```python\n{SMALL}\n```\n```python\n{BIG}\n```\n```python\nassert (\n```"
    (found,) = score(task, text)
    assert found.metrics["line_coverage"] == 5 / 7
    assert found.reason.startswith("5 of 7 lines, 1 of 2 branches, 1 of 2")


class CountingPool:
    """Counts what it passes on to a real pool, or answers in its stead."""

    def __init__(self, pool, answer=None):
        self.jobs = []
        self._pool, self._answer = pool, answer

    async def submit(self, job):
        self.jobs.append(job)
        return self._answer if self._answer is not None else await self._pool.submit(job)


def test_equal_tests_run_once_and_wrong_ones_never_meet_the_mutants(pool):
    counting = CountingPool(pool)
    task = UnitTestGenerationTask(counting)
    wrong = "assert clip(3) == 4"
    found = score(task, SMALL, f"```python\n{SMALL}\n```", SMALL, wrong, "no code (", "import os")
    assert found[0] is found[2]
    assert found[0].outcome > 0 == found[3].outcome
    # The import's own lines, once; the bare and the fenced form differ by a newline only.
    sizes = sorted(len(job.targets) for job in counting.jobs)
    assert sizes == [1, 2, 2, 2, 5, 5]


def test_the_order_of_versions_depends_on_the_tests_and_is_reproducible(pool):
    def order(tests):
        counting = CountingPool(pool)
        run(UnitTestGenerationTask(counting), tests)
        return counting.jobs[-1].targets

    orders = [order(f"assert clip({n}) == {n}") for n in range(6)]
    assert len(set(orders)) > 1
    assert len({tuple(sorted(targets)) for targets in orders}) == 1
    assert order("assert clip(0) == 0") == orders[0]


def test_a_broken_sandbox_is_invalid_and_never_a_zero(pool):
    task = UnitTestGenerationTask(CountingPool(pool, Outcome("infra_error", message="no fork")))
    found = run(task, SMALL)
    assert isinstance(found, Invalid)
    assert "no fork" in found.reason


def test_code_that_does_not_load_is_invalid(task):
    found = run(task, SMALL, code=CODE + "\nraise ValueError('no')")
    assert isinstance(found, Invalid)
    assert "can't be measured" in found.reason
    assert "no" in found.reason


def test_scoring_needs_a_sandbox_and_prompts_do_not():
    task = UnitTestGenerationTask.from_config({}, None)
    example = task.example(ROW, origin="r")
    assert task.prompt(example)
    assert task.answer(example)
    with pytest.raises(SandboxError, match="without a sandbox"):
        asyncio.run(task.score([(example, rollout_of(SMALL))]))


def test_answers_are_as_short_as_asked():
    task = UnitTestGenerationTask(answer_asserts=2)
    assert task.answer(task.example(ROW, origin="r")) == (
        "```python\ndef test_reference():\n    assert clip(3) == 3\n    assert clip(30) == 10\n```"
    )


def test_the_ceiling_is_what_the_answer_reaches(pool):
    full, short = UnitTestGenerationTask(pool), UnitTestGenerationTask(pool, answer_asserts=1)
    example = full.example(ROW, origin="r")
    assert full.ceiling(example) == 1
    assert short.ceiling(example) == pytest.approx(0.25 * 5 / 7 + 0.25 / 2 + 0.5 / 2)

    async def within_a_loop():
        return UnitTestGenerationTask(pool).ceiling(example)

    assert asyncio.run(within_a_loop()) == 1


def test_validation_tells_references_from_broken_answers(task):
    examples = [
        task.example(ROW, origin="r"),
        task.example({**ROW, "mutants": [], "buggy": None}, origin="s"),
    ]
    assert asyncio.run(task.validate(examples)).ok
    broken = task.broken(examples[0])
    assert len(broken) >= 7
    assert all("passes_on_correct" in s.metrics for s in score(task, *broken.values()))


def test_validation_reports_references_that_fail(task):
    wrong = task.example({**ROW, "reference_tests": "assert clip(3) == 4"}, origin="rows:9")
    dead = task.example({**ROW, "code": CODE + "\n1 / 0"}, origin="rows:10")
    report = asyncio.run(task.validate([wrong, dead]))
    assert [low[0] for low in report.gold_below_ceiling] == ["rows:9"]
    assert [invalid[0] for invalid in report.invalid] == ["rows:10"]
    # "wrong values" of a wrong reference are right.
    assert [(origin, name) for origin, name, _ in report.broken_at_ceiling] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": "a/b.py"}, "'module' is 'a/b'"),
        ({"code": "def f(:"}, "'code' does not parse"),
        ({"code": ""}, "'code' does not parse"),
        ({"code": 3}, "'code' is int"),
        ({"buggy": "def f(:"}, "'buggy' does not parse"),
        ({"reference_tests": {"a": "assert 1", "b": "assert 1"}}, "has 2 files"),
        ({"reference_tests": "def test(): pass"}, "asserts nothing"),
        ({"reference_tests": None}, "'reference_tests' is NoneType"),
        ({"mutants": ["x"]}, r"'mutants\[0\]' has no text 'code'"),
        ({"mutants": {}}, "'mutants' is dict"),
        ({"support_files": {"a.py": 1}}, r"'support_files\['a.py'\]'"),
        ({"entry_point": 5}, "'entry_point' is int"),
    ],
)
def test_bad_rows_name_their_origin(changes, words):
    with pytest.raises(DataError, match=f"rows:7.*{words}"):
        UnitTestGenerationTask().example({**ROW, **changes}, origin="rows:7")


def test_a_mapping_of_one_test_file():
    task = UnitTestGenerationTask()
    one = task.example({**ROW, "reference_tests": {"x_test.py": "assert 1"}}, origin="r")
    other = task.example({**ROW, "reference_tests": "assert 1"}, origin="s", unit="u")
    assert one.key == other.key
    assert (one.unit, other.unit) == ("clip", "u")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 1}, "unknown option 'weight'"),
        ({"line_weight": -0.5}, "'line_weight'.* is -0.5; it must be from 0"),
        ({"line_weight": 0, "branch_weight": 0, "mutant_weight": 0}, "are all 0"),
        ({"max_tests": 0}, "'max_tests'"),
        ({"timeout_s": 0}, "'timeout_s'"),
        ({"answer_asserts": "2"}, "'answer_asserts'.* must be int"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        UnitTestGenerationTask.from_config(options, None)


def rows_of(shared_data, name):
    path = shared_data / f"unit_test_generation.{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "step"),
    [("train.mbpp", 70), ("train.thealgorithms", 130), ("train.exercism_clean", 20)],
)
def test_a_sample_of_real_rows(task, shared_data, name, step):
    rows = rows_of(shared_data, name)[1::step]
    report = asyncio.run(task.validate([task.example(row, origin=row["id"]) for row in rows]))
    assert report.ok


@pytest.mark.shared
def test_a_sample_of_quixbugs(task, shared_data):
    quick = {"breadth_first_search", "flatten", "knapsack", "lis", "shortest_path_length", "wrap"}
    rows = [row for row in rows_of(shared_data, "heldout.quixbugs") if row["entry_point"] in quick]
    examples = [task.example(row, origin=row["id"]) for row in rows]
    assert len(examples) == len(quick)
    assert asyncio.run(task.validate(examples)).ok
    wrap = next(example for example in examples if "wrap" in example.origin)
    assert task.ceiling(wrap) == pytest.approx(0.25 * 9 / 10 + 0.25 * 3 / 4 + 0.5)


@pytest.mark.shared
@pytest.mark.slow
def test_all_of_quixbugs(pool, shared_data):
    task = UnitTestGenerationTask(pool, timeout_s=8.0)
    # Its recursion takes longer than the deadline when it is traced for coverage.
    rows = [row for row in rows_of(shared_data, "heldout.quixbugs") if "levensh" not in row["id"]]
    examples = [task.example(row, origin=row["id"]) for row in rows]
    golds = [(example, rollout_of(task.answer(example))) for example in examples]
    scores = asyncio.run(task.score(golds))
    least = {"line_coverage": 0.99, "branch_coverage": 0.97, "mutation_score": 1, "detects_bug": 1}
    for metric, floor in least.items():
        values = [score.metrics[metric] for score in scores if metric in score.metrics]
        assert sum(values) / len(values) >= floor, metric
