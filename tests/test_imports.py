"""The core runs where torch isn't; the lines between rooms know of every third party."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module", ["astor_rl", "astor_rl.coordinator", "astor_rl.plan", "astor_rl.tasks.registry"]
)
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("contract", "allowed"),
    [
        ("The core imports numpy and the standard library only", {"numpy"}),
        (
            "Source analysis, and what runs inside the sandbox, import the standard library only",
            set(),
        ),
    ],
)
def test_no_third_party_is_forgotten(contract: str, allowed: set[str]) -> None:
    """import-linter forbids what is named: whatever this package imports anywhere has to be."""
    sources = (ROOT / "src").rglob("*.py")
    names = {name for path in sources for name in _imported(ast.parse(path.read_text("utf-8")))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {one["name"]: one for one in project["tool"]["importlinter"]["contracts"]}
    forbidden = set(contracts[contract]["forbidden_modules"])
    assert names - sys.stdlib_module_names - {"astor_rl"} - allowed <= forbidden
    assert not forbidden & allowed


def test_every_room_is_in_the_table_of_layers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (layers,) = (
        one["layers"]
        for one in project["tool"]["importlinter"]["contracts"]
        if one["type"] == "layers"
    )
    rows = re.findall(
        r"^\| (?:top|bottom|) ?\| (`.+?`) \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M
    )
    shown = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    first = {"__main__", "cli", "doctor"}
    assert shown == [first, *(set(layer.split(" | ")) for layer in layers[3:])]
