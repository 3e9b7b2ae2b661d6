"""The folder of an evaluation: its settings, every sample, its results. Survives a kill.

`settings.json` says what was asked; `NAME/samples.jsonl` has a line for each sample, written when a
block of questions has been judged; `results.json` comes last. What is in `samples.jsonl` is never
sampled again, and as a block is always sampled whole, in the same company, an evaluation that was
killed and resumed has the same samples and figures as one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from astor_rl.errors import DataError, StateError
from astor_rl.evaluate.suites.base import Graded, Question, Turn
from astor_rl.report.atomic import SURROGATES, dumps, replacing, write_json, writing
from astor_rl.report.lock import FolderLock
from astor_rl.report.run_folder import differences
from astor_rl.types import Invalid, Score

SETTINGS, SAMPLES, RESULTS = "settings.json", "samples.jsonl", "results.json"


def refuse_used(path: Path, *, resume: bool) -> None:
    """Check, before anything is loaded, that a folder is free or is to be gone on with.

    Raises:
        StateError: it holds an evaluation and `resume` is False.
    """
    if (path / SETTINGS).exists() and not resume:
        raise StateError(
            f"{str(path)!r} holds an evaluation already; give --resume to go on with that one, or "
            "another --output for this one"
        )


class EvaluationFolder:
    """Opens a folder for one evaluation; use as a context manager.

    Args:
        path: made if it isn't there.
        settings: what decides the results, JSON-ready.
        resume: go on with what is there.

    Raises:
        StateError: the folder holds an evaluation already and `resume` is False; or it holds one
            with other settings; or another process is writing there.
        CheckpointError: it can't be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(path / ".lock")
        try:
            self._check(json.loads(dumps(settings)), resume)
        except BaseException:
            self._lock.release()
            raise

    def _check(self, settings: dict[str, Any], resume: bool) -> None:
        file = self.path / SETTINGS
        refuse_used(self.path, resume=resume)
        if file.exists():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"can't read {file}: {error}") from None
            if changed := differences(before, settings):
                raise StateError(
                    f"{str(self.path)!r} holds an evaluation with other settings: "
                    f"{'; '.join(changed[:3])}; give another --output"
                )
        write_json(file, settings)

    def samples(self, suite: str) -> SampleFile:
        """The samples of one suite."""
        return SampleFile(self.path / suite / SAMPLES)

    def save(self, results: Mapping[str, Any]) -> Path:
        """Write the results; returns where."""
        write_json(self.path / RESULTS, results)
        return self.path / RESULTS

    def __enter__(self) -> EvaluationFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


class SampleFile:
    """Lines of JSON, one a sample, appended block by block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, questions: Sequence[Question], samples: int) -> dict[int, Graded]:
        """What is there of whole questions, by their place; what is torn is as if not there.

        Args:
            questions: the suite's.
            samples: how many make a question whole.
        """
        found: dict[int, dict[int, tuple[Turn, ...]]] = {}
        for record in self._records():
            place = record["question"]
            known = place < len(questions) and record["key"] == questions[place].example.key
            if not known:
                raise StateError(
                    f"{self.path} has question {place} of other data; give another --output"
                )
            turns = tuple(map(_turn, record["turns"]))
            found.setdefault(place, {})[record["sample"]] = turns
        return {
            place: Graded(questions[place], tuple(turns for _, turns in sorted(group.items())))
            for place, group in found.items()
            if len(group) == samples
        }

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        # A kill may cut a line in the middle of a character.
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:  # the line that a kill cut off
                    return

    def rewrite(self, graded: Mapping[int, Graded]) -> None:
        """Make the file hold exactly these, in order."""
        with replacing(self.path) as partial:
            partial.write_text(_lines(graded), encoding="utf-8", errors=SURROGATES)

    def append(self, graded: Mapping[int, Graded]) -> None:
        """Add finished questions; they are on the disk when this returns."""
        with (
            writing(self.path),
            self.path.open("a", encoding="utf-8", errors=SURROGATES) as file,
        ):
            file.write(_lines(graded))
            file.flush()
            os.fsync(file.fileno())


def _lines(graded: Mapping[int, Graded]) -> str:
    return "".join(
        dumps(_record(place, number, one, turns)) + "\n"
        for place, one in sorted(graded.items())
        for number, turns in enumerate(one.samples)
    )


def _record(place: int, number: int, one: Graded, turns: Sequence[Turn]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "question": place,
        "sample": number,
        "key": one.question.example.key,
        "origin": one.question.example.origin,
    }
    if number == 0:
        record["prompt"] = one.question.messages[-1]["content"]
    return {**record, "turns": [_as_dict(turn) for turn in turns]}


def _as_dict(turn: Turn) -> dict[str, Any]:
    verdict = turn.verdict
    said = {"completion": turn.text, "finish_reason": turn.finish_reason}
    if isinstance(verdict, Invalid):
        return {**said, "invalid": verdict.reason}
    return {
        **said,
        "outcome": verdict.outcome,
        "format": verdict.format,
        "metrics": dict(verdict.metrics),
        "reason": verdict.reason,
    }


def _turn(record: Mapping[str, Any]) -> Turn:
    if "invalid" in record:
        verdict: Score | Invalid = Invalid(record["invalid"])
    else:
        verdict = Score(record["outcome"], record["format"], record["metrics"], record["reason"])
    return Turn(record["completion"], record["finish_reason"], verdict)
