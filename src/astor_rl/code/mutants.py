"""Small wrong versions of a piece of Python: one named operator applied at one place.

A mutant is an edit of the *text*: everything but the changed bytes (comments, spacing, names)
stays as it was, so that a diff against the original is what a person would have committed.
The operators are the classic ones of mutation analysis (Jia and Harman, "An Analysis and Survey
of the Development of Mutation Testing", 2011).

Mutants are chosen without a random generator: each has a rank, the hash of the seed, operator,
place and new text. So the same source and seed give the same mutants on every machine and Python
version, and adding an operator leaves the rank of the others alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from astor_rl.code._edits import OPERATORS, Edit, SourceText, edits
from astor_rl.errors import ConfigError, DataError
from astor_rl.syntax import parse

__all__ = ["OPERATORS", "Mutant", "mutate"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed version.

    Attributes:
        op: the operator's name, a key of `OPERATORS`.
        line: 1-based line of the original source where the change starts.
        code: the whole changed source.
        before, after: the replaced text and what replaced it.
    """

    op: str
    line: int
    code: str
    before: str = ""
    after: str = ""


def mutate(
    source: str,
    *,
    entry_point: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    operators: Collection[str] | None = None,
) -> list[Mutant]:
    """Make up to `limit` mutants of `source`, every one parsable and different from the others.

    They are spread over the operators: the best-ranked mutant of each operator comes before the
    second of any. Annotations, docstrings, f-string parts and `if __name__ ...` blocks are left
    alone. Whether a mutant behaves differently is for the caller to find out by running it.

    Args:
        source: Python source of a module.
        entry_point: `function`, `Class` or `Class.method`; only it and the top-level definitions
            it mentions, directly or through others, are changed. None changes everything.
        seed: any integer; chooses which mutants come first.
        limit: how many at most, >= 0; None for all.
        operators: names from `OPERATORS`; None for all.

    Raises:
        DataError: the source doesn't parse, or has no definition called `entry_point`.
        ConfigError: an unknown operator, or a negative limit.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"limit is {limit}; it must be >= 0 or None")
    unknown = sorted(set(operators or ()) - set(OPERATORS))
    if unknown:
        raise ConfigError(f"unknown operator {unknown[0]!r}; known: {', '.join(OPERATORS)}")
    text = SourceText(source)
    try:
        tree = parse(text.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"source to mutate does not parse: {error}") from error
    roots = list(tree.body) if entry_point is None else _reachable(tree, entry_point)
    chosen = [edit for edit in edits(roots, text) if operators is None or edit.op in set(operators)]
    ordered = _spread(chosen, seed)
    found: list[Mutant] = []
    seen = {ast.dump(tree)}
    for edit in ordered:
        if limit is not None and len(found) >= limit:
            break
        code = text.apply(edit)
        shape = _shape(code)
        if shape is None or shape in seen:
            continue
        seen.add(shape)
        found.append(Mutant(edit.op, text.line_of(edit.start), code, text.slice(edit), edit.text))
    return found


def _shape(code: str) -> str | None:
    try:
        return ast.dump(parse(code))
    except (SyntaxError, ValueError):
        return None


def _spread(found: Collection[Edit], seed: int) -> list[Edit]:
    """Best of every operator, then the second best of every operator, and so on."""
    rounds: dict[str, int] = {}
    keyed: list[tuple[int, bytes, Edit]] = []
    for edit in sorted(found, key=lambda edit: _rank(edit, seed)):
        turn = rounds.get(edit.op, 0)
        rounds[edit.op] = turn + 1
        keyed.append((turn, _rank(edit, seed), edit))
    return [edit for _, _, edit in sorted(keyed, key=lambda entry: entry[:2])]


def _rank(edit: Edit, seed: int) -> bytes:
    name = f"{seed}\0{edit.op}\0{edit.start}\0{edit.end}\0{edit.text}"
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _reachable(tree: ast.Module, entry_point: str) -> list[ast.stmt]:
    """The definition called `entry_point` and the top-level definitions it leads to."""
    top = {name: node for node in tree.body for name in _defined(node)}
    head, _, rest = entry_point.partition(".")
    start: ast.stmt | None = top.get(head)
    for part in rest.split(".") if rest else ():
        members = start.body if isinstance(start, ast.ClassDef) else []
        start = next((node for node in members if part in _defined(node)), None)
    if start is None:
        raise DataError(f"source to mutate defines no {entry_point!r}")
    reached: dict[int, ast.stmt] = {id(start): start}
    waiting = [start]
    while waiting:
        for name in _mentioned(waiting.pop()):
            node = top.get(name)
            # A method's own class is not pulled in whole just because it is mentioned.
            if node is not None and id(node) not in reached and not (rest and name == head):
                reached[id(node)] = node
                waiting.append(node)
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and id(node) in reached]


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _mentioned(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
