"""Keep what is held out, out: drop training rows that repeat a held-out item.

A training row is dropped if its identifier-blind syntax tree equals a held-out one, if at least 40%
of its 12-token shingles occur in one held-out item, or if the task text is equal. Diffs have no
syntax tree: their changed lines are compared instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from astor_rl.code.fingerprint import SHINGLE_TOKENS, code_tokens, fingerprint
from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError

SHINGLE_SHARE = 0.4
"""Share of a training row's shingles in one held-out item from which it counts as a copy."""

_MIN_TEXT_WORDS = 4


@dataclass(frozen=True, slots=True)
class Collision:
    """Why a row was dropped.

    Attributes:
        row: the training row.
        reason: `same shape`, `same text`, `same change`, or `62% of its shingles`.
        with_origin: the held-out item it repeats.
    """

    row: Row
    reason: str
    with_origin: str


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """The rows that may be trained on, and those that may not, each in their order."""

    kept: tuple[Row, ...]
    dropped: tuple[Collision, ...]


@dataclass(slots=True)
class _Item:
    """What is compared of one row: shapes of code, texts, and the tokens of code and diffs."""

    shapes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    shingled: list[frozenset[int]] = field(default_factory=list)


class HeldOutIndex:
    """Held-out rows, indexed by shape, text and shingle: a look-up costs the row's own length.

    Args:
        held_out: validation, test and benchmark rows together, of whatever task.
        share: of the shingles of a held-out item, in (0, 1]: a row that holds so many repeats it.

    Raises:
        ConfigError: `share` is out of its range.
    """

    def __init__(self, held_out: Iterable[Row], *, share: float = SHINGLE_SHARE) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}; it must be in (0, 1]")
        self._share = share
        self._exact: dict[tuple[str, str], str] = {}
        self._origins: list[str] = []
        self._places: dict[int, list[int]] = {}
        for row in held_out:
            self._add(row)

    def _add(self, row: Row) -> None:
        item = _item(row.fields)
        for reason, values in _exact(item):
            for value in values:
                self._exact.setdefault((reason, value), row.origin)
        place = len(self._origins)
        self._origins.append(row.origin)
        for shingle in frozenset[int]().union(*item.shingled):
            self._places.setdefault(shingle, []).append(place)

    def sift(self, train: Iterable[Row]) -> Decontaminated:
        """Drop the training rows that repeat one of the held-out rows."""
        kept: list[Row] = []
        dropped: list[Collision] = []
        for row in train:
            found = self.collision(row)
            if found is None:
                kept.append(row)
            else:
                dropped.append(Collision(row, *found))
        return Decontaminated(tuple(kept), tuple(dropped))

    def collision(self, row: Row) -> tuple[str, str] | None:
        """(reason, origin of the held-out row) if the row repeats one, else None."""
        item = _item(row.fields)
        for reason, values in _exact(item):
            for value in values:
                if (origin := self._exact.get((reason, value))) is not None:
                    return reason, origin
        for part in item.shingled:
            counts = Counter(place for s in part for place in self._places.get(s, ()))
            if counts:
                place, shared = counts.most_common(1)[0]
                if shared >= self._share * len(part):
                    return f"{shared / len(part):.0%} of its shingles", self._origins[place]
        return None


def _exact(item: _Item) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("same shape", item.shapes), ("same text", item.texts), ("same change", item.changes)


def _item(fields: Mapping[str, Any]) -> _Item:
    item = _Item()
    for source in _sources(fields):
        shape, tokens = _code(source)
        item.shapes += [shape] if shape else []
        item.shingled += [tokens] if tokens else []
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        words = re.findall(r"\w+", prompt.lower())
        item.texts += [" ".join(words)] if len(words) >= _MIN_TEXT_WORDS else []
    diff = fields.get("diff")
    if isinstance(diff, str):
        changed = changed_lines(diff)
        text = " ".join(" ".join(changed).split())
        item.changes += [text] if text else []
        tokens = _hashes(re.findall(r"\w+|[^\w\s]", text))
        item.shingled += [tokens] if tokens else []
    return item


def _sources(fields: Mapping[str, Any]) -> list[str]:
    """Every piece of reference code of a row, whatever its form."""
    found = [fields.get("code"), fields.get("reference"), fields.get("buggy")]
    nested = fields.get("sanitized")
    if isinstance(nested, Mapping):
        found += [nested.get("code"), nested.get("reference")]
    texts: list[str] = []
    for value in found:
        if isinstance(value, Mapping):
            texts += [text for text in value.values() if isinstance(text, str)]
        elif isinstance(value, str):
            texts.append(value)
    prompt = fields.get("prompt")
    # HumanEval's reference is a body that only parses behind its prompt.
    if isinstance(prompt, str) and isinstance(fields.get("reference"), str):
        reference = fields["reference"]
        if _code(reference)[0] is None:
            texts[texts.index(reference)] = f"{prompt}{reference}"
    return [text for text in texts if text.strip()]


@lru_cache(maxsize=1 << 14)
def _code(source: str) -> tuple[str | None, frozenset[int]]:
    return fingerprint(source), _hashes(code_tokens(source))


def _hashes(tokens: Sequence[str]) -> frozenset[int]:
    """Hashes of every run of 12 tokens (of all of them when there are fewer), for this process."""
    if not tokens:
        return frozenset()
    runs = max(1, len(tokens) - SHINGLE_TOKENS + 1)
    return frozenset(hash(tuple(tokens[place : place + SHINGLE_TOKENS])) for place in range(runs))


def changed_lines(diff: str) -> list[str]:
    """The added and removed lines of a unified diff, with their sign, without the file headers."""
    return [
        line
        for line in diff.splitlines()
        if line[:1] in ("+", "-") and not line.startswith(("+++ ", "--- "))
    ]
