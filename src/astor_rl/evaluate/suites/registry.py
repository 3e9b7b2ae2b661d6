"""Suites by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError, DataError, DependencyError
from astor_rl.evaluate.suites import paper
from astor_rl.evaluate.suites.base import Suite
from astor_rl.evaluate.suites.commit_messages import CommitMessageSuite
from astor_rl.evaluate.suites.compiled import Compiled
from astor_rl.evaluate.suites.container import Container, Unconfined, find_bubblewrap
from astor_rl.evaluate.suites.cruxeval import CruxEvalSuite, Side
from astor_rl.evaluate.suites.data import PLACES
from astor_rl.evaluate.suites.defects4j import Commands, Defects4JSuite
from astor_rl.evaluate.suites.functions import FunctionSuite, humaneval_rows, mbpp_rows
from astor_rl.evaluate.suites.polyglot import Language, PolyglotSuite, Python
from astor_rl.evaluate.suites.toolchains import EXTRAS, find_toolchain
from astor_rl.evaluate.suites.unit_tests import UnitTestSuite
from astor_rl.sandbox.api import SandboxPool

PAPER = "paper"
"""Name of the suites of the paper's ten metrics together."""


Choose = Callable[[Sequence[Row]], list[Row]]
"""Which of the rows that can be asked are asked: all, or as many as `--limit` says."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What suites need beside their rows.

    Attributes:
        sandbox: where untrusted Python runs.
        toolchains: folders with what languages need beside their tools, by language.
        unsandboxed: what may run as this user where there is no container for it: languages, or
            `defects4j`.
        scratch: folder for what takes long to make again: Defects4J's checked-out versions.
    """

    sandbox: SandboxPool
    toolchains: Mapping[str, Path] = field(default_factory=dict)
    unsandboxed: frozenset[str] = frozenset()
    scratch: Path = Path("defects4j")

    def container(self, name: str) -> Container | str:
        """Where something runs that the sandbox can't hold, or why nowhere, as a clause."""
        found = find_bubblewrap()
        if not isinstance(found, str):
            return found
        if name in self.unsandboxed:
            return Unconfined()
        return f"{found}; --unsandboxed {name} runs what the model writes as this user"


def suite_names(given: Sequence[str]) -> list[str]:
    """Names from the command line (also `a,b`, and `paper` for its five) without repetition.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    names: dict[str, None] = {}
    for name in (part.strip() for option in given for part in option.split(",")):
        if name != PAPER and name not in PLACES:
            known = ", ".join([*PLACES, PAPER])
            raise ConfigError(f"--suite {name!r}: there is no such suite; there are: {known}")
        names |= dict.fromkeys(paper.SUITES if name == PAPER else [name])
    return list(names)


def make_suite(name: str, rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    """The suite of that name.

    Raises:
        DataError: a row lacks a field or holds something else.
        DependencyError: a library that its metrics need isn't installed.
    """
    return _MAKERS[name](rows, around, choose)


def _cruxeval(side: Side) -> _Maker:
    return lambda rows, around, choose: CruxEvalSuite(side, choose(rows), around.sandbox)


def _humaneval(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    return FunctionSuite("humaneval", choose(humaneval_rows(rows)), around.sandbox, shown_tests=0)


def _mbpp(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    found = mbpp_rows(rows)
    if rows and not found:
        raise DataError("suite 'mbpp': the data has no row of the test split (task_id 11 to 510)")
    return FunctionSuite("mbpp", choose(found), around.sandbox, shown_tests=3)


def _polyglot(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    languages: dict[str, Language] = {"python": Python(around.sandbox)}
    not_run: dict[str, str] = {}
    for name in sorted({str(row.fields.get("language")) for row in rows} & EXTRAS.keys()):
        toolchain = find_toolchain(name, around.toolchains.get(name))
        container = around.container(name)
        if isinstance(toolchain, str):
            not_run[name] = toolchain
        elif isinstance(container, str):
            not_run[name] = container
        else:
            languages[name] = Compiled(name, toolchain, container)
    return PolyglotSuite(rows, languages, not_run, choose)


def _defects4j(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    container = around.container("defects4j")
    if isinstance(container, str):
        raise DependencyError(f"suite 'defects4j' can't run: {container}")
    return Defects4JSuite(choose(rows), Commands(container), around.scratch)


def _unit_tests(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    return UnitTestSuite(choose(rows), around.sandbox)


def _commit_messages(rows: Sequence[Row], around: Surroundings, choose: Choose) -> Suite:
    return CommitMessageSuite(choose(rows))


_Maker = Callable[[Sequence[Row], Surroundings, Choose], Suite]
_MAKERS: dict[str, _Maker] = {
    "cruxeval-input": _cruxeval("input"),
    "cruxeval-output": _cruxeval("output"),
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "aider-polyglot": _polyglot,
    "unit-tests": _unit_tests,
    "defects4j": _defects4j,
    "commit-messages": _commit_messages,
}
