"""Where rows come from: `jsonl:path`, `hf:owner/name`, `mine:path-or-installed-package`."""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from astor_rl.data.difficulty import estimate
from astor_rl.data.hub import hub_rows
from astor_rl.data.mining import MiningOptions, mine
from astor_rl.data.mining.functions import Progress
from astor_rl.data.rows import TASK_KINDS, Row, TaskKind
from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.api import SandboxPool

SCHEMES = ("jsonl", "hf", "mine")
_HALF = re.compile(r"[\ud800-\udfff]")


def load_source(
    spec: str,
    *,
    base_dir: Path,
    task_kind: str,
    sandbox: SandboxPool | None = None,
    columns: Mapping[str, str] | None = None,
    mining: MiningOptions | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Load the rows that one `source` of a configuration names.

    - `jsonl:path`: JSON lines, plain or `.gz`; the path may be a glob pattern.
    - `hf:owner/name[:config][@split]`: a Hugging Face dataset (extra `hf`); `hf:./folder` is a
      local folder in the hub's layout. The default of the hub's split is `train`.
    - `mine:part[,part...]`: installed packages, `stdlib`, or folders; see `mining.mine`.

    A row's unit is its field `unit`; else its `id` up to `#`; else a hash of the row.

    Args:
        spec: the source.
        base_dir: what relative paths are relative to: the configuration file's folder.
        task_kind: which task's rows to mine; other sources are taken to have that task's rows.
        sandbox: runs mined code; needed for `mine:` unless the result is cached.
        columns: row field -> the source's column, `{"prompt": "question"}`. Other columns keep
            their names.
        mining: how much to mine, and its seed.
        progress: told what a slow source is doing.

    Raises:
        DataError: the source can't be read, is empty, or a row is wrong: one line that names the
            file, the line and the field.
        ConfigError: the spec or an option isn't understood.
        DependencyError: `hf:` without the extra.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme not in SCHEMES or not colon or not rest.strip():
        raise ConfigError(
            f"{spec!r} isn't understood; it must be jsonl:path, hf:owner/name "
            "or mine:path-or-package"
        )
    if scheme == "mine":
        if columns:
            raise ConfigError(f"{spec!r} has fixed fields; it takes no column mapping")
        return _mined(rest, base_dir, task_kind, sandbox, mining, progress)
    found = (
        _jsonl(rest, base_dir)
        if scheme == "jsonl"
        else ((origin, "", row) for origin, row in hub_rows(rest, base_dir, split="train"))
    )
    rows = [_row(fields, at, place, task_kind, columns or {}) for at, place, fields in found]
    if not rows:
        raise DataError(f"{spec!r} has no rows")
    return rows


def _mined(
    spec: str,
    base_dir: Path,
    task_kind: str,
    sandbox: SandboxPool | None,
    mining: MiningOptions | None,
    progress: Progress | None,
) -> list[Row]:
    if task_kind not in TASK_KINDS:
        raise ConfigError(
            f"mine: makes rows of {', '.join(TASK_KINDS)}; task {task_kind!r} needs another source"
        )
    kind: TaskKind = task_kind
    mined = mine(
        spec,
        base_dir=base_dir,
        sandbox=sandbox,
        options=mining,
        progress=progress,
    )
    rows = mined.rows[kind]
    if not rows:
        raise DataError(f"mine:{spec} gave no rows for {task_kind}; mine more packages")
    return rows


def _row(
    fields: dict[str, Any], origin: str, place: str, task_kind: str, columns: Mapping[str, str]
) -> Row:
    where = place or origin
    for name, column in columns.items():
        if column not in fields:
            has = ", ".join(sorted(fields)) or "none"
            raise DataError(
                f"{where}: no column {column!r} for field {name!r}; the columns are: {has}"
            )
    renamed = {name: fields[column] for name, column in columns.items()}
    taken = set(columns.values()) - set(columns)
    merged = {name: value for name, value in fields.items() if name not in taken} | renamed
    unit = merged.pop("unit", None)
    difficulty = merged.get("difficulty")
    if difficulty is None:
        merged["difficulty"] = estimate(task_kind, merged)
    elif not (isinstance(difficulty, int | float) and 0 <= difficulty <= 1):
        raise DataError(f"{where}: field 'difficulty' is {difficulty!r}; it must be in [0, 1]")
    return Row(merged, origin, _unit(unit, merged, where), place)


def _unit(unit: object, fields: Mapping[str, Any], where: str) -> str:
    if unit is not None and not (isinstance(unit, str) and unit):
        raise DataError(f"{where}: field 'unit' is {unit!r}; it must be text")
    identity = fields.get("id")
    if isinstance(unit, str):
        return unit
    if isinstance(identity, str | int) and identity != "":
        # Pairs of one function are numbered `name#0`, `name#1`, ...
        return re.sub(r"#\w*$", "", str(identity))
    content = {name: value for name, value in fields.items() if name != "difficulty"}
    text = json.dumps(content, sort_keys=True, default=str)
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _jsonl(pattern: str, base_dir: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(origin, place, row) of every row."""
    path = str(base_dir / Path(pattern).expanduser())
    is_pattern = glob.has_magic(pattern) and not Path(path).exists()
    paths = sorted(map(Path, glob.glob(path, recursive=True))) if is_pattern else [Path(path)]
    if not paths:
        raise DataError(f"no file matches {pattern!r} below {base_dir}")
    for file in paths:
        count = 0
        for number, line in enumerate(_lines(file), 1):
            if line.strip():
                count += 1
                place = f"{file}:{number}"
                yield f"{file.name}:{number}", place, _parsed(line, place)
        if not count:
            raise DataError(f"{file} is empty; it must hold one JSON object a line")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            for number, line in enumerate(cast("Iterable[bytes]", file), 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}:{number}: not UTF-8: {error.reason}") from None
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from None


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        # Without its end: else the end of a line that was cut is told as "column 1".
        value = json.loads(line.rstrip("\r\n"), parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {str(error) or 'nested too deeply'}") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: a row must be a JSON object, not {type(value).__name__}")
    # Only an escape can bring in half of a pair, which no tokenizer takes.
    if "\\u" in line and (half := _HALF.search(json.dumps(value, ensure_ascii=False))):
        raise DataError(
            f"{place}: \\u{ord(half[0]):04x} is half of a surrogate pair and no text; write the "
            "character itself, or remove it"
        )
    return value


def _refused(text: str) -> None:
    raise ValueError(f"{text} isn't a JSON number")
