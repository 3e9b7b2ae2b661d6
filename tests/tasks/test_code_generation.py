from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from astor_rl.errors import ConfigError, DataError, SandboxError
from astor_rl.sandbox.api import CallJob, Outcome
from astor_rl.tasks.base import Task
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.parsing import fenced
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

DOUBLE = {
    "id": "double",
    "prompt": "Double a number.",
    "entry_point": "double",
    "signature": "def double(n):",
    "reference": "def double(n):\n    return 2 * n\n",
    "tests": ["assert double(2) == 4", "assert double(-771) == -1542", "assert not double(0)"],
}
GOOD = "def double(n):\n    return n + n"


def make(task, **change):
    return task.example({**DOUBLE, **change}, origin="rows:1")


def score(task, example, *texts):
    return asyncio.run(task.score([(example, rollout_of(text)) for text in texts]))


def outcomes(task, example, *codes):
    return [result.outcome for result in score(task, example, *map(fenced, codes))]


class Counting:
    """A real pool that notes what it was given."""

    def __init__(self, pool):
        self.pool, self.jobs = pool, []

    async def submit(self, job):
        self.jobs.append(job)
        return await self.pool.submit(job)


def test_it_is_a_task_whose_verdict_follows_its_tier():
    assert isinstance(CodeGenerationTask(), Task)
    assert CodeGenerationTask().verdict == "unforgeable"
    assert CodeGenerationTask(tier="exercise").verdict == "unforgeable"
    shared = CodeGenerationTask(tier="exercise", allow_shared_process=True)
    assert shared.verdict == "detected-only"


# The prompt and the reference answer.


def test_a_prose_prompt_shows_as_many_tests_as_wanted():
    def prompt(shown_tests):
        task = CodeGenerationTask(shown_tests=shown_tests)
        (message,) = task.prompt(make(task))
        assert message["role"] == "user"
        return message["content"]

    assert "assert" not in prompt(0)
    assert "assert double(2) == 4\n\nWrite `def double(n)`." in prompt(1)
    assert "-1542" not in prompt(1)
    assert "-1542" in prompt(2)


CODE = {
    "prompt": (
        "import math\n\ndef half(n):\n    return n / 2\n\n"
        'def double(n):\n    """Double it.\n\n    >>> double(2)\n    4\n    """\n'
    ),
    "reference": (
        "import math\nimport os\n\ndef half(n):\n    return n / 2\n\n"
        'def double(n):\n    """Double it."""\n    return helper(n)  # twice\n\n'
        "def helper(n):\n    return n * 2\n"
    ),
}


def test_code_to_complete_is_shown_whole_and_answered_without_what_it_gives():
    task = CodeGenerationTask()
    example = make(task, **CODE)
    (message,) = task.prompt(example)
    assert "def half(n):" in message["content"]
    assert ">>> double(2)" in message["content"]
    assert "It must pass" not in message["content"]
    assert task.answer(example) == (
        "```python\nimport os\n\ndef double(n):\n    return helper(n)\n\n"
        "def helper(n):\n    return n * 2\n```"
    )


def test_what_the_prompt_gives_need_not_be_repeated(pool):
    task = CodeGenerationTask(pool)
    example = make(task, **CODE)
    uses = "def double(n):\n    return int(4 * half(n)) + int(math.floor(0.5))"
    own = "def half(n):\n    return n * 2\n\ndef double(n):\n    return half(n)"
    assert outcomes(task, example, uses, own) == [1.0, 1.0]


def test_a_body_completes_the_prompt_as_in_humaneval(pool):
    task = CodeGenerationTask(pool)
    check = "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(double)\n"
    example = make(task, prompt=CODE["prompt"], reference="    return 2 * n\n", tests=[check])
    assert task.answer(example) == "```python\ndef double(n):\n    return 2 * n\n```"
    assert outcomes(task, example, GOOD, "def double(n):\n    return n") == [1.0, 0.0]


def test_given_statements_are_shown_and_the_whole_function_is_asked_for(pool):
    task = CodeGenerationTask(pool)
    given = "def double(n):\n    for _ in range(1):"
    example = make(
        task,
        given=given,
        prelude="import math\n\ndef half(n):\n    return n / 2",
        reference=f"{given}\n        n = int(4 * half(n))\n    return n",
    )
    (message,) = task.prompt(example)
    assert message["content"].startswith("Double a number.\n\nComplete this function.")
    assert given in message["content"]
    assert "def half" in message["content"]
    assert "assert double(2) == 4" in message["content"]
    assert "half(n)))" not in message["content"]
    assert "def half" not in task.answer(example)
    assert [r.outcome for r in score(task, example, task.answer(example), "")] == [1.0, 0.0]


def test_setup_imports_come_first_and_statements_last(pool):
    task = CodeGenerationTask(pool)
    imports = make(task, setup="import math")
    assert outcomes(task, imports, "N = math.floor(2)\ndef double(n):\n    return N * n") == [1.0]
    objects = {
        "setup": "box = Box(2)",
        "tests": ["assert double(box) == 4"],
        "reference": (
            "class Box:\n    def __init__(self, n):\n        self.n = n\n\n"
            "def double(box):\n    return 2 * box.n"
        ),
    }
    example = make(task, **objects)
    assert [r.outcome for r in score(task, example, task.answer(example))] == [1.0]


