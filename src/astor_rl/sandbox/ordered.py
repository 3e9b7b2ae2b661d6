"""Results in the order of their jobs, however the jobs end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice

from astor_rl.sandbox.api import Job, Outcome


def in_order(
    jobs: Iterable[Job], enqueue: Callable[[Job], Future[Outcome]], ahead: int
) -> Iterator[Outcome]:
    """Outcomes one by one.

    Args:
        jobs: read as results are taken.
        enqueue: starts a job.
        ahead: most jobs started whose results weren't taken.
    """
    waiting: deque[Future[Outcome]] = deque()
    source = iter(jobs)
    try:
        for job in islice(source, ahead):
            waiting.append(enqueue(job))
        while waiting:
            outcome = waiting.popleft().result()
            for job in islice(source, 1):
                waiting.append(enqueue(job))
            yield outcome
    finally:
        for future in waiting:
            future.cancel()
