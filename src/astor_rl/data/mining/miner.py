"""Mining: packages or a repository in, rows of all four tasks out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from astor_rl.data.cache import Cache
from astor_rl.data.mining.code_rows import code_rows
from astor_rl.data.mining.commit_rows import commit_rows
from astor_rl.data.mining.functions import Progress, candidates, observe
from astor_rl.data.mining.history import has_history, head_commit, history_rows
from astor_rl.data.mining.io_rows import io_rows
from astor_rl.data.mining.packages import Package, find_package
from astor_rl.data.mining.target_rows import target_rows
from astor_rl.data.rows import TASK_KINDS, Row, TaskKind
from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.api import SandboxPool

MINER_VERSION = 2
"""Part of every cache key: raise it whenever other rows would come out."""

_ENOUGH_COMMITS = 60


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """How much to mine.

    Attributes:
        seed: decides variations, choices of examples, edits and phrasings; any integer.
        tries: variations of each function's arguments to run, >= 1.
        io_per_function, code_per_function, tests_per_function, edits_per_function: rows of each
            task that one function gives at most, >= 0.
        max_commits: rows that a git history gives at most, >= 0.
    """

    seed: int = 0
    tries: int = 60
    io_per_function: int = 10
    code_per_function: int = 5
    tests_per_function: int = 5
    edits_per_function: int = 8
    max_commits: int = 600

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low = 1 if name == "tries" else 0
            if name != "seed" and value < low:
                raise ConfigError(f"mining option {name!r} is {value}; it must be at least {low}")


@dataclass(frozen=True, slots=True)
class Mined:
    """What was mined.

    Attributes:
        rows: by task kind; all four kinds are there.
        packages: (name, version) of what was mined.
        seconds: how long it took; 0 when it came from the cache.
        from_cache: whether it did.
    """

    rows: Mapping[TaskKind, list[Row]]
    packages: tuple[tuple[str, str], ...]
    seconds: float = 0.0
    from_cache: bool = False

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by task and package: `{"io_prediction": {"toolz": 180, ...}, ...}`."""
        return {
            kind: dict(Counter(str(row.fields["source"]).removeprefix("mine:") for row in rows))
            for kind, rows in self.rows.items()
        }


@dataclass(slots=True)
class _Steps:
    """Passes progress on, at most ten times a second and whenever the work changes."""

    report: Progress
    last: tuple[str, float] = field(default=("", 0.0))

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.last[0] or now - self.last[1] > 0.1 or done == total:
            self.last = (what, now)
            self.report(what, done, total)


def mine(
    spec: str,
    *,
    base_dir: Path,
    sandbox: SandboxPool | None,
    options: MiningOptions | None = None,
    progress: Progress | None = None,
    use_cache: bool = True,
) -> Mined:
    """Mine examples of all four tasks.

    Nothing of what is mined is imported into this process: functions are cut out of the source
    and run in the sandbox only. The same source, options and Python give the same rows.

    Args:
        spec: packages or paths, separated by commas; see `packages.find_package`.
        base_dir: what relative paths are relative to.
        sandbox: runs the mined code; None works only when the result is in the cache.
        options: how much.
        progress: called with (what is being done, done, total), often enough for a console.
        use_cache: look into and write to the user's cache folder.

    Raises:
        DataError: a package or path can't be found, or nothing can be mined from it.
        ConfigError: a sandbox is needed and none was given.
    """
    options = options or MiningOptions()
    report = _Steps(progress or _silent)
    report("finding packages", 0, 1)
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise DataError(
            "mine: names nothing; give installed packages or paths, as mine:toolz,./src"
        )
    packages = [find_package(part, base_dir=base_dir) for part in parts]
    report("finding packages", 1, 1)
    names = tuple((package.name, package.version) for package in packages)
    cache, key = Cache("mining"), _key(packages, options)
    stored = cache.get(key) if use_cache else None
    if stored is not None:
        rows = {kind: [Row(**row) for row in stored[kind]] for kind in TASK_KINDS}
        return Mined(rows, names, from_cache=True)
    if sandbox is None:
        raise ConfigError(f"mine:{spec} runs mined functions and needs a sandbox; none was given")
    start = time.monotonic()
    rows = _mine(packages, sandbox, options, report)
    if not any(rows.values()):
        raise DataError(
            f"mine:{spec} gave no examples: no self-contained function could be called with "
            "literal arguments, and there is no usable git history"
        )
    if use_cache:
        cache.put(key, {kind: list(map(_stored, found)) for kind, found in rows.items()})
    return Mined(rows, names, seconds=time.monotonic() - start)


def _stored(row: Row) -> dict[str, object]:
    return {"fields": row.fields, "origin": row.origin, "unit": row.unit}


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody asked for."""


def _key(packages: Sequence[Package], options: MiningOptions) -> list[object]:
    versions = [
        [package.name, package.version, head_commit(root) if (root := _history(package)) else ""]
        for package in packages
    ]
    return ["mine", MINER_VERSION, list(sys.version_info[:3]), versions, asdict(options)]


def _history(package: Package) -> Path | None:
    """The folder of the package's git history, None when it has none."""
    return package.root if package.root is not None and has_history(package.root) else None


def _mine(
    packages: Sequence[Package], sandbox: SandboxPool, options: MiningOptions, report: Progress
) -> dict[TaskKind, list[Row]]:
    seed = options.seed
    subjects = observe(
        candidates(packages, report), sandbox, seed=seed, tries=options.tries, progress=report
    )
    commits: list[Row] = []
    for place, package in enumerate(packages):
        report("reading git history", place, len(packages))
        root = _history(package)
        if root is not None:
            commits += history_rows(root, name=package.name, limit=options.max_commits)
    report("reading git history", len(packages), len(packages))
    if len(commits) < _ENOUGH_COMMITS:
        commits += commit_rows(
            subjects, sandbox, per_unit=options.edits_per_function, seed=seed, progress=report
        )
    return {
        "io_prediction": list(io_rows(subjects, per_unit=options.io_per_function, seed=seed)),
        "code_generation": list(
            code_rows(
                subjects, sandbox, per_unit=options.code_per_function, seed=seed, progress=report
            )
        ),
        "unit_test_generation": list(
            target_rows(
                subjects, sandbox, per_unit=options.tests_per_function, seed=seed, progress=report
            )
        ),
        "commit_message": commits,
    }


def mine_package(
    spec: str,
    *,
    sandbox: SandboxPool,
    out: Path | None = None,
    base_dir: Path | None = None,
    options: MiningOptions | None = None,
    progress: Progress | None = None,
) -> Mined:
    """`mine`, and the rows as `<task>.jsonl` files in the folder `out` when it is given.

    Each line is a row's fields with its `unit`, so that `jsonl:` reads it back with nothing lost.

    Raises:
        DataError: as `mine`; or `out` can't be written.
    """
    mined = mine(
        spec,
        base_dir=base_dir or Path.cwd(),
        sandbox=sandbox,
        options=options,
        progress=progress,
    )
    if out is not None:
        for kind, rows in mined.rows.items():
            _write(out / f"{kind}.jsonl", rows)
    return mined


def _write(path: Path, rows: Sequence[Row]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**row.fields, "unit": row.unit}) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror}") from None
