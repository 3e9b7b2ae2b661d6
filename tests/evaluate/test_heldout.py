"""Held-out results: means over examples, errors of small samples, what doesn't count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.evaluate.heldout import HeldOut, Judged, evaluate, summarise
from astor_rl.rollout.base import Request
from astor_rl.types import Example, Invalid, Rollout, Score


def item(task: str, number: int) -> HeldOut:
    example = Example(f"{task}-{number}", {}, f"rows:{number}", f"u{number}")
    return HeldOut(number, task, example, ({"role": "user", "content": "?"},), (1, 2), 8)


def rollout(index: int = 0, *, reason: str = "stop") -> Rollout:
    return Rollout("x", (1, 2), (3,), (0.0,), (1,), 0, reason, index)  # type: ignore[arg-type]


def judged(task: str, number: int, verdicts: Sequence[Score | Invalid]) -> Judged:
    rollouts = tuple(rollout(i) for i in range(len(verdicts)))
    return Judged(item(task, number), rollouts, tuple(verdicts))


def test_mean_and_error_are_over_examples_not_samples() -> None:
    groups = [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    result = summarise(
        [judged("t", i, [Score(o, 1.0) for o in group]) for i, group in enumerate(groups)]
    )["t"]
    assert result.outcome == pytest.approx(0.5)
    assert result.outcome_se == pytest.approx(0.5 / math.sqrt(3))
    assert result.mixed == pytest.approx(1 / 3)
    assert result.per_example == {"t-0": 1.0, "t-1": 0.5, "t-2": 0.0}


def test_invalid_samples_count_nowhere() -> None:
    result = summarise(
        [
            judged("t", 0, [Score(1.0, 0.0), Invalid("down")]),
            judged("t", 1, [Invalid("down"), Invalid("down")]),
        ]
    )["t"]
    assert (result.outcome, result.examples, result.invalid) == (1.0, 1, 3)
    assert result.outcome_se is None


@given(count=st.integers(2, 50), value=st.sampled_from([0.0, 1.0]))
def test_equal_outcomes_are_no_certainty(count: int, value: float) -> None:
    """Agresti and Coull: (x + 2) / (n + 4), so that 0 of 4 is not 0 with no error."""
    result = summarise([judged("t", i, [Score(value, 1.0)]) for i in range(count)])["t"]
    p = (value * count + 2) / (count + 4)
    assert result.outcome_se == pytest.approx(math.sqrt(p * (1 - p) / (count + 4)))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1))
def test_error_is_that_of_the_mean(values: list[float]) -> None:
    result = summarise([judged("t", i, [Score(v, 1.0)]) for i, v in enumerate(values)])["t"]
    assert result.outcome == pytest.approx(np.mean(values))
    assert result.outcome_se == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_metrics_average_over_the_samples_that_have_them() -> None:
    result = summarise(
        [
            judged("t", 0, [Score(1.0, 1.0, {"a": 1.0, "b": 3.0})]),
            judged("t", 1, [Score(0.0, 1.0, {"a": 0.0})]),
        ]
    )["t"]
    assert result.metrics == {"a": 0.5, "b": 3.0}


class _Shuffled:
    """A sampler that hands rollouts back in an order of its own."""

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        asked = list(requests)
        for index in (1, 0):
            for request in reversed(asked):
                yield request.id, rollout(index)

    def update_weights(self, named_tensors: Iterable[tuple[str, object]], *, revision: int) -> None:
        raise NotImplementedError


def test_rollouts_are_sorted_out_by_example_and_index() -> None:
    def submit(
        task: str, example: Example, rollouts: Sequence[Rollout]
    ) -> Future[list[Score | Invalid]]:
        assert [one.index for one in rollouts] == [0, 1]
        future: Future[list[Score | Invalid]] = Future()
        future.set_result([Score(float(example.key[-1] == "1"), 1.0) for _ in rollouts])
        return future

    items = [item("a", 0), item("b", 1)]
    seen: list[tuple[int, int]] = []
    done = list(
        evaluate(
            _Shuffled(),
            submit,
            items,
            samples=2,
            temperature=1.0,
            seed=0,
            progress=lambda n, total: seen.append((n, total)),
        )
    )
    results = summarise(done)
    assert (results["a"].outcome, results["b"].outcome) == (0.0, 1.0)
    assert seen == [(1, 2), (2, 2)]