def test_future_imports_are_legal_wherever_they_stand(pool):
    task = CodeGenerationTask(pool)
    late = f"import os\n\nfrom __future__ import annotations\n\n{GOOD}"
    early = f"from __future__ import annotations\n\n{GOOD}"
    example = make(
        task, prelude="from __future__ import annotations\nimport sys", setup="import re"
    )
    assert outcomes(task, example, early, late) == [1.0, 1.0]


# Reading answers.


@pytest.mark.parametrize(
    ("text", "outcome", "form"),
    [
        (f"```python\n{GOOD}\n```", 1, 1),
        (f"Here you go:\n```python\n{GOOD}\n```\nIt adds.", 1, 1),
        (f"```\n{GOOD}\n```", 1, 0),
        (f"```py\n{GOOD}\n```", 1, 0),
        (f"```python\n{GOOD}\n", 1, 0),
        (GOOD, 1, 0),
        (f"```python\n{GOOD}\n```\n```python\nprint(double(2))\n```", 1, 0),
        (f"```python\n{GOOD}\n```\n```\n$ python x.py\n```", 1, 0),
        (f"```python\ndef double(n): return 0\n```\n```python\n{GOOD}\n```", 1, 0),
        (f"```python\n{GOOD}\n```\n```python\ndef double(n): return 0\n```", 0, 0),
        (f"```json\n{GOOD}\n```", 0, 0),
        (f"Use this: {GOOD}", 0, 0),
        ("```python\ndef double(n:\n```", 0, 0),
        ("```python\ndef other(n):\n    return n\n```", 0, 0),
        ("```python\n```", 0, 0),
        ("", 0, 0),
    ],
)
def test_what_counts_as_the_answer(pool, text, outcome, form):
    task = CodeGenerationTask(pool)
    (result,) = score(task, make(task), text)
    assert (result.outcome, result.format) == (outcome, form)


def test_reasons_and_metrics(pool):
    task = CodeGenerationTask(pool)
    results = score(
        task,
        make(task),
        *map(
            fenced,
            [
                GOOD,
                "def double(n):\n    return 4",
                "def double(n):\n    return n[0]",
                "x =",
                "def d(): pass",
                "import nothing_of_that_name\n" + GOOD,
            ],
        ),
        "",
    )
    assert [r.reason for r in results[:5]] == [
        "right",
        "double(-771) returned 4",
        "double(2) raised TypeError: 'int' object is not subscriptable",
        "code doesn't parse",
        "code doesn't define 'double'",
    ]
    assert results[5].reason.startswith("error: ModuleNotFoundError")
    assert results[6].reason == "no code"
    assert [r.metrics["loads"] for r in results] == [1, 1, 1, 0, 0, 0, 0]
    assert [r.metrics["tests_passed"] for r in results] == pytest.approx([1, 1 / 3, 0, 0, 0, 0, 0])


# Scores.


def test_equal_solutions_of_one_example_run_once(pool):
    counting = Counting(pool)
    task = CodeGenerationTask(counting)
    one, two = make(task), make(task, prompt="Another.")
    texts = [fenced(GOOD), f"Hi\n{fenced(GOOD)}", fenced("def double(n): pass"), "no"]
    pairs = [(example, rollout_of(text)) for text in texts for example in (one, two)]
    scores = asyncio.run(task.score(pairs))
    assert [s.outcome for s in scores] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert len(counting.jobs) == 4
    assert all(isinstance(job, CallJob) for job in counting.jobs)


def test_a_fraction_counts_only_tests_whose_answer_was_not_shown(pool):
    hard_coded = "def double(n):\n    return 4 if n == 2 else 0"
    none = "def double(n):\n    return 'x'"
    task = CodeGenerationTask(pool, reward="fraction", shown_tests=1)
    tests = ["assert double(2) == 4", "assert double(3) == 6", "assert double(0) == 0"]
    example = make(task, tests=tests)
    assert outcomes(task, example, GOOD, hard_coded, none) == [1.0, 0.5, 0.0]
    every = CodeGenerationTask(pool, reward="fraction", shown_tests=3)
    assert outcomes(every, make(every, tests=tests), hard_coded) == pytest.approx([2 / 3])
    doctest = make(task, tests=tests, prompt=CODE["prompt"])
    assert outcomes(task, doctest, hard_coded) == [0.5]
    strict = CodeGenerationTask(pool)
    assert outcomes(strict, make(strict, tests=tests), hard_coded) == [0.0]


def test_odd_doctests_in_a_prompt_give_nothing_away(pool):
    task = CodeGenerationTask(pool, reward="fraction")
    for odd in (">>> double(2) is +\n    4", ">>>double(2)\n    4"):
        prompt = f"def double(n):\n    '''Docs.\n\n    {odd}\n    '''\n"
        example = make(task, prompt=prompt, tests=["assert double(2) == 4"])
        assert outcomes(task, example, "def double(n):\n    return 4") == [1.0]


