"""Benchmarks in the folders that their authors publish, read as rows.

- Aider's polyglot benchmark (a checkout): `LANGUAGE/exercises/practice/SLUG/` with its
  `.meta/config.json`, `.docs/`, stubs and tests.
- MCMD (a folder of parallel text files): `NAME.diff.txt` and `NAME.msg.txt`, one commit a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from astor_rl.data.rows import Row
from astor_rl.errors import DataError

_DOCS = ("introduction.md", "instructions.md", "instructions.append.md")
_DIFF = ".diff.txt"


def read_folder(folder: Path) -> list[Row]:
    """The rows of a folder in one of the module's forms.

    Raises:
        DataError: it has neither form, or a file in it is missing or damaged.
    """
    if exercises := sorted(folder.glob("*/exercises/practice/*/.meta/config.json")):
        return [_exercise(config.parent.parent, folder) for config in exercises]
    if diffs := sorted(folder.glob(f"*{_DIFF}")):
        # A checkout of MCMD has splits; the test split is what is evaluated on.
        tests = [path for path in diffs if path.name.startswith("test")] or diffs
        return [row for path in tests for row in _commits(path)]
    raise DataError(
        f"{str(folder)!r} is neither a checkout of Aider's polyglot benchmark nor a folder with "
        f"*{_DIFF} and *.msg.txt"
    )


def _exercise(folder: Path, root: Path) -> Row:
    config = _json(folder / ".meta" / "config.json")
    files = config.get("files")
    if not isinstance(files, dict):
        raise DataError(f"{folder / '.meta/config.json'}: field 'files' must be a table")
    language = folder.relative_to(root).parts[0]
    slug = folder.name
    docs = [_text(path) for name in _DOCS if (path := folder / ".docs" / name).is_file()]
    solution, tests = _paths(files, "solution"), _paths(files, "test")
    reference = _paths(files, "example") or _paths(files, "exemplar")
    taken = {*solution, *tests}
    stubs = {name: _text(folder / name) for name in solution}
    gold = {name: _text(folder / name) for name in reference}
    if language == "python" and len(stubs) == len(gold) == 1:
        gold = dict(zip(stubs, gold.values(), strict=True))
    fields: dict[str, Any] = {
        "id": f"aider-polyglot/{language}/{slug}",
        "language": language,
        "slug": slug,
        "prompt": "\n\n".join(docs),
        "entry_point": None,
        "files": stubs,
        "reference": gold,
        "tests": [{"path": name, "content": _text(folder / name)} for name in tests],
        "support_files": dict(_beside(folder, taken)),
    }
    return Row(fields, f"{language}/{slug}", fields["id"])


def _paths(files: dict[str, Any], name: str) -> list[str]:
    found = files.get(name) or []
    return [path for path in found if isinstance(path, str)]


def _beside(folder: Path, taken: set[str]) -> Iterator[tuple[str, str]]:
    """What else the tests may need: all texts but documents, references and build wrappers."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = name.startswith((".meta/", ".docs/", ".approaches/", ".articles/", "gradle/"))
        if not path.is_file() or hidden or name in taken:
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _commits(diffs: Path) -> Iterable[Row]:
    messages = diffs.with_name(diffs.name.removesuffix(_DIFF) + ".msg.txt")
    pairs = [_text(path).removesuffix("\n").split("\n") for path in (diffs, messages)]
    if len(pairs[0]) != len(pairs[1]):
        raise DataError(
            f"{diffs.name} has {len(pairs[0])} lines and {messages.name} {len(pairs[1])}; "
            "one commit is one line of each"
        )
    for number, (diff, message) in enumerate(zip(*pairs, strict=True), 1):
        origin = f"{diffs.name}:{number}"
        yield Row({"diff": diff, "message": message, "id": origin}, origin, origin)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must be a JSON object, not {type(value).__name__}")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read {path}: {error}") from None
