"""Commit messages against their authors': BLEU's variants under their own names, ROUGE, METEOR.

Judged is the first line of a completion against the first line of the author's message: what comes
after a model's thinking, inside a fence if it opens with one, without quotes around it. Metrics
that split at white space see punctuation apart from words, in both, as the published data have it.
Figures of `b_norm`, `b_cc`, ROUGE and METEOR are means over commits; `b_moses` is one BLEU of the
whole corpus (Tao et al., ICSME 2021, on why papers that only say BLEU can't be compared).

Rows come as this project's (`diff`, and `subject` or `message`), or with the names that MCMD and
its descendants (MCMDEval+) use in JSON lines: `msg`, `commit_message` or `nl` for the message,
`change` or `code_diff` for the diff, `<nl>` for a line break in either.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import (
    Answer,
    Graded,
    Question,
    Report,
    SingleTry,
    mean_of_metric,
)
from astor_rl.evaluate.suites.statistics import Metric, jackknife, mean_metric
from astor_rl.tasks.commit_message import CommitMessageTask
from astor_rl.tasks.guard import guarded
from astor_rl.tasks.metrics.b_norm import b_norm
from astor_rl.tasks.metrics.bleu import b_moses, sentence_bleu
from astor_rl.tasks.metrics.meteor import Meteor, SynonymMode
from astor_rl.tasks.metrics.rouge import KINDS, Rouge
from astor_rl.tasks.metrics.words import spaced
from astor_rl.tasks.parsing import after_thinking
from astor_rl.types import Invalid, Score

MEANS = ("b_norm", "b_cc", "rouge1", "rouge2", "rougeL", "meteor")
"""Metrics that are means over commits, in the order of the table; `b_moses` is none."""

_QUOTES = {
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
    ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"),
}
_FENCE = re.compile(r"```[^`]*|~~~.*")
_TICKED = re.compile(r"(`+) *([^`]*[^` ]) *\1")
_MESSAGES = ("subject", "message", "msg", "commit_message", "nl")
_DIFFS = ("diff", "change", "code_diff")


class CommitMetrics:
    """Scores pairs of lines.

    Args:
        synonyms: METEOR's synonym stage.

    Attributes:
        stages: METEOR's stages that run.
    """

    def __init__(self, synonyms: SynonymMode = "auto") -> None:
        self._rouge = Rouge(KINDS)
        self._meteor = Meteor(synonyms)
        self.stages = self._meteor.stages

    def pair(self, hypothesis: str, reference: str) -> dict[str, float]:
        """Each of `MEANS` for one pair: in [0, 1], but `b_cc`, which a very short text exceeds."""
        ours, theirs = spaced(hypothesis), spaced(reference)
        return {
            "b_norm": b_norm(hypothesis, reference),
            "b_cc": sentence_bleu([ours], [theirs]),
            **self._rouge.f1(hypothesis, reference),
            "meteor": self._meteor(ours, theirs),
        }


class CommitMessageSuite(SingleTry):
    """Subject lines for diffs.

    Args:
        rows: see the module's docstring.

    Raises:
        DataError: a row lacks a field or holds something else.
        DependencyError: a metric's library is missing.
    """

    name = "commit-messages"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.max_tokens = 64
        self._metrics = CommitMetrics()
        task = CommitMessageTask()
        examples = [
            task.example(row.fields, origin=row.origin, unit=row.unit) for row in map(_named, rows)
        ]
        self.questions = [Question(example, tuple(task.prompt(example))) for example in examples]

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """Metrics of each answer; the outcome is `b_norm`."""
        return await asyncio.to_thread(
            lambda: [guarded(self.name, self._judge, answer) for answer in answers]
        )

    def _judge(self, answer: Answer) -> Score:
        metrics = self._metrics.pair(_line(answer.text), answer.question.example.fields["subject"])
        return Score(metrics["b_norm"], 1.0, metrics, "")

    def report(self, graded: Sequence[Graded]) -> Report:
        """Means with errors over commits; corpus BLEU with a jackknife error."""
        judged = [one for one in graded if one.last()]
        metrics: dict[str, Metric] = {"b_moses": jackknife(judged, _corpus_bleu)}
        for name in MEANS:
            metrics[name] = mean_metric(mean_of_metric(judged, name))
        stages = " + ".join(self._metrics.stages)
        return Report(
            {name: metrics[name] for name in ("b_norm", "b_moses", *MEANS[1:])},
            notes=(f"METEOR ran the stages {stages}; compare only with the same stages",),
            lacking=(
                {}
                if "synonym" in self._metrics.stages
                else {"meteor": "without WordNet's synonyms"}
            ),
        )


def _corpus_bleu(graded: Sequence[Graded]) -> float:
    pairs = [
        (_line(turns[-1].text), one.question.example.fields["subject"])
        for one in graded
        for turns in one.samples
        if isinstance(turns[-1].verdict, Score)
    ]
    return b_moses([spaced(line) for line, _ in pairs], [spaced(subject) for _, subject in pairs])


def _line(text: str) -> str:
    """The line that is meant; empty if there is none."""
    lines = (line.strip() for line in after_thinking(text).splitlines())
    line = next((each for each in lines if each and not _FENCE.fullmatch(each)), "")
    if ticks := _TICKED.fullmatch(line):
        return ticks[2]
    inner = line[1:-1].strip()
    is_quoted = bool(inner) and (line[0], line[-1]) in _QUOTES and line[0] not in inner
    return inner if is_quoted else line


def _named(row: Row) -> Row:
    fields = {
        name: value.replace("<nl>", "\n").replace("<NL>", "\n") if isinstance(value, str) else value
        for name, value in row.fields.items()
    }
    _rename(fields, "diff", _DIFFS)
    if fields.get("subject") is None:
        _rename(fields, "message", _MESSAGES)
    return replace(row, fields=fields)


def _rename(fields: dict[str, object], name: str, known: Sequence[str]) -> None:
    found: Mapping[str, object] = {alias: fields[alias] for alias in known if fields.get(alias)}
    if fields.get(name) is None and found:
        fields[name] = next(iter(found.values()))