def test_a_failing_sandbox_is_invalid_and_a_missing_one_an_error():
    class Failing:
        async def submit(self, job):
            return Outcome("infra_error", message="no descriptors left")

    task = CodeGenerationTask(Failing())
    assert score(task, make(task), fenced(GOOD)) == [Invalid("no descriptors left")]
    task = CodeGenerationTask()
    with pytest.raises(SandboxError, match="code_generation"):
        score(task, make(task), fenced(GOOD))


# Turns.


def say(*texts):
    return [
        {"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)
    ]


def respond(task, example, *texts):
    return asyncio.run(task.respond(example, say("ask", *texts)))


def test_the_next_turn_tells_failures_but_not_hidden_answers(pool):
    task = CodeGenerationTask(pool, turns=2)
    example = make(task)
    (message,) = respond(task, example, fenced("def double(n):\n    return 1"))
    assert message["role"] == "user"
    assert "double(2) returned 1 (assert double(2) == 4)" in message["content"]
    assert "double(-771) returned 1" in message["content"]
    assert "1542" not in message["content"]
    (message,) = respond(task, example, "I can't.")
    assert "no code" in message["content"] or "parse" in message["content"]
    (message,) = respond(task, example, fenced("import nothing_like_it\n" + GOOD))
    assert "ModuleNotFoundError" in message["content"]


def test_an_episode_ends_when_right_or_out_of_turns(pool):
    task = CodeGenerationTask(pool, turns=2)
    example = make(task)
    wrong = fenced("def double(n):\n    return 1")
    assert respond(task, example, fenced(GOOD)) is None
    assert respond(task, example, wrong, "again", wrong) is None
    assert respond(task, example) is None
    one = CodeGenerationTask(pool)
    assert respond(one, make(one), wrong) is None


# Rows and options.


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"entry_point": None}, "entry_point"),
        ({"entry_point": "triple"}, "tests"),
        ({"entry_point": 3}, "entry_point"),
        ({"reference": 3}, "reference"),
        ({"reference": "def double(n:"}, "reference"),
        ({"reference": "def twice(n): pass"}, "reference"),
        ({"tests": "assert double(1) == 2"}, "tests"),
        ({"tests": []}, "tests"),
        ({"tests": [{"path": "x"}]}, "tests[0]"),
        ({"tests": ["assert double("]}, "tests"),
        ({"tests": ["assert twice(1) == 2"]}, "tests"),
        ({"setup": 1}, "setup"),
        ({"setup": "import ("}, "setup"),
        ({"prelude": "def ("}, "prelude"),
        ({"given": []}, "given"),
    ],
)
def test_a_bad_row_names_its_origin_and_field(change, field):
    with pytest.raises(DataError) as error:
        CodeGenerationTask().example({**DOUBLE, **change}, origin="file.jsonl:12")
    assert str(error.value).startswith("file.jsonl:12: ")
    assert f"'{field}'" in str(error.value)


def test_the_unit_is_the_rows_id():
    task = CodeGenerationTask()
    assert make(task).unit == "double"
    assert task.example(DOUBLE, origin="r", unit="u").unit == "u"
    anonymous = {name: value for name, value in DOUBLE.items() if name != "id"}
    example = task.example(anonymous, origin="r")
    assert example.unit == example.key == make(task).key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tier": "both"}, "'tier'.*'both'"),
        ({"reward": "some"}, "'reward'.*'some'"),
        ({"turns": 3}, "'turns'.*3"),
        ({"shown_tests": -1}, "'shown_tests'.*-1"),
        ({"timeout_s": 0}, "'timeout_s'.*0"),
        ({"shown": 1}, "'shown'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        CodeGenerationTask.from_config(options, None)


def test_where_none_is_right_returning_none_is_no_broken_answer(pool):
    task = CodeGenerationTask(pool)
    example = make(task, tests=["assert double(1) is None"], reference="def double(n): pass")
    assert "returns None" not in task.broken(example)
    assert asyncio.run(task.validate([example])).ok
    assert "returns None" in task.broken(make(task))


# Real data.


def read(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "step"),
    [("heldout.humaneval", 3), ("train.mbpp", 4), ("train.thealgorithms", 9)],
)
def test_real_references_pass_and_broken_ones_fail(pool, shared_data, name, step):
    task = CodeGenerationTask(pool)
    rows = read(shared_data / f"code_generation.{name}.jsonl.gz")
    examples = [task.example(row, origin=row["id"]) for row in rows]
    assert len({example.key for example in examples}) == len(rows)
    assert all(len(task.broken(example)) >= 3 for example in examples)
    report = asyncio.run(task.validate(examples[::step]))
    assert report.ok, report


@pytest.mark.shared
def test_humanevals_loops_are_replayed(pool, shared_data):
    task = CodeGenerationTask(pool)
    numbers = (32, 38, 44, 50, 53, 151)
    rows = {
        row["id"]: row for row in read(shared_data / "code_generation.heldout.humaneval.jsonl.gz")
    }
    examples = [task.example(rows[f"HumanEval/{n}"], origin=str(n)) for n in numbers]
    report = asyncio.run(task.validate(examples))
    assert report.ok, report
