from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import ConfigError, DataError, SandboxError
from astor_rl.sandbox.api import CallJob, Outcome
from astor_rl.tasks import validation
from astor_rl.tasks.base import Task
from astor_rl.tasks.io_prediction import IOPredictionTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score

ADD = {
    "id": "add",
    "code": "def add(a, b=1):\n    return a + b",
    "entry_point": "add",
    "input": "2, b=3",
    "output": "5",
}


def score(task, row, *texts):
    example = task.example(row, origin="rows:1")
    return asyncio.run(task.score([(example, rollout_of(text)) for text in texts]))


def outcomes(task, row, *texts):
    return [result.outcome for result in score(task, row, *texts)]


def tag(text):
    return f"<answer>{text}</answer>"


def returning(output):
    return {"code": "def f():\n    ...", "input": "", "output": output}


def test_it_is_a_task():
    assert isinstance(IOPredictionTask(), Task)
    assert IOPredictionTask.verdict == "unforgeable"


def test_prompts_show_the_question_and_never_the_answer():
    output = IOPredictionTask(direction="output")
    example = output.example({**ADD, "output": "987"}, origin="rows:1")
    (message,) = output.prompt(example)
    assert "assert add(2, b=3) == ??" in message["content"]
    assert "987" not in message["content"]
    assert output.answer(example) == "<answer>987</answer>"
    inputs = IOPredictionTask(direction="input")
    example = inputs.example({**ADD, "input": "987"}, origin="rows:1")
    (message,) = inputs.prompt(example)
    assert "assert add(??) == 5" in message["content"]
    assert "987" not in message["content"]
    assert inputs.answer(example) == "<answer>987</answer>"


@pytest.mark.parametrize(
    ("output", "right", "wrong"),
    [
        ("7", ["7", " 7 ", "+7", "0x7"], ["7.0", "'7'", "8", "-7", "True"]),
        ("True", ["True"], ["1", "'True'", "1.0", "False"]),
        ("0.0", ["0.0", "0.", "0e5"], ["0", "-0.0"]),
        ("-0.0", ["-0.0"], ["0.0"]),
        ("nan", ["nan", "float('nan')"], ["inf", "'nan'", "0.0"]),
        ("0.30000000000000004", ["0.30000000000000004"], ["0.3"]),
        ("[1, (2, 3)]", ["[1,(2,3)]"], ["[1, [2, 3]]", "(1, (2, 3))", "[1, (3, 2)]"]),
        ("{'a': 1, 'b': 2}", ["{'b': 2, 'a': 1}", "dict(a=1, b=2)"], ["{'a': 1}"]),
        ("{1, 2}", ["{2, 1}", "set([1, 2])"], ["[1, 2]", "frozenset({1, 2})"]),
        ("set()", ["set()"], ["{}", "[]"]),
        ("''", ["''", '""'], ["None", "[]"]),
        ("None", ["None"], ["''", "False", "'None'"]),
    ],
)
def test_the_predicted_value_must_be_the_value_with_its_types(output, right, wrong):
    task = IOPredictionTask(direction="output")
    assert outcomes(task, returning(output), *map(tag, right)) == [1.0] * len(right)
    assert outcomes(task, returning(output), *map(tag, wrong)) == [0.0] * len(wrong)


@pytest.mark.parametrize(
    ("text", "outcome", "form"),
    [
        ("<answer>5</answer>", 1, 1),
        ("\n<answer> 5 </answer>\n", 1, 1),
        ("<answer>6</answer>", 0, 1),
        ("5", 1, 0),
        ("So it is <answer>5</answer>", 1, 0),
        ("<answer>5</answer> as asked.", 1, 0),
        ("It is 5", 0, 0),
        ("<answer>5", 0, 0),
        ("5</answer>", 0, 0),
        ("<answer>5</answer><answer>5</answer>", 0, 0),
        ("<answer>5</answer><answer>6", 0, 0),
        ("<answer><answer>5</answer></answer>", 0, 0),
        ("<answer>2 + 3</answer>", 0, 0),
        ("<answer>add(2, b=3)</answer>", 0, 0),
        ("<answer></answer>", 0, 0),
        ("", 0, 0),
        ("<answer>" + "(" * 5000 + "</answer>", 0, 0),
    ],
)
def test_the_answers_form(text, outcome, form):
    (result,) = score(IOPredictionTask(direction="output"), ADD, text)
    assert (result.outcome, result.format) == (outcome, form)


