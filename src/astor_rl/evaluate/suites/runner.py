"""Puts a suite's questions to a model, block by block, and has the answers judged meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from astor_rl.evaluate.suites.base import NOT_ASKED, TOO_LONG, Answer, Graded, Question, Suite, Turn
from astor_rl.evaluate.suites.store import SampleFile
from astor_rl.rollout.base import Request, Sampler
from astor_rl.tasks.guard import guarded_async
from astor_rl.types import Invalid, Message, Score

Render = Callable[[Sequence[Message]], tuple[int, ...]]
"""A conversation as the token ids of its prompt."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled.

    Attributes:
        samples: answers to each question, >= 1.
        temperature: 0 for greedy.
        seed: with the weights it fixes the answers.
        max_tokens: length limit of a completion; None for the suite's own.
        max_positions: the model's longest sequence, tokens; None for no limit.
        rows: completions sampled together, >= 1. Like the seed, it is part of what fixes the last
            bits of an answer.
    """

    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int | None = None
    max_positions: int | None = None
    rows: int = 128


@dataclass
class _Talk:
    """One sample under way."""

    place: int
    number: int
    question: Question
    messages: tuple[Message, ...]
    turns: list[Turn] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether another try makes sense: it was judged, wrong, and fits the model."""
        last = self.turns[-1]
        judged = isinstance(last.verdict, Score) and last.verdict.outcome < 1
        return judged and last.finish_reason != TOO_LONG


