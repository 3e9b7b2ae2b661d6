"""What the exercises in Python say and allow, and what both figures rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import Answer, Graded, Turn
from astor_rl.evaluate.suites.polyglot import PolyglotSuite, Python
from astor_rl.sandbox.api import Outcome
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score


@pytest.fixture
def fields(suite_rows) -> dict[str, object]:
    return suite_rows["aider-polyglot"][0]


def follow_up(pool, fields, text: str) -> str | Invalid | None:
    language = Python(pool)
    return asyncio.run(language.follow_up(Answer(language.question(Row(fields, "r:1", "1")), text)))


def test_python_has_the_rules_of_other_languages_and_the_training_task_its_prompt(pool, fields):
    (message,) = Python(pool).question(Row(fields, "rows:1", "1")).messages
    task = CodeGenerationTask(pool, tier="exercise")
    (trained,) = task.prompt(task.example(fields, origin="rows:1"))
    assert trained["content"].endswith("Answer with the whole file in one ```python block.")
    assert message["content"] == (
        f"{trained['content']}\n\n"
        "Keep the names of what it defines: tests use them. Use the standard library only."
    )


def test_python_has_ten_times_the_training_tasks_time(fields):
    class Noting:
        def __init__(self):
            self.jobs = []

        async def submit(self, job):
            self.jobs.append(job)
            return Outcome("infra_error")

    def limits(verdicts, noting) -> set[tuple[float, float]]:
        asyncio.run(verdicts)
        return {(job.limits.cpu_s, job.limits.wall_s) for job in noting.jobs}

    text = "```python\nx = 1\n```"
    noting = Noting()
    language = Python(noting)
    answer = Answer(language.question(Row(fields, "rows:1", "1")), text)
    assert limits(language.judge([answer]), noting) == {(60, 240)}
    noting = Noting()
    task = CodeGenerationTask(noting, tier="exercise")
    example = task.example(fields, origin="rows:1")
    assert limits(task.score([(example, rollout_of(text))]), noting) == {(6, 24)}


def test_python_is_told_every_failure(pool, fields):
    said = follow_up(pool, fields, "```python\ndef greet(name):\n    return name\n```")
    assert said is not None
    assert said.startswith("The tests fail:\n2 of 2 fail.\n\nGreetingTest::test_one\n")
    for name, greeted in (("Ann", "one"), ("Bo", "other")):
        assert f"AssertionError: '{name}' != 'Hello, {name}!'" in said
        assert f"def test_{greeted}(self):\n    self.assertEqual(greet('{name}'), " in said
    assert said.endswith(
        "The tests are right. Correct `greeting.py`: answer with the whole file in one "
        "```python block."
    )
    right = "```python\ndef greet(name):\n    return f'Hello, {name}!'\n```"
    again = follow_up(pool, fields, right)
    assert again is not None
    assert "the tests failed, and pass when they are run again" in again


def test_a_verdict_that_is_lost_on_the_way_to_telling_is_said(fields):
    class Losing:
        async def submit(self, job):
            return Outcome("infra_error", message="gone")

    assert follow_up(Losing(), fields, "```python\nx = 1\n```") == Invalid("gone")


def test_what_python_is_told_is_bounded(pool, fields):
    tests = "from greeting import greet\n\n" + "".join(
        f"def test_{n}():\n    # {'why ' * 200}\n    assert greet('') == {n}\n\n\n"
        for n in range(20)
    )
    long = {**fields, "tests": [{"path": "greeting_test.py", "content": tests}]}
    long["reference"] = {
        "greeting.py": "from itertools import count\nn = count()\ndef greet(name): return next(n)\n"
    }
    said = follow_up(pool, long, "```python\ndef greet(name):\n    return -1\n```")
    assert said is not None
    assert len(said) < 12_400
    assert "20 of 20 fail." in said
    assert " characters left out ...\n" in said
    assert "assert greet('') == 19" in said


def turn(outcome: float | None) -> Turn:
    verdict = Invalid("lost") if outcome is None else Score(outcome, 1.0, {}, "")
    return Turn("", "stop", verdict)


def graded(suite: PolyglotSuite, *samples: Sequence[Sequence[float | None]]) -> list[Graded]:
    return [
        Graded(question, tuple(tuple(map(turn, tries)) for tries in group))
        for question, group in zip(suite.questions, samples, strict=True)
    ]


def suite_of(pool, fields, count: int) -> PolyglotSuite:
    rows = [Row({**fields, "prompt": f"Exercise {n}"}, f"r:{n}", f"{n}") for n in range(count)]
    return PolyglotSuite(rows, {"python": Python(pool)}, {})


def test_both_figures_rest_on_the_same_examples(pool, fields):
    suite = suite_of(pool, fields, 4)
    # Right at once, right at the second try, lost at the second try, lost at the first.
    report = suite.report(graded(suite, [[1]], [[0, 1]], [[0, None]], [[None]]))
    assert [report.metrics[name].value for name in ("pass@1", "pass@2")] == [0.5, 1.0]
    assert {metric.examples for metric in report.metrics.values()} == {2}
    assert report.parts["python"] == report.metrics
    assert report.notes == (
        "ran 4 of 4 exercises: python 4",
        "samples whose second try could not be judged, in neither pass@1 nor pass@2: 1",
    )


def test_of_several_samples_those_judged_to_their_end_count(pool, fields):
    suite = suite_of(pool, fields, 2)
    report = suite.report(graded(suite, [[0, None], [1], [0, 0], [0, 1]], [[0, 0], [None]]))
    assert report.metrics["pass@1"].value == pytest.approx((1 / 3 + 0) / 2)
    assert report.metrics["pass@2"].value == pytest.approx((2 / 3 + 0) / 2)
    assert len(suite.report(graded(suite, [[1]], [[0, 0]])).notes) == 1
