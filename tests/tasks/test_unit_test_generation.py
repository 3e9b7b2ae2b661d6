from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from astor_rl.errors import ConfigError, SandboxError
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
    assert task.verdict == "unforgeable"
    assert UnitTestGenerationTask(allow_shared_process=True).verdict == "detected-only"
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
        "passes": 1.0,
        "passes_on_correct": 1.0,
        "compiles": 1.0,
        "unforgeable": 1.0,
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
