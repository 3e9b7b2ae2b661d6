"""What a docstring says: its first sentence, and the calls its examples make."""

from __future__ import annotations

import ast
import doctest
import re
from dataclasses import dataclass

from astor_rl.syntax import parse

_PARSER = doctest.DocTestParser()
_EXAMPLES = re.compile(r"^\s*>>>", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The arguments of one call, all literals, as source.

    Attributes:
        positional: in order.
        keywords: (name, source), in order.
    """

    positional: tuple[str, ...]
    keywords: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """As it stands between the call's parentheses."""
        return ", ".join([*self.positional, *(f"{name}={value}" for name, value in self.keywords)])

    def call(self, name: str) -> str:
        """The whole call."""
        return f"{name}({self.text})"


def doctest_calls(docstring: str, name: str) -> list[CallArguments]:
    """Arguments of the calls to `name` in a docstring's examples whose arguments are literals.

    Calls inside larger expressions (`list(f(3))`) count; each distinct call comes once.
    """
    if ">>>" not in docstring:
        return []
    try:
        examples = _PARSER.get_examples(docstring)
    except ValueError:
        return []
    found: dict[CallArguments, None] = {}
    for example in examples:
        try:
            tree = parse(example.source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _callee(node) == name:
                arguments = call_arguments(node)
                if arguments is not None:
                    found[arguments] = None
    return list(found)


def _callee(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def call_arguments(node: ast.Call) -> CallArguments | None:
    """The arguments of a call, or None when one of them isn't a literal."""
    positional = [literal_source(arg) for arg in node.args]
    keywords = [(word.arg, literal_source(word.value)) for word in node.keywords]
    if any(text is None for text in positional):
        return None
    if any(name is None or text is None for name, text in keywords):
        return None
    return CallArguments(
        tuple(text for text in positional if text is not None),
        tuple((name, text) for name, text in keywords if name is not None and text is not None),
    )


def literal_source(node: ast.expr) -> str | None:
    """The source of an expression if it is a literal, else None."""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return ast.unparse(node)


def summary(docstring: str, *, max_chars: int = 160) -> str:
    """The first sentence of a docstring, on one line; empty when there is none or it is longer."""
    head = _EXAMPLES.split(docstring, maxsplit=1)[0].strip()
    paragraph = " ".join(head.split("\n\n", maxsplit=1)[0].split())
    sentence = re.split(r"(?<=[a-z0-9)`'\"][.!])\s", paragraph, maxsplit=1)[0]
    sentence = re.sub(r":[a-z]+:`~?\.?([^`]*)`", r"`\1`", sentence).rstrip(":")
    return sentence if len(sentence) <= max_chars else ""
