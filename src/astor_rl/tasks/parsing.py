"""Reading answers out of completions: fenced code blocks and tagged answers.

Nothing here runs code. Python source is at most parsed, with a length cap.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, overload

from astor_rl.syntax import parse

MAX_CODE_CHARS = 64_000
"""Longest source that is parsed. No training answer comes near; a runaway one is refused."""

# No two neighbours of these patterns match the same character, so that matching is linear.
_OPEN = re.compile(r"^ {0,3}(?:(`{3,})([^`\n]*)|(~{3,})([^\n]*))$")


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced code block.

    Attributes:
        language: first word of the info string, lower case; empty when there is none.
        code: the lines between the fences, each ending in a newline.
        closed: False when the completion ended inside the block.
        before: the last line before the block that isn't blank, where a file's name often stands;
            empty when there is none since the block before it.
    """

    language: str
    code: str
    closed: bool
    before: str = field(default="", compare=False)

    @property
    def is_python(self) -> bool:
        """Whether the block says it is Python, or says nothing."""
        return self.language in ("", "python", "py", "python3")


def after_thinking(text: str) -> str:
    """What a model that thinks aloud says after it; all of it for others."""
    return text.rpartition("</think>")[2]


def fences(text: str) -> Iterator[Fence]:
    """The fenced blocks of a text, in order, by CommonMark's rules (section 4.5).

    A fence inside a longer fence is content. Blocks in lists or quotes aren't looked for.
    """
    marker, language, before, lines = "", "", "", list[str]()
    for line in text.splitlines():
        if not marker:
            if match := _OPEN.match(line):
                marker = match[1] or match[3]
                language = next(iter((match[2] or match[4] or "").split()), "").lower()
                lines = []
            else:
                before = line.strip() or before
        elif _closes(line, marker):
            yield Fence(language, _joined(lines), closed=True, before=before)
            marker = before = ""
        else:
            lines.append(line)
    if marker:
        yield Fence(language, _joined(lines), closed=False, before=before)


def _closes(line: str, marker: str) -> bool:
    indent = len(line) - len(line.lstrip(" "))
    bare = line.strip()
    return indent <= 3 and len(bare) >= len(marker) and bare == marker[0] * len(bare)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def is_one_python_fence(text: str) -> bool:
    """Whether the text has exactly one fence, closed, labelled `python`.

    The rule behind the format reward of tasks that answer in code. Prose around it is allowed.
    """
    found = list(fences(text))
    return len(found) == 1 and found[0].closed and found[0].language == "python"


def fenced(code: str, language: str = "python") -> str:
    """The code as a fenced block: the form in which reference answers are written."""
    return f"```{language}\n{code.strip(chr(10))}\n```"


_warnings_lock = Lock()
"""`catch_warnings` swaps process-wide state: two threads in it at once would restore the wrong."""


@overload
def parse_quietly(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...


@overload
def parse_quietly(text: str, mode: Literal["eval"]) -> ast.Expression: ...


def parse_quietly(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """`ast.parse` of untrusted text without the warnings that odd escapes in it would print.

    Raises:
        SyntaxError: it isn't Python, or nests too deep to be parsed.
    """
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parse(text, mode=mode)
    except (ValueError, MemoryError, RecursionError) as error:
        raise SyntaxError(str(error)) from None


def parse_python(code: str) -> ast.Module | None:
    """The syntax tree of untrusted source, or None when it isn't Python or is too long or deep."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        return parse_quietly(code)
    except SyntaxError:
        return None


def defined_names(module: ast.Module) -> frozenset[str]:
    """Names that the module's top level binds by `def`, `class`, assignment or import."""
    names: set[str] = set()
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(t.id for t in targets if isinstance(t, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((a.asname or a.name).split(".")[0] for a in aliases)
            case _:
                pass
    return frozenset(names)


def tagged(text: str, tag: str) -> tuple[str, ...]:
    """Contents of every `<tag>...</tag>` in the text, stripped, in order. Tags don't nest."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    found: list[str] = []
    end = 0
    # By `find`: a pattern would look for the closing tag again from every opening one.
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        stop = text.find(closing, start)
        if stop < 0:
            break
        found.append(text[start:stop].strip())
        end = stop + len(closing)
    return tuple(found)
