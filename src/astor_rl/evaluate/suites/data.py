"""Where a suite's rows come from: named on the command line, a folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from astor_rl.data.rows import Row
from astor_rl.data.sources import SCHEMES, load_source
from astor_rl.errors import ConfigError, DataError
from astor_rl.evaluate.suites import checkouts
from astor_rl.sandbox.api import SandboxPool

_CRUXEVAL = ("io_prediction.heldout.cruxeval.jsonl", "cruxeval.jsonl")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a suite's data is looked for.

    Attributes:
        files: names in a data folder, without `.gz`; all that are found are read, unless `first`.
        hub: the default source; empty where the hub has none.
        remedy: where to get it.
        kind: the task whose rows `mine:` makes for it.
        first: take the first file that is found, not all.
        named: what `--data` is given then.
    """

    files: tuple[str, ...]
    hub: str
    remedy: str
    kind: str
    first: bool = True
    named: str = "jsonl:FILE"


PLACES: Mapping[str, Place] = {
    "cruxeval-input": Place(
        _CRUXEVAL,
        "hf:cruxeval-org/cruxeval@test",
        "data/cruxeval.jsonl of github.com/facebookresearch/cruxeval",
        "io_prediction",
    ),
    "cruxeval-output": Place(
        _CRUXEVAL,
        "hf:cruxeval-org/cruxeval@test",
        "data/cruxeval.jsonl of github.com/facebookresearch/cruxeval",
        "io_prediction",
    ),
    "humaneval": Place(
        ("code_generation.heldout.humaneval.jsonl", "HumanEval.jsonl", "humaneval.jsonl"),
        "hf:openai/openai_humaneval@test",
        "data/HumanEval.jsonl.gz of github.com/openai/human-eval",
        "code_generation",
    ),
    "mbpp": Place(
        ("code_generation.heldout.mbpp_test.jsonl", "mbpp.jsonl"),
        "hf:google-research-datasets/mbpp:full@test",
        "mbpp/mbpp.jsonl of github.com/google-research/google-research",
        "code_generation",
    ),
    "aider-polyglot": Place(
        (
            "code_generation.heldout.aider_polyglot_python.jsonl",
            "code_generation.heldout.aider_polyglot_other_languages.jsonl",
            "polyglot-benchmark",
        ),
        "",
        "git clone https://github.com/Aider-AI/polyglot-benchmark",
        "code_generation",
        first=False,
        named="FOLDER",
    ),
    "unit-tests": Place(
        ("unit_test_generation.heldout.quixbugs.jsonl", "unit-tests.jsonl"),
        "",
        "rows of task unit_test_generation, as `astor mine` makes of your code (or mine:PACKAGE)",
        "unit_test_generation",
    ),
    "defects4j": Place(
        ("defects4j.jsonl",),
        "",
        'a list of bugs, one a line, as in {"project": "Lang", "bug": 1}',
        "defects4j",
    ),
    "commit-messages": Place(
        ("mcmdeval.jsonl", "commit_message.heldout.python_repos.jsonl", "commit-messages.jsonl"),
        "",
        "MCMDEval+ as its authors distribute it, or any JSON lines with diff and message",
        "commit_message",
    ),
}
"""Where each suite's data is looked for."""


@dataclass(frozen=True, slots=True)
class SuiteRows:
    """A suite's rows and where they are from.

    Attributes:
        rows: in the source's order.
        sources: as they can be named again.
        digest: of the rows' content, to tell other data on a resumed evaluation.
    """

    rows: tuple[Row, ...]
    sources: tuple[str, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([row.fields for row in self.rows], sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
        object.__setattr__(self, "digest", digest)


def limited(rows: Sequence[Row], limit: int | None, seed: str) -> list[Row]:
    """At most `limit` rows (None: all), drawn at random by the seed, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def parse_sources(options: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=source` options as sources by suite; a suite may be named more than once.

    Raises:
        ConfigError: an option isn't of that form, or names no suite.
    """
    found: dict[str, list[str]] = {}
    for option in options:
        name, separator, source = option.partition("=")
        if not separator or not source:
            raise ConfigError(f"--data {option!r}: write it as SUITE=jsonl:..., SUITE=hf:...")
        if name not in PLACES:
            raise ConfigError(f"--data {option!r}: no suite {name!r}; it must be of {_known()}")
        found.setdefault(name, []).append(source)
    return found


def _known() -> str:
    return ", ".join(PLACES)


def load_rows(
    name: str, named: Sequence[str], folder: Path | None, sandbox: SandboxPool
) -> SuiteRows:
    """The rows of a suite: from what was named, else the folder, else the hub.

    Args:
        name: the suite's.
        named: sources: `jsonl:`, `hf:`, `mine:`, a file, or a folder (a checkout of Aider's
            benchmark; the parallel text files of MCMD).
        folder: searched for the files of `PLACES`.
        sandbox: for `mine:`.

    Raises:
        DataError: there is no data, or it can't be read; says where to get it.
    """
    place = PLACES[name]
    sources = list(named) or _in_folder(place, folder)
    if not sources and place.hub and folder is None:
        sources = [place.hub]
    remedy = f"{place.remedy}; then --data {name}={place.named}"
    if not sources:
        where = f" in {str(folder)!r}" if folder else ""
        raise DataError(f"suite {name!r} has no data{where}; get {remedy}")
    rows: list[Row] = []
    for source in sources:
        try:
            rows += _load(source, place.kind, sandbox)
        except DataError as error:
            if named:
                raise
            raise DataError(f"suite {name!r} has no data ({error}); get {remedy}") from None
    if not rows:
        raise DataError(f"suite {name!r}: there are no rows in {', '.join(sources)}")
    return SuiteRows(tuple(rows), tuple(sources))


def _in_folder(place: Place, folder: Path | None) -> list[str]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise DataError(f"--data-dir {str(folder)!r} is no folder")
    found = []
    for name in place.files:
        path = next(
            (one for one in (folder / name, folder / f"{name}.gz") if one.exists()),
            None,
        )
        if path is not None:
            found.append(f"jsonl:{path}" if path.is_file() else str(path))
    return found[:1] if place.first else found


def _load(source: str, kind: str, sandbox: SandboxPool) -> list[Row]:
    scheme = source.partition(":")[0]
    if scheme not in SCHEMES:
        path = Path(source).expanduser()
        if path.is_dir():
            return checkouts.read_folder(path)
        source = f"jsonl:{path}"
    return load_source(source, base_dir=Path(), task_kind=kind, sandbox=sandbox)
