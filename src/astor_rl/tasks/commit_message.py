"""Commit messages: write the subject line of a change, judged against the one its author wrote.

Outcome: the mean of B-Norm BLEU, ROUGE-L F1 and METEOR between the first line of the completion
and the reference's subject, the three metrics that studies of commit messages report (Tao et al.,
ICSME 2021; MCMDEval+). Similarity to one reference is a proxy: two good messages may share few
words. It is cheap, dense and deterministic, and it can't be had without the reference's words.

Ceiling: what the reference scores against itself. METEOR of identical texts is below 1
(1 - 0.5 / words^3), so the ceiling is (3 - 0.5 / words^3) / 3 for a subject of ASCII words. None
of the three metrics gives any text more than the reference itself.

Format: the share of these rules that hold; nothing at all for an empty completion. A rule that
the reference itself breaks is waived for its example, so a reference always has format 1.
- `one_line`: nothing but one line;
- `length`: at most `max_chars` characters;
- `plain`: no quotes or backticks around it, no list, heading or fence mark, no label such as
  "Commit message:";
- `no_period`: no full stop at the end.

Rows: `diff` and either `subject` or `message` (its first line), texts. Others are ignored, except
`id`, which names the unit. NNGen's rows are tokenised Java; they are taken as they are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self, cast

from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks._diffs import shorten_diff
from astor_rl.tasks.base import Pair, ValidationReport
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import guarded
from astor_rl.tasks.metrics.b_norm import b_norm
from astor_rl.tasks.metrics.meteor import Meteor, SynonymMode
from astor_rl.tasks.metrics.rouge import Rouge
from astor_rl.tasks.validation import (
    defaults_of,
    optional,
    read_options,
    require,
    require_choice,
    validate,
)
from astor_rl.types import Example, Invalid, Message, Score

_SCORED_CHARS = 400
"""Longer lines are scored on their start: no subject is as long, and runaway ones cost time."""

_LABEL = re.compile(r"^(the )?(suggested )?(git )?(commit )?(message|subject|title)( line)? *[:=]")
_MARKS = re.compile(r"^(```|~~~|#+ |[-*+>] |\*\*|\d+[.)] |git commit\b)")
_OPENING = ('"', "'", "`", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{LEFT SINGLE QUOTATION MARK}")
_CLOSING = ('"', "'", "`", "\N{RIGHT DOUBLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}")
_OF_DIFFS = ("diff --git ", "@@ -", "--- a/", "+++ b/")
_GENERIC = ("Update file", "Fix bug")
_FOREIGN = "Исправлена ошибка при чтении файла настроек"


class CommitMessageTask:
    """See the module's docstring.

    Verdict `unforgeable`: nothing is executed, and the reference is never in the prompt.

    Options:
        max_diff_chars: budget of the diff in the prompt, characters; a longer one is shown by
            whole hunks and the prompt says so.
        max_chars: longest subject with full format reward, characters.
        synonyms: METEOR's synonym stage, `auto` (where WordNet is found), `required`, `off`.
            Runs that are compared should say `required` or `off`; every score also carries
            `meteor_synonyms` (1 or 0).
        wordnet_path: folder of WordNet's files; empty searches nltk's and Debian's places.

    Attributes:
        stages: METEOR's stages that run, e.g. `("exact", "stem", "synonym")`.
    """

    kind = "commit_message"
    verdict = "unforgeable"

    def __init__(
        self,
        *,
        max_diff_chars: int = 4000,
        max_chars: int = 72,
        synonyms: SynonymMode = "auto",
        wordnet_path: str = "",
    ) -> None:
        for name, value in (("max_diff_chars", max_diff_chars), ("max_chars", max_chars)):
            if value < 1:
                raise ConfigError(
                    f"option {name!r} of task {self.kind!r} is {value}; it must be >= 1"
                )
        require_choice(self.kind, "synonyms", synonyms, ("auto", "required", "off"))
        self._max_diff_chars = max_diff_chars
        self._max_chars = max_chars
        self._meteor = Meteor(synonyms, wordnet_path or None)
        self._rouge = Rouge(("rougeL",))
        self.stages = self._meteor.stages
        # Identical lines come back within a group and from one visit of a prompt to the next.
        self._similarity = lru_cache(maxsize=65_536)(self._compute_similarity)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Build from options; no sandbox is needed.

        Raises:
            ConfigError: an unknown option or a bad value.
            DataError: `wordnet_path` holds no WordNet.
            DependencyError: a metric's library, or a required WordNet, is missing.
        """
        return cls(**read_options(cls.kind, config, defaults_of(cls)))

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """An example with fields `diff` and `subject`.

        Raises:
            DataError: a field is missing, not a text, or blank.
        """
        diff = require(row, "diff", str, origin)
        if row.get("subject") is None:
            message = require(row, "message", str, origin)
            subject = _first_line(message)
        else:
            subject = _first_line(require(row, "subject", str, origin))
        if not diff.strip():
            raise DataError(f"{origin}: field 'diff' is blank; it must show a change")
        if not subject:
            raise DataError(f"{origin}: the commit's subject is blank; it must say something")
        if subject.startswith(_OF_DIFFS) and not any(
            line.startswith(("+", "-")) for line in diff.splitlines()
        ):
            raise DataError(
                f"{origin}: the commit's subject is {subject!r:.60}, which begins a diff, and "
                "field 'diff' has no changed line (are the two columns swapped?)"
            )
        fields = {"diff": diff, "subject": subject}
        key = content_key(self.kind, fields)
        return Example(key, fields, origin, unit or optional(row, "id", str, origin, key))

    def prompt(self, example: Example) -> list[Message]:
        """One user turn: the diff, shortened if need be, and what to write."""
        diff, note = shorten_diff(cast(str, example.fields["diff"]), self._max_diff_chars)
        fence = "```"
        while fence in diff:
            fence += "`"
        left_out = f"({note})\n" if note else ""
        ask = (
            f"{fence}diff\n{diff}\n{fence}\n{left_out}\n"
            f"Write the subject line of the commit message for this change: "
            f"one plain line of at most {self._max_chars} characters."
        )
        return [{"role": "user", "content": ask}]

    def answer(self, example: Example) -> str:
        """The author's subject line."""
        return cast(str, example.fields["subject"])

    def broken(self, example: Example) -> Mapping[str, str]:
        """An empty line, generic phrases, the words reversed or repeated, the diff, Russian."""
        subject = self.answer(example)
        words = subject.split()
        changed = (
            line[1:].strip()
            for line in cast(str, example.fields["diff"]).splitlines()
            if line[:1] in ("+", "-") and not line.startswith(("+++", "---"))
        )
        variants = {
            "empty": "",
            "generic": _GENERIC[0],
            "other_generic": _GENERIC[1],
            "reversed": " ".join(reversed(words)),
            "repeated": " ".join(words[:1] * 12),
            "diff_line": next((line for line in changed if line), ""),
            "other_language": _FOREIGN,
        }
        # A variant that says the same as the reference isn't a wrong answer.
        same = _compared(subject)
        return {name: text for name, text in variants.items() if _compared(text) != same}

    def ceiling(self, example: Example) -> float:
        """What the reference scores against itself, below 1 because METEOR is."""
        subject = self.answer(example)
        return self._outcome(self._similarity(subject[:_SCORED_CHARS], subject))

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Judge rollouts in a thread of their own; identical completions are judged once."""
        distinct = {(self.answer(example), rollout.text) for example, rollout in pairs}

        def judge() -> dict[tuple[str, str], Score | Invalid]:
            return {pair: guarded(self.kind, self._judge, *pair) for pair in distinct}

        scores = await asyncio.to_thread(judge)
        return [scores[self.answer(example), rollout.text] for example, rollout in pairs]

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """None: one turn."""
        return None

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """Score `answer` and every `broken` variant of each example."""
        return await validate(self, examples)

    def _judge(self, subject: str, text: str) -> Score:
        line = _first_line(text)
        values = self._similarity(line[:_SCORED_CHARS], subject)
        broken_rules = self._broken_rules(text) - self._broken_rules(subject)
        return Score(
            outcome=self._outcome(values),
            format=1 - len(broken_rules) / len(_RULES) if line else 0.0,
            metrics={
                "b_norm": values[0],
                "rouge_l": values[1],
                "meteor": values[2],
                "meteor_synonyms": float("synonym" in self.stages),
                "exact": float(_compared(line) == _compared(subject)),
            },
            reason=", ".join(f"not {rule}" for rule in sorted(broken_rules)) if line else "empty",
        )

    def _compute_similarity(self, line: str, subject: str) -> tuple[float, float, float]:
        rouge_l = self._rouge.f1(line, subject)["rougeL"]
        return b_norm(line, subject), rouge_l, self._meteor(line, subject)

    @staticmethod
    def _outcome(values: tuple[float, float, float]) -> float:
        return sum(values) / 3

    def _broken_rules(self, text: str) -> frozenset[str]:
        line = _first_line(text)
        holds = {
            "one_line": text.strip() == line,
            "length": len(line) <= self._max_chars,
            "plain": _is_plain(line),
            "no_period": not line.endswith("."),
        }
        return frozenset(rule for rule in _RULES if not holds[rule])


_RULES = ("one_line", "length", "plain", "no_period")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _compared(text: str) -> list[str]:
    return text.lower().split()


def _is_plain(line: str) -> bool:
    wrapped = line[:1] in _OPENING and line[-1:] in _CLOSING
    return not (wrapped or _MARKS.match(line) or _LABEL.match(line.lower()))
