"""`python -m benchmarks.learning.build [LABORATORY ...]`: make the data and the model, once.

What is there and was made from the same sources stays.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

import torch

from benchmarks.common import tell
from benchmarks.learning.data import make_units, write_units
from benchmarks.learning.laboratory import LABORATORIES, Laboratory, make_tasks
from benchmarks.learning.rows import TASKS
from benchmarks.learning.start import texts_of, train_start

_HERE: Final = Path(__file__).parent
_DATA_SOURCES: Final = ("operations", "programs", "rows", "laboratory", "data")
_MODEL_SOURCES: Final = (*_DATA_SOURCES, "vocabulary", "start")
_PROMPTS: Final = 50
_STAMP: Final = "built.json"


def data_digest(laboratory: Laboratory) -> str:
    """A hash of what the data is made from."""
    return _digest(laboratory, _DATA_SOURCES, "")


def model_digest(laboratory: Laboratory) -> str:
    """A hash of what the model is made from; the product's prompts are part of it."""
    tasks = make_tasks()
    stream = laboratory.draws("digest", laboratory.levels, rare=1.0)
    texts = [list(texts_of(tasks, rows)) for _, rows in itertools.islice(stream, _PROMPTS)]
    return _digest(laboratory, _MODEL_SOURCES, repr(texts))


def _digest(laboratory: Laboratory, modules: Sequence[str], more: str) -> str:
    sources = [(_HERE / f"{name}.py").read_text(encoding="utf-8") for name in modules]
    whole = "\0".join([repr(laboratory), more, *sources])
    return blake2b(whole.encode(), digest_size=16).hexdigest()


def build(laboratory: Laboratory) -> None:
    """Make what is missing or was made from other sources."""
    stamp = laboratory.folder / _STAMP
    made = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}
    wanted = {"data": data_digest(laboratory), "model": model_digest(laboratory)}
    if made == wanted and _complete(laboratory):
        return
    units = make_units(laboratory)
    write_units(laboratory, units)
    held_out = {program.meaning for split in ("validation", "test") for program, _ in units[split]}
    if made.get("model") != wanted["model"] or not (laboratory.folder / "model").is_dir():
        started = time.monotonic()
        torch.set_num_threads(1)  # the same bits whatever the machine's number of cores
        train_start(laboratory, held_out, laboratory.folder / "model", tell)
        tell(f"laboratory {laboratory.name}: model built in {time.monotonic() - started:.0f} s")
    stamp.write_text(json.dumps(wanted), encoding="utf-8")


def _complete(laboratory: Laboratory) -> bool:
    files = [f"{task}-{split}.jsonl" for task in TASKS for split, _ in laboratory.units]
    return all((laboratory.folder / name).exists() for name in (*files, "model"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the laboratories."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.build")
    parser.add_argument("laboratories", nargs="*", default=sorted(LABORATORIES))
    options = parser.parse_args(arguments)
    for name in options.laboratories:
        build(LABORATORIES[name])


if __name__ == "__main__":
    main()