class SuiteRunner:
    """Runs suites on one model.

    Args:
        sampler: has the weights.
        render: the model's chat template.
        sampling: how.
        progress: told (suite's name, questions done, questions in all).
    """

    def __init__(
        self,
        sampler: Sampler,
        render: Render,
        sampling: Sampling,
        *,
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> None:
        self._sampler = sampler
        self._render = render
        self._sampling = sampling
        self._progress = progress
        self._done = 0

    def run(self, suite: Suite, file: SampleFile) -> list[Graded]:
        """All questions with their samples: those in the file, and the rest, sampled now.

        Raises:
            AstorError: the sampler, the sandbox or the disk failed.
        """
        width = max(1, self._sampling.rows // self._sampling.samples)
        blocks = [
            range(start, min(start + width, len(suite.questions)))
            for start in range(0, len(suite.questions), width)
        ]
        found = file.read(suite.questions, self._sampling.samples)
        whole = [block for block in blocks if all(place in found for place in block)]
        graded = {place: found[place] for block in whole for place in block}
        file.rewrite(graded)
        self._progress(suite.name, len(graded), len(suite.questions))
        with ThreadPoolExecutor(1, thread_name_prefix="suite") as thread:
            for done in self._ahead(suite, [b for b in blocks if b not in whole], thread):
                file.append(done)
                graded |= done
        file.rewrite(graded)
        return [graded[place] for place in sorted(graded)]

    def _ahead(
        self, suite: Suite, blocks: Sequence[range], thread: ThreadPoolExecutor
    ) -> Iterator[dict[int, Graded]]:
        """Judged blocks; while one is judged the next is sampled."""
        waiting: Future[dict[int, Graded]] | None = None
        for block in blocks:
            self._done = block.start
            talks = self._begin(suite, block)
            texts = self._sample(suite, talks, turn=0)
            # A later try needs the verdict on the one before: nothing is left to overlap.
            if suite.turns > 1:
                yield self._to_the_end(suite, talks, texts, thread)
                continue
            if waiting is not None:
                yield waiting.result()
            waiting = thread.submit(self._finish, suite, talks, texts)
        if waiting is not None:
            yield waiting.result()

    def _begin(self, suite: Suite, block: Sequence[int]) -> list[_Talk]:
        return [
            _Talk(place, number, suite.questions[place], suite.questions[place].messages)
            for place in block
            for number in range(self._sampling.samples)
        ]

    def _to_the_end(
        self,
        suite: Suite,
        talks: Sequence[_Talk],
        texts: Mapping[int, tuple[str, str]],
        thread: ThreadPoolExecutor,
    ) -> dict[int, Graded]:
        live = list(talks)
        for turn in range(suite.turns):
            thread.submit(_judge, suite, live, texts).result()
            if turn + 1 == suite.turns:
                break
            live = [talk for talk in live if talk.failed]
            live = thread.submit(_follow_up, suite, live).result()
            if not live:
                break
            texts = self._sample(suite, live, turn=turn + 1)
        return _grouped(talks)

    @staticmethod
    def _finish(
        suite: Suite, talks: Sequence[_Talk], texts: Mapping[int, tuple[str, str]]
    ) -> dict[int, Graded]:
        _judge(suite, talks, texts)
        return _grouped(talks)

    def _sample(
        self, suite: Suite, talks: Sequence[_Talk], *, turn: int
    ) -> dict[int, tuple[str, str]]:
        """(completion, finish reason) by the talk's place in `talks`."""
        # First tries share their prompt: one request asks for all samples of a question.
        groups: dict[tuple[int, int], list[int]] = {}
        for index, talk in enumerate(talks):
            groups.setdefault((talk.place, talk.number if turn else 0), []).append(index)
        answers: dict[int, tuple[str, str]] = {}
        requests: list[Request] = []
        asked: list[list[int]] = []
        for members in groups.values():
            first = talks[members[0]]
            prompt = self._render(first.messages)
            room = self._room(suite, len(prompt))
            if room < 1:
                said = f"the prompt's {len(prompt)} tokens don't fit the model"
                answers |= dict.fromkeys(members, (said, TOO_LONG))
                continue
            asked.append(members)
            requests.append(
                Request(
                    id=len(requests),
                    messages=first.messages,
                    prompt_ids=prompt,
                    num_generations=len(members),
                    max_tokens=room,
                    seed=_seed(self._sampling.seed, suite.name, first, turn),
                    temperature=self._sampling.temperature,
                    stop=suite.stop,
                )
            )
        for number, rollout in self._sampler.sample(requests):
            answers[asked[number][rollout.index]] = (rollout.text, rollout.finish_reason)
            if turn == 0:
                sampled = self._done + len(answers) // self._sampling.samples
                self._progress(suite.name, sampled, len(suite.questions))
        return answers

    def _room(self, suite: Suite, prompt: int) -> int:
        wanted = self._sampling.max_tokens or suite.max_tokens
        limit = self._sampling.max_positions
        return wanted if limit is None else min(wanted, limit - prompt)


def _seed(seed: int, suite: str, talk: _Talk, turn: int) -> int:
    """Of a question's samples, whatever else is evaluated; of each sample's later tries."""
    number = talk.number if turn else 0
    text = f"{seed}\0{suite}\0{talk.question.example.key}\0{turn}\0{number}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def _judge(suite: Suite, talks: Sequence[_Talk], texts: Mapping[int, tuple[str, str]]) -> None:
    """Add a judged turn to each talk. A question that wasn't asked was answered by nothing."""
    fits = [texts[index][1] != TOO_LONG for index in range(len(talks))]
    answers = [
        Answer(talk.question, texts[index][0] if fits[index] else "")
        for index, talk in enumerate(talks)
    ]
    verdicts = asyncio.run(suite.judge(answers))
    for index, (talk, verdict) in enumerate(zip(talks, verdicts, strict=True)):
        text, finish = texts[index]
        if not fits[index] and isinstance(verdict, Score):
            verdict = replace(verdict, reason=text)
        talk.turns.append(Turn(answers[index].text, finish, verdict))


def _follow_up(suite: Suite, talks: Sequence[_Talk]) -> list[_Talk]:
    """The talks that go on, each with what the model is told next."""

    async def ask() -> list[str | Invalid | None]:
        answers = [Answer(talk.question, talk.turns[-1].text) for talk in talks]
        telling = [guarded_async(suite.name, suite.follow_up(answer)) for answer in answers]
        return await asyncio.gather(*telling)

    live = []
    for talk, said in zip(talks, asyncio.run(ask()), strict=True):
        if isinstance(said, Invalid):
            talk.turns.append(Turn("", NOT_ASKED, said))
        elif said is not None:
            # An answer decides what its tests say, and half a character would stop the tokenizer.
            told = said.encode("utf-8", "replace").decode()
            spoken: Message = {"role": "assistant", "content": talk.turns[-1].text}
            talk.messages = (*talk.messages, spoken, {"role": "user", "content": told})
            live.append(talk)
    return live


def _grouped(talks: Sequence[_Talk]) -> dict[int, Graded]:
    found: dict[int, list[_Talk]] = {}
    for talk in talks:
        found.setdefault(talk.place, []).append(talk)
    return {
        place: Graded(group[0].question, tuple(tuple(talk.turns) for talk in group))
        for place, group in found.items()
    }
