"""Random programs over lists of integers: their source, their words, their values, their edits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from benchmarks.learning.operations import OPERATIONS, Kind, Operation

Value = int | list[int]

LARGEST: Final = 99
"""Values beyond it, or below its negative, are never asked for."""

_LISTS: Final = ("a", "b", "xs", "nums")
_ITEMS: Final = ("x", "y", "n", "v")


@dataclass(frozen=True, slots=True)
class Part:
    """An operation with its number (0 where it has none)."""

    operation: Operation
    number: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line: an `order`, or a comprehension that maps, keeps, or does both."""

    order: Part | None = None
    map: Part | None = None
    keep: Part | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A function of one list: lines, then what is returned, and the names that it uses."""

    lines: tuple[Line, ...]
    result: Part
    list_name: str = "a"
    item_name: str = "x"

    @property
    def meaning(self) -> Program:
        """The program under standard names: equal for programs that differ in names only."""
        return replace(self, list_name="a", item_name="x")

    def source(self) -> str:
        """The function, `f`, as Python without a final newline."""
        rows = [f"def f({self.list_name}):"]
        rows += [f"    {self.list_name} = {self._expression(line)}" for line in self.lines]
        rows.append(f"    return {self._code(self.result)}")
        return "\n".join(rows)

    def _expression(self, line: Line) -> str:
        if line.order is not None:
            return self._code(line.order)
        item = self.item_name if line.map is None else self._code(line.map)
        condition = "" if line.keep is None else f" if {self._code(line.keep)}"
        return f"[{item} for {self.item_name} in {self.list_name}{condition}]"

    def _code(self, part: Part) -> str:
        names = {"a": self.list_name, "x": self.item_name, "c": part.number}
        return part.operation.code.format(**names)

    def __call__(self, values: Sequence[int]) -> Value:
        """What it returns. The source is this module's own, so it runs in this process."""
        return _compiled(self.meaning)(list(values))


@lru_cache(maxsize=1 << 14)
def _compiled(program: Program) -> Callable[[list[int]], Value]:
    names: dict[str, Callable[[list[int]], Value]] = {}
    exec(program.source(), names)
    return names["f"]


def in_range(value: Value) -> bool:
    """Whether a value is one that the laboratory asks for."""
    return all(abs(v) <= LARGEST for v in (value if isinstance(value, list) else [value]))


@dataclass(frozen=True, slots=True)
class Language:
    """The operations of one laboratory and what it calls them.

    Attributes:
        operations: by kind.
        rare: names of operations that the supervised start seldom sees.
        wordings: by operation name, a template of its words.
    """

    operations: dict[Kind, tuple[Operation, ...]]
    rare: frozenset[str]
    wordings: dict[str, str]

    def words(self, part: Part) -> str:
        """What a part is called."""
        return self.wordings[part.operation.name].format(c=part.number)

    def line_words(self, line: Line) -> str:
        """What a line is called: `reverse`, `add 3`, `only even`, `add 3 if even`."""
        if line.order is not None:
            return self.words(line.order)
        if line.map is None:
            return f"only {self.words(_given(line.keep))}"
        if line.keep is None:
            return self.words(line.map)
        return f"{self.words(line.map)} if {self.words(line.keep)}"

    def description(self, program: Program) -> str:
        """The program in words."""
        steps = [*map(self.line_words, program.lines), self.words(program.result)]
        return ", then ".join(steps)

    def part(self, rng: random.Random, kind: Kind, *, rare: float) -> Part:
        """A random operation; a rare one counts `rare` times as much as a common one."""
        members = self.operations[kind]
        weights = [rare if member.name in self.rare else 1.0 for member in members]
        (chosen,) = rng.choices(members, weights)
        return Part(chosen, rng.choice(chosen.numbers) if chosen.numbers else 0)

    def line(self, rng: random.Random, *, rare: float) -> Line:
        """A random line."""
        form = rng.random()
        if form < 0.35:
            return Line(order=self.part(rng, "order", rare=rare))
        mapped = self.part(rng, "map", rare=rare) if form < 0.85 else None
        kept = self.part(rng, "keep", rare=rare) if form >= 0.6 else None
        return Line(map=mapped, keep=kept)

    def program(self, rng: random.Random, *, length: int, rare: float) -> Program:
        """A random program of `length` lines."""
        return Program(
            tuple(self.line(rng, rare=rare) for _ in range(length)),
            self.part(rng, "result", rare=rare),
            rng.choice(_LISTS),
            rng.choice(_ITEMS),
        )

    def edited(self, rng: random.Random, program: Program) -> tuple[Program, int | None]:
        """A program that differs in one part of one line, and that line (None: the result)."""
        place = rng.randrange(len(program.lines) + 1)
        if place == len(program.lines):
            return replace(program, result=self._other(rng, program.result)), None
        line = program.lines[place]
        changed = self._other_line(rng, line)
        lines = (*program.lines[:place], changed, *program.lines[place + 1 :])
        return replace(program, lines=lines), place

    def _other_line(self, rng: random.Random, line: Line) -> Line:
        if line.order is not None:
            return replace(line, order=self._other(rng, line.order))
        if line.map is not None and (line.keep is None or rng.random() < 0.5):
            return replace(line, map=self._other(rng, line.map))
        return replace(line, keep=self._other(rng, _given(line.keep)))

    def _other(self, rng: random.Random, part: Part) -> Part:
        """The same operation with another number, or another operation of its kind."""
        numbers = [n for n in part.operation.numbers if n != part.number]
        if numbers and rng.random() < 0.5:
            return replace(part, number=rng.choice(numbers))
        others = [o for o in self.operations[part.operation.kind] if o is not part.operation]
        chosen = rng.choice(others)
        return Part(chosen, rng.choice(chosen.numbers) if chosen.numbers else 0)


def _given(part: Part | None) -> Part:
    if part is None:
        raise ValueError("a line needs an order, a map or a condition")
    return part


_TAKEN: Final[dict[Kind, int]] = {"map": 7, "keep": 4, "order": 7, "result": 6}
_RARE: Final[dict[Kind, int]] = {"map": 2, "keep": 1, "order": 3, "result": 2}


def make_language(seed: int) -> Language:
    """The language of a laboratory: which operations, which of them are rare, which words."""
    rng = random.Random(f"language {seed}")
    operations: dict[Kind, tuple[Operation, ...]] = {}
    rare: set[str] = set()
    for kind, count in _TAKEN.items():
        members = rng.sample([o for o in OPERATIONS if o.kind == kind], count)
        operations[kind] = tuple(members)
        rare |= {member.name for member in members[: _RARE[kind]]}
    wordings = {o.name: rng.choice(o.wordings) for members in operations.values() for o in members}
    return Language(operations, frozenset(rare), wordings)
