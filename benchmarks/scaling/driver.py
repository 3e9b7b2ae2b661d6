"""The driver's loop around a coordinator, with a stopwatch on everything that is ours."""

from __future__ import annotations

import json
import pickle
import resource
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from astor_rl.plan import GradientProbe, StepPlan, UpdateStats
from benchmarks.common import summary
from benchmarks.scaling.case import Case, coordinator
from benchmarks.scaling.engines import FLEETS, Fleet

_SETTLING: Final = 4
"""Steps before those that count: warm-up of the schedule, first pages of memory."""
_DIRECTIONS: Final = 64
"""Dimensions of the made-up gradients."""
STEP_SECONDS: Final = (10, 30, 120)
"""Step times that the share is given for."""


class Stopwatch:
    """Wall and CPU milliseconds by part, of the step under way."""

    def __init__(self) -> None:
        self.wall_ms: dict[str, float] = defaultdict(float)
        self.cpu_ms: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside."""
        cpu = time.thread_time()  # a system call, which may take long: outside the wall time
        wall = time.perf_counter()
        yield
        self.wall_ms[name] += (time.perf_counter() - wall) * 1e3
        self.cpu_ms[name] += (time.thread_time() - cpu) * 1e3


class Driver:
    """One run of a case."""

    def __init__(self, case: Case, fleet: Fleet) -> None:
        self._case = case
        self._fleet = fleet
        self._coordinator = coordinator(case)
        self._rng = np.random.default_rng(0)
        self._plans: deque[StepPlan] = deque()
        self._missing: dict[int, int] = {}
        self._watch = Stopwatch()
        self._bytes: dict[str, int] = defaultdict(int)
        self._messages = 0
        self._ages: list[int] = []

    def run(self) -> dict[str, Any]:
        """Take all steps; figures by part, bytes, shares."""
        watches, sent = [], []
        for step in range(_SETTLING + self._case.steps):
            self._watch, self._bytes, self._messages = Stopwatch(), defaultdict(int), 0
            self._step(step)
            watches.append(self._watch)
            sent.append({**self._bytes, "messages": self._messages})
        self._drain()
        return self._result(watches[_SETTLING:], sent[_SETTLING:])

    def _step(self, revision: int) -> None:
        """Keep enough plans in flight, wait for the oldest, train on it."""
        while len(self._plans) <= self._case.staleness:
            self._dispatch(revision)
        plan = self._plans.popleft()
        self._collect(plan)
        stats = self._update(plan)
        with self._watch.part("observe_update"):
            self._coordinator.observe_update(plan.id, revision + 1, stats)
        with self._watch.part("record"):
            record = json.dumps([self._coordinator.metrics(), plan.receipt.as_dict()])
        self._bytes["record"] += len(record)
        self._ages.append(revision - plan.revision)

    def _dispatch(self, revision: int) -> None:
        with self._watch.part("plan"):
            plan = self._coordinator.plan(revision=revision)
        with self._watch.part("messages"):
            engines = min(self._case.engines, len(plan.items))
            messages = [
                pickle.dumps((plan.id, list(plan.items[engine::engines])))
                for engine in range(engines)
            ]
        self._bytes["sent"] += sum(map(len, messages))
        self._messages += len(messages)
        self._plans.append(plan)
        self._missing[plan.id] = len(plan.items)
        self._fleet.send(messages)

    def _collect(self, plan: StepPlan) -> None:
        """Take in answers of any plan until this one's are complete."""
        while self._missing[plan.id]:
            messages = self._fleet.receive()
            self._bytes["received"] += sum(map(len, messages))
            self._messages += len(messages)
            with self._watch.part("messages"):
                answers = [pickle.loads(message) for message in messages]
            with self._watch.part("observe_groups"):
                for plan_id, groups in answers:
                    self._coordinator.observe_groups(plan_id, groups)
            for plan_id, groups in answers:
                self._missing[plan_id] -= len(groups)
        del self._missing[plan.id]

    def _update(self, plan: StepPlan) -> UpdateStats:
        """Figures such as a trainer reports; with a Gram on probe steps."""
        present = {item.task for item in plan.items}
        stats = UpdateStats(
            kl=dict.fromkeys(present, 0.01),
            loss_tokens=dict.fromkeys(present, 1_000),
            probe=self._gram(plan) if plan.probe else None,
        )
        with self._watch.part("messages"):
            message = pickle.dumps(asdict(stats))
        self._bytes["update"] += len(message)
        return stats

    def _gram(self, plan: StepPlan) -> GradientProbe:
        halves = {(item.task, item.half) for item in plan.items}
        names = sorted({name for name, _ in halves if {(name, 0), (name, 1)} <= halves})
        rows = self._rng.normal(size=(2 * len(names), _DIRECTIONS)) + 1.0
        return GradientProbe(tuple(names), rows @ rows.T, groups=(1,) * len(rows))

    def _drain(self) -> None:
        """Wait for what is under way, so that the fleet is idle afterwards."""
        for plan in self._plans:
            while self._missing[plan.id]:
                for message in self._fleet.receive():
                    plan_id, groups = pickle.loads(message)
                    self._missing[plan_id] -= len(groups)

    def _result(
        self, watches: Sequence[Stopwatch], sent: Sequence[dict[str, int]]
    ) -> dict[str, Any]:
        totals = [sum(watch.wall_ms.values()) for watch in watches]
        cpu = [sum(watch.cpu_ms.values()) for watch in watches]
        mean_ms, mean_cpu_ms = float(np.mean(totals)), float(np.mean(cpu))
        started = time.perf_counter()
        state = len(pickle.dumps(self._coordinator.state_dict()))
        state_ms = (time.perf_counter() - started) * 1e3
        names = sorted({name for watch in watches for name in watch.wall_ms})
        return {
            **asdict(self._case),
            "step_ms": summary(totals),
            "step_ms_mean": mean_ms,
            "step_cpu_ms_mean": mean_cpu_ms,
            "step_cpu_ms": summary(cpu),
            "parts_ms": {n: summary([w.wall_ms.get(n, 0.0) for w in watches]) for n in names},
            # Of means, not medians: a probe step costs more than the others.
            "share": {str(s): mean_ms / 1e3 / s for s in STEP_SECONDS},
            "cpu_share": {str(s): mean_cpu_ms / 1e3 / s for s in STEP_SECONDS},
            "bytes": {
                name: float(np.mean([one.get(name, 0) for one in sent]))
                for name in ("sent", "received", "update", "record")
            },
            "messages": float(np.mean([one["messages"] for one in sent])),
            "staleness_seen": summary([float(age) for age in self._ages[_SETTLING:]]),
            "state_bytes": state,
            "state_ms": state_ms,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        }


def run(case: Case, transport: str, processes: int) -> dict[str, Any]:
    """All steps of one case on a fleet of its own."""
    fleet = FLEETS[transport](processes)
    try:
        return {**Driver(case, fleet).run(), "transport": transport}
    finally:
        fleet.close()