def test_reasoning_is_asked_for_and_allowed_when_wanted():
    task = IOPredictionTask(direction="output", reasoning=True)
    example = task.example(ADD, origin="rows:1")
    assert "step by step" in task.prompt(example)[0]["content"]
    results = score(task, ADD, "2 + 3 is 5. <answer>5</answer>", "<answer>5</answer> indeed")
    assert [(r.outcome, r.format) for r in results] == [(1.0, 1.0), (1.0, 0.0)]


def test_reasons_are_for_people():
    results = score(
        IOPredictionTask(direction="output"), ADD, tag("5"), tag("6"), tag("'5'"), tag("add(1)"), ""
    )
    assert [r.reason for r in results] == [
        "right",
        "wrong value: 6",
        "wrong type: '5'",
        "answer calls add",
        "no answer",
    ]


def test_any_input_that_gives_the_output_is_right(pool):
    task = IOPredictionTask(pool, direction="input")
    right = ["2, b=3", "4", "b=0, a=5", "a=-1, b=6"]
    wrong = ["1", "2.0, 3", "'5', ''", "", "1, 2, 3", "c=5", "True, True"]
    assert outcomes(task, ADD, *map(tag, right)) == [1.0] * len(right)
    assert outcomes(task, ADD, *map(tag, wrong)) == [0.0] * len(wrong)


@pytest.mark.parametrize(
    "hostile",
    [
        "add.__globals__.__setitem__('add', lambda *a: 5)",
        "(lambda: 5)()",
        "[setattr(__builtins__, 'x', 1)][0], 5",
        "2, b=3) if True else add(1",
        "*[2, 3]",
        "**{'a': 5, 'b': 0}",
        "__import__('os')._exit(0)",
        "type('A', (int,), {'__eq__': lambda *a: True})()",
        "add(2, 3), 0",
    ],
)
def test_arguments_that_are_more_than_literals_are_never_run(pool, hostile):
    (result,) = score(IOPredictionTask(pool, direction="input"), ADD, tag(hostile))
    assert (result.outcome, result.format) == (0.0, 0.0)
    assert result.reason.startswith("answer ")


def test_the_rows_own_arguments_may_be_expressions(pool):
    row = {
        "code": "def f(text, cut):\n    return cut(text)",
        "entry_point": None,
        "input": "'ab'.upper(), lambda t: t[:1]",
        "output": "'A'",
    }
    task = IOPredictionTask(pool, direction="input")
    own, other = tag("'ab'.upper(),lambda t:t[:1]"), tag("'ab'.upper(), lambda t: 'A'")
    assert outcomes(task, row, own, other) == [1.0, 0.0]


def test_what_a_call_does_is_the_models_fault_and_bad_code_is_not(pool):
    def row(body, output="1"):
        return {"code": f"def f(x=0):\n    {body}", "input": "", "output": output}

    task = IOPredictionTask(pool, direction="input")
    assert score(task, row("raise KeyError(x)"), tag("1"))[0].reason == "raised KeyError"
    (dead,) = score(task, row("import os; os._exit(0)"), tag("1"))
    assert (dead.outcome, dead.reason) == (0.0, "crash")
    (fooled,) = score(
        task, row("return type('I', (int,), {'__eq__': lambda *a: True})()"), tag("1")
    )
    assert fooled.outcome == 0.0
    broken = {"code": "def f(): pass\nraise OSError('no')", "input": "", "output": "1"}
    (invalid,) = score(task, broken, tag("1"))
    assert isinstance(invalid, Invalid)
    assert "rows:1" in invalid.reason
    quick = IOPredictionTask(pool, direction="input", timeout_s=0.2)
    (late,) = score(quick, row("\n    while True: pass"), tag("1"))
    assert (late.outcome, late.reason) == (0.0, "timeout")


