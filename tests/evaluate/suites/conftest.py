"""Samplers that say what a test wants, rows of every suite, a tiny model that reads any text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import Graded, Question, Report, Suite
from astor_rl.evaluate.suites.registry import Surroundings, make_suite
from astor_rl.evaluate.suites.runner import Sampling, SuiteRunner
from astor_rl.evaluate.suites.store import SampleFile
from astor_rl.rollout.base import Request
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.types import Rollout

Say = Callable[[Question, int, int], str]
"""(question, sample, turn) -> what the model says."""


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """Two sandboxed workers."""
    with ProcessPool(2) as workers:
        yield workers


@dataclass
class ScriptedSampler:
    """Says what it is told to, and remembers what it was asked."""

    suite: Suite
    say: Say
    asked: list[Request] = field(default_factory=list)

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        by_prompt = {q.messages[0]["content"]: q for q in self.suite.questions}
        for request in requests:
            self.asked.append(request)
            turn = sum(message["role"] == "assistant" for message in request.messages)
            question = by_prompt[request.messages[0]["content"]]
            for index in reversed(range(request.num_generations)):
                text = self.say(question, index, turn)
                yield request.id, rollout(text, index)

    def update_weights(self, named_tensors: Iterable[tuple[str, Any]], *, revision: int) -> None:
        raise AssertionError("an evaluation changes no weights")


def rollout(text: str, index: int) -> Rollout:
    return Rollout(text, (1,), (2,), (0.0,), (1,), 0, "stop", index)


@dataclass
class Run:
    """A suite that was run."""

    graded: list[Graded]
    report: Report
    sampler: ScriptedSampler
    file: Path

    def value(self, name: str) -> float:
        return self.report.metrics[name].value


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Run a suite on what is said; `again=True` goes on with the same file."""

    def go(suite: Suite, say: Say, **sampling: Any) -> Run:
        file = tmp_path / suite.name / "samples.jsonl"
        sampler = ScriptedSampler(suite, say)
        render = lambda messages: tuple(range(sum(len(m["content"]) for m in messages)))  # noqa: E731
        runner = SuiteRunner(sampler, render, Sampling(**sampling))
        graded = runner.run(suite, SampleFile(file))
        return Run(graded, suite.report(graded), sampler, file)

    return go


@pytest.fixture
def suite(pool: ProcessPool) -> Callable[..., Suite]:
    """A suite by name, on rows given as plain fields."""

    def make(name: str, *rows: dict[str, Any], limit: int | None = None) -> Suite:
        made = [Row(fields, f"rows:{number}", str(number)) for number, fields in enumerate(rows, 1)]
        return make_suite(name, made, Surroundings(pool), lambda found: list(found)[:limit])

    return make


CRUX = [
    {"code": "def f(xs):\n    return sorted(xs)", "input": "[3, 1, 2]", "output": "[1, 2, 3]"},
    {"code": "def f(a, b='x'):\n    return a + b", "input": "'a==', b='b'", "output": "'a==b'"},
    {"code": "def f(n, g):\n    return g(n)", "input": "2, lambda v: v + 1", "output": "3"},
]

HUMANEVAL = [
    {
        "task_id": "HumanEval/900",
        "prompt": 'import math\n\n\ndef area(r: float) -> float:\n    """Area of a circle.\n\n'
        '    >>> area(0)\n    0.0\n    """\n',
        "canonical_solution": "    return math.pi * r * r\n",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(0) == 0\n"
        "    assert abs(candidate(2.0) - 12.566370614359172) < 1e-9\n",
        "entry_point": "area",
    },
    {
        "task_id": "HumanEval/901",
        "prompt": 'def twice(xs):\n    """Every element two times."""\n',
        "canonical_solution": "    return [x for x in xs for _ in range(2)]\n",
        "test": "def check(candidate):\n    for n in range(3):\n"
        "        assert candidate(list(range(n))) == sorted(list(range(n)) * 2)\n",
        "entry_point": "twice",
    },
]

MBPP = [
    {
        "task_id": 11,
        "text": "Write a function to add two numbers.",
        "code": "def plus(a, b):\r\n    return a + b",
        "test_list": ["assert plus(1, 2) == 3", "assert plus(0, 0) == 0", "assert plus(2, 2) == 4"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {"task_id": 600, "text": "Of the training split.", "code": "", "test_list": []},
]

EXERCISE = {
    "language": "python",
    "prompt": "# Instructions\n\nGreet somebody.",
    "files": {"greeting.py": "def greet(name):\n    pass\n"},
    "reference": {"greeting.py": "def greet(name):\n    return f'Hello, {name}!'\n"},
    "tests": [
        {
            "path": "greeting_test.py",
            "content": "import unittest\n\nfrom greeting import greet\n\n\n"
            "class GreetingTest(unittest.TestCase):\n"
            "    def test_one(self):\n        self.assertEqual(greet('Ann'), 'Hello, Ann!')\n\n"
            "    def test_other(self):\n        self.assertEqual(greet('Bo'), 'Hello, Bo!')\n",
        }
    ],
}

MODULE = {
    "module": "clip.py",
    "entry_point": "clip",
    "code": "def clip(n):\n    if n > 9:\n        return 9\n    return n\n",
    "reference_tests": "from clip import clip\n\n\ndef test_clip():\n"
    "    assert clip(3) == 3\n    assert clip(12) == 9\n    assert clip(10) == 9\n",
    "mutants": [
        {"code": "def clip(n):\n    if n > 10:\n        return 9\n    return n\n"},
        {"code": "def clip(n):\n    if n > 9:\n        return 8\n    return n\n"},
    ],
    "buggy": "def clip(n):\n    if n < 9:\n        return 9\n    return n\n",
    "support_files": {},
}

COMMITS = [
    {"diff": "-a = 1<nl>+a = 2", "msg": "Set a to two in the settings file<nl>and why"},
    {"diff": "-x\n+y", "message": "Rename x to y everywhere\n\nBecause."},
]


@pytest.fixture(scope="session")
def reading_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random one-layer Llama whose tokens are bytes, with room for 8,192."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("reading") / "model"
    specials = ["<pad>", "<s>", "<e>", "<u>", "<a>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<e>",
        additional_special_tokens=["<u>", "<a>"],
    )
    fast.chat_template = (
        "{% for m in messages %}<u>{{ m['content'] }}<e>{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


ROWS: dict[str, Sequence[dict[str, Any]]] = {
    "cruxeval-input": CRUX,
    "cruxeval-output": CRUX,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "aider-polyglot": [EXERCISE],
    "unit-tests": [MODULE],
    "commit-messages": COMMITS,
}


@pytest.fixture(scope="session")
def suite_rows() -> dict[str, Sequence[dict[str, Any]]]:
    """Rows of each suite, in the form its authors publish (where there is one)."""
    return ROWS


def gold(name: str, question: Question) -> str:
    """The reference answer as a model might give it."""
    row = question.example.fields
    match name:
        case "cruxeval-input" | "cruxeval-output":
            return f"[ANSWER]\nassert f({row['input']}) == {row['output']}\n[/ANSWER]"
        case "humaneval":
            return str(row["reference"])
        case "mbpp":
            return f"Here it is:\n```python\n{row['reference']}\n```"
        case "aider-polyglot":
            (source,) = row["reference"].values()
            return f"```python\n{source}```"
        case "unit-tests":
            return f"```python\n{row['tests']}```"
        case _:
            return str(row["subject"])


@pytest.fixture(scope="session")
def golden() -> Callable[[str, Question], str]:
    """`gold`, for tests."""
    return gold
