"""`python -m benchmarks.step`: a step of each side in turns, the JSON line last. See `make help`.

Each contender is a process of its own, stopped while another's step is measured. Equal work: the
same model, prompts, group size, completion lengths and rewards, a reference on both sides. TRL
runs in every configuration of `_TRL`; ours is compared with the fastest.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from astor_rl.engines.local import smollm_wheel
from benchmarks.common import RESULTS, machine, publish, tell, versions
from benchmarks.step.figures import headline, of_setting
from benchmarks.step.side import WARM_UP, Setting
from benchmarks.step.work import TINY, Lengths, Sizes, prepare
from benchmarks.turns import Contender, end_on_sigterm, in_turns, running

_OURS: Final = {
    "astor": ("transformers", "bfloat16"),
    "astor_fp32": ("transformers", "float32"),
    "astor_vllm": ("vllm", "bfloat16"),
}
_TRL: Final = {
    "trl_bf16": ("bfloat16", "dynamic"),
    "trl_fp32": ("float32", "dynamic"),
}
_ALONE: Final = ("sampler", "generate")
_SETTINGS: Final = ("equal-full", "equal-lora", "ragged-full", "ragged-lora")
# As the command line and the local engine set it (see `engines.local.memory`): it serves TRL too.
_ENVIRONMENT: Final = {
    "GOMP_SPINCOUNT": "10000",
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def _commands(
    options: argparse.Namespace, path: Path, kinds: Sequence[str]
) -> dict[str, Sequence[str]]:
    """How each contender is started."""
    here, worker = sys.executable, "benchmarks.step."
    commands: dict[str, Sequence[str]] = {}
    for kind in kinds:
        if kind in _OURS:
            python = options.vllm_python if kind == "astor_vllm" else here
            commands[kind] = [str(python), "-m", worker + "ours", str(path), *_OURS[kind]]
        elif kind in _TRL:
            python = options.trl_python
            # With 64 completions at once TRL was killed for its memory on a machine of 23 GiB.
            batch = math.gcd(options.prompts * options.generations, options.trl_batch)
            setting = [str(path), *_TRL[kind], str(batch)]
            commands[kind] = [str(python), "-m", worker + "trl_side", *setting]
        elif kind in _ALONE:
            commands[kind] = [here, "-m", worker + "samplers", str(path), kind, "bfloat16"]
        else:
            commands[kind] = [here, "-m", worker + "limits", "bfloat16"]
    return commands


def _unavailable(options: argparse.Namespace) -> dict[str, str]:
    """Contenders that can't run here, and why."""
    missing: dict[str, str] = {}
    if not _has(options.trl_python, "trl"):
        missing |= dict.fromkeys(_TRL, f"{options.trl_python} has no trl: make setup installs it")
    if not _has(options.vllm_python, "vllm"):
        missing["astor_vllm"] = f"{options.vllm_python} has no vllm: make setup-vllm installs it"
    return missing


def _has(python: Path, package: str) -> bool:
    """Whether an interpreter exists and has a package."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return python.is_file() and subprocess.run([python, "-c", look], check=False).returncode == 0


def _race(contenders: Sequence[Contender], rounds: int, setting: Setting, *, equal: bool) -> None:
    expected = setting.prompts * setting.generations * setting.tokens
    for number, contender in in_turns(contenders, rounds, warm_up=WARM_UP):
        answer = contender.go()
        if equal and answer.get("generated", expected) != expected:
            raise RuntimeError(f"{contender.kind} sampled {answer['generated']}, not {expected}")
        if number > 0:
            contender.rounds.append(answer)
        tell(f"round {number}: {contender.kind} {answer['s']:.1f} s")


def _measured(
    name: str, setting: Setting, options: argparse.Namespace, kinds: Sequence[str], scratch: Path
) -> dict[str, Any]:
    tell(f"--- {name}: {setting.prompts} prompts x {setting.generations}")
    path = setting.save(scratch / f"{name}.json")
    with running(_commands(options, path, kinds), _ENVIRONMENT) as contenders:
        _race(contenders, options.rounds, setting, equal=name.startswith("equal"))
        return of_setting({c.kind: c.rounds for c in contenders}, setting)


def _kinds(options: argparse.Namespace, number: int, missing: Sequence[str]) -> list[str]:
    """Who takes part: everybody in the first setting, later only those that tell something new."""
    wanted = options.only or (*_OURS, *_TRL, *_ALONE, "matmul")
    skipped = {"astor_fp32", "trl_fp32", "matmul"} if number and not options.only else set()
    return [kind for kind in wanted if kind not in missing and kind not in skipped]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    everybody = (*_OURS, *_TRL, *_ALONE, "matmul")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="does it run? figures mean nothing")
    parser.add_argument("--model", default=smollm_wheel.NAME)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="of completions of equal length")
    parser.add_argument("--ragged-tokens", type=int, default=96, help="at most, where ragged")
    parser.add_argument("--packages", default="more_itertools,boltons,toolz,stdlib")
    parser.add_argument("--settings", nargs="+", choices=_SETTINGS, default=_SETTINGS[:3])
    parser.add_argument("--only", nargs="+", choices=everybody, default=None)
    parser.add_argument("--trl-batch", type=int, default=16, help="completions at once in TRL")
    parser.add_argument("--trl-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--vllm-python", type=Path, default=Path(".venv-vllm/bin/python"))
    parser.add_argument("--output", type=Path, default=RESULTS / "step.json")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.model, options.packages, options.rounds = TINY, "toolz", 1
        options.prompts, options.generations = 4, 2
        options.tokens = options.ragged_tokens = 6
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    end_on_sigterm()
    before, missing = machine(), _unavailable(options)
    sizes = Sizes(
        options.prompts,
        options.generations,
        {"equal": options.tokens, "ragged": options.ragged_tokens},
    )
    results = {}
    with tempfile.TemporaryDirectory(prefix="astor-bench-") as scratch:
        lengths: list[Lengths] = [
            kind
            for kind in ("equal", "ragged")
            if any(name.startswith(kind) for name in options.settings)
        ]
        settings = prepare(
            options.model, Path(scratch), sizes, lengths=lengths, packages=options.packages
        )
        for number, name in enumerate(options.settings):
            kind, _, trained = name.partition("-")
            setting = replace(settings[kind], lora=trained == "lora")
            kinds = _kinds(options, number, list(missing))
            results[name] = _measured(name, setting, options, kinds, Path(scratch))
    publish(
        {
            **headline(results),
            "settings": results,
            "unavailable": missing,
            "parameters": {
                "model": options.model,
                "rounds": options.rounds,
                "prompts": options.prompts,
                "generations": options.generations,
                "tokens": options.tokens,
                "ragged_tokens": options.ragged_tokens,
                "trl_batch": options.trl_batch,
                "tiny": options.tiny,
            },
            "machine": before,
            "versions": versions("astor-rl", "torch", "transformers", "peft"),
        },
        options.output,
    )


if __name__ == "__main__":
    main()