class Counting:
    """A real pool that notes what it was given."""

    def __init__(self, pool):
        self.pool, self.jobs = pool, []

    async def submit(self, job):
        self.jobs.append(job)
        return await self.pool.submit(job)


def test_equal_answers_run_once_and_expected_values_stay_here(pool):
    counting = Counting(pool)
    task = IOPredictionTask(counting, direction="input")
    row = {**ADD, "output": "-771"}
    texts = [tag("1, 2"), tag("1,2"), "1, 2", tag("3"), tag("f(1)")]
    assert outcomes(task, row, *texts) == [0.0] * 5
    assert [job.calls for job in counting.jobs] == [("add(1, 2)",), ("add(3)",)]
    assert all(isinstance(job, CallJob) for job in counting.jobs)
    assert "771" not in repr(counting.jobs)


def test_a_failing_sandbox_is_invalid_and_a_missing_one_an_error():
    class Failing:
        async def submit(self, job):
            return Outcome("infra_error", message="no descriptors left")

    (result,) = score(IOPredictionTask(Failing(), direction="input"), ADD, tag("1"))
    assert result == Invalid("no descriptors left")
    with pytest.raises(SandboxError, match="io_prediction"):
        score(IOPredictionTask(direction="input"), ADD, tag("1"))


def test_directions():
    both = IOPredictionTask()
    rows = [{**ADD, "input": str(n), "output": str(n + 1)} for n in range(400)]
    drawn = [both.example(row, origin="r").fields["direction"] for row in rows]
    assert drawn == [both.example(row, origin="elsewhere").fields["direction"] for row in rows]
    assert 150 < drawn.count("input") < 250
    for direction in ("input", "output"):
        assert both.example({**ADD, "direction": direction}, origin="r").fields["direction"] == (
            direction
        )
        one = IOPredictionTask(direction=direction)
        assert {one.example(row, origin="r").fields["direction"] for row in rows} == {direction}
    keys = {IOPredictionTask(direction=d).example(ADD, origin="r").key for d in ("input", "output")}
    assert len(keys) == 2


def test_the_unit_is_the_function():
    task = IOPredictionTask()
    one, two = task.example(ADD, origin="a"), task.example({**ADD, "input": "1"}, origin="b")
    assert one.unit == two.unit
    assert one.key != two.key
    assert task.example(
        {**ADD, "entry_point": "add", "code": ADD["code"] + "\n"}, origin="a"
    ).unit != (one.unit)
    assert task.example(ADD, origin="a", unit="u").unit == "u"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"code": None}, "code"),
        ({"code": "def add(:"}, "code"),
        ({"code": "x = 1"}, "code"),
        ({"entry_point": 3}, "entry_point"),
        ({"entry_point": "sub"}, "code"),
        ({"input": 3}, "input"),
        ({"input": "1) + (2"}, "input"),
        ({"output": 5}, "output"),
        ({"output": "Counter({1: 2})"}, "output"),
        ({"output": "<object at 0x0>"}, "output"),
        ({"direction": "sideways"}, "direction"),
    ],
)
def test_a_bad_row_names_its_origin_and_field(change, field):
    with pytest.raises(DataError, match=rf"^file\.jsonl:12: .*'{field}'"):
        IOPredictionTask().example({**ADD, **change}, origin="file.jsonl:12")


@pytest.mark.parametrize("missing", ["code", "input", "output"])
def test_a_missing_field_is_named(missing):
    row = {name: value for name, value in ADD.items() if name != missing}
    with pytest.raises(DataError, match=rf"^rows:9: field '{missing}' is missing"):
        IOPredictionTask().example(row, origin="rows:9")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": "up"}, "'direction'.*'up'"),
        ({"timeout_s": 0.0}, "'timeout_s'.*0.0"),
        ({"way": 1}, "'way'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        IOPredictionTask.from_config(options, None)


def test_one_turn():
    task = IOPredictionTask()
    assert asyncio.run(task.respond(task.example(ADD, origin="r"), [])) is None


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=6,
)


@given(plain)
def test_for_any_value_gold_is_right_and_every_broken_answer_is_not(value):
    task = IOPredictionTask(direction="output")
    example = task.example(returning(repr(value)), origin="r")
    assert len(task.broken(example)) >= 3
    report = asyncio.run(validation.validate(task, [example]))
    assert report.ok, report


@pytest.mark.parametrize("direction", ["output", "input"])
@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        ("def f(x):\n    return x", "2", "gives 1"),
        ("def f(x):\n    return x / 0", "1", "raised ZeroDivisionError"),
        ("def f(x):\n    return x", "True", "gives 1"),
    ],
)
def test_validation_runs_the_row_in_either_direction(pool, direction, code, output, reason):
    counting = Counting(pool)
    task = IOPredictionTask(counting, direction=direction)
    rows = [{"code": code, "input": "1", "output": o} for o in (output, "'never'")]
    examples = [task.example(row, origin=f"rows:{n}") for n, row in enumerate(rows)]
    report = asyncio.run(task.validate(examples))
    assert not report.ok
    assert [(origin, outcome) for origin, outcome, _ in report.gold_below_ceiling] == [
        ("rows:0", 0.0),
        ("rows:1", 0.0),
    ]
    assert reason in report.gold_below_ceiling[0][2]
    assert "never" not in repr(counting.jobs)
    right = task.example(
        {"code": "def f(x):\n    return x", "input": "1", "output": "1"}, origin="r"
    )
    assert asyncio.run(task.validate([right])).ok


def test_validation_says_of_either_direction_that_a_row_cannot_be_run(pool):
    row = {"code": "import no_such\ndef f(x):\n    return x", "input": "1", "output": "1"}
    task = IOPredictionTask(pool, direction="output")
    report = asyncio.run(task.validate([task.example(row, origin="rows:4")]))
    ((origin, reason),) = report.invalid
    assert origin == "rows:4"
    assert "'code' can't be loaded" in reason
    without = IOPredictionTask(direction="output")
    with pytest.raises(SandboxError, match="io_prediction"):
        asyncio.run(without.validate([without.example(row, origin="rows:4")]))


def read(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.shared
@pytest.mark.parametrize("direction", ["output", "input"])
def test_all_of_cruxeval_in_both_directions(pool, shared_data, direction):
    task = IOPredictionTask(pool, direction=direction)
    rows = read(shared_data / "io_prediction.heldout.cruxeval.jsonl.gz")
    examples = [task.example(row, origin=row["id"]) for row in rows]
    assert len({example.key for example in examples}) == 800
    report = asyncio.run(task.validate(examples))
    assert report.checked == 800
    assert report.ok, report


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mbpp", "thealgorithms"])
def test_training_rows_give_their_outputs(pool, shared_data, name):
    task = IOPredictionTask(pool)
    rows = read(shared_data / f"io_prediction.train.{name}.jsonl.gz")
    examples = [task.example(row, origin=row["id"]) for row in rows]
    assert {example.fields["direction"] for example in examples} == {"output", "input"}
    report = asyncio.run(task.validate(examples[::7]))
    assert report.ok, report


def test_scores_align_with_pairs_over_examples(pool):
    task = IOPredictionTask(pool)
    rows = [{**ADD, "direction": d} for d in ("output", "input")]
    one, two = (task.example(row, origin="r") for row in rows)
    pairs = [
        (two, rollout_of(tag("4"))),
        (one, rollout_of(tag("5"))),
        (two, rollout_of(tag("9"))),
        (one, rollout_of(tag("4"))),
        (two, rollout_of(tag("5, 0"))),
    ]
    scores = asyncio.run(task.score(pairs))
    assert all(isinstance(s, Score) for s in scores)
    assert [s.outcome for s in scores] == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert [dict(s.metrics) for s in scores] == [
        {"input_accuracy": 1.0},
        {"output_accuracy": 1.0},
        {"input_accuracy": 0.0},
        {"output_accuracy": 0.0},
        {"input_accuracy": 1.0},
    ]
