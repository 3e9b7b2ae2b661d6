"""From rounds to figures: medians, paired ratios and shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from astor_rl.utility.synergy import SynergyOptions
from benchmarks.common import Summary, ratios, summary
from benchmarks.step.limits import step_flops
from benchmarks.step.side import Setting
from benchmarks.turns import Answer

Rounds = Mapping[str, Sequence[Answer]]

_TWINS: Final = {"trl_bf16": "astor", "trl_fp32": "astor_fp32"}
"""Ours in the type that each of TRL's configurations computes in."""


def _probed(answer: Answer) -> bool:
    return answer.get("probe_s") is not None


def _without_probes(rounds: Rounds) -> Rounds:
    """The rounds in which nobody took a probe step (those are `probe_share`); all, if none is."""
    count = max(map(len, rounds.values()))
    usual = [
        number
        for number in range(count)
        if not any(_probed(answers[number]) for answers in rounds.values())
    ]
    if not usual:
        return rounds
    return {kind: [answers[number] for number in usual] for kind, answers in rounds.items()}


def _faster(rounds: Rounds, ours: str | None, theirs: str | None) -> Summary | None:
    """How many times faster ours is than theirs, round by round."""
    mine, other = _seconds(rounds, ours), _seconds(rounds, theirs)
    return None if mine is None or other is None else ratios(other, mine)


def _seconds(rounds: Rounds, kind: str | None) -> list[float] | None:
    return [r["s"] for r in rounds[kind]] if kind is not None and kind in rounds else None


def _rate_ratio(rounds: Rounds) -> Summary | None:
    """Our sampler's tokens a second over `generate`'s."""
    if not {"sampler", "generate"} <= rounds.keys():
        return None
    rates = {k: [r["generated"] / r["s"] for r in rounds[k]] for k in ("sampler", "generate")}
    return ratios(rates["sampler"], rates["generate"])


def _peak(rounds: Rounds, kind: str | None) -> float | None:
    if kind is None or kind not in rounds:
        return None
    return max(float(r["peak_kib"]) for r in rounds[kind]) / 1024


def of_setting(rounds: Rounds, setting: Setting) -> dict[str, Any]:
    """Everything about one setting.

    Args:
        rounds: each contender's answers.
        setting: what they did.
    """
    every_round, rounds = rounds, _without_probes(rounds)
    best = min(
        (kind for kind in _TWINS if kind in rounds),
        key=lambda kind: summary([r["s"] for r in rounds[kind]])["median"],
        default=None,
    )
    ours, theirs = _peak(every_round, "astor"), _peak(every_round, best)
    return {
        "trl_best": best,
        "ratios": {
            "speedup_vs_trl": _faster(rounds, "astor_vllm", best),
            "speedup_vs_trl_transformers": _faster(rounds, "astor", best),
            "speedup_same_dtype": _faster(rounds, best and _TWINS[best], best),
            "speedup_both_fp32": _faster(rounds, "astor_fp32", "trl_fp32"),
            "speedup_from_dtype": _faster(rounds, "astor", "astor_fp32"),
            "sampler_vs_generate": _rate_ratio(rounds),
        },
        "peak_memory_vs_trl": ours / theirs if ours and theirs else None,
        "coordination_share": _share(rounds, "coordination"),
        "probe_share": _probe_share(every_round),
        "probe_rounds": sum(map(_probed, every_round.get("astor", ()))),
        **_limit(rounds, setting),
        "contenders": {
            kind: _contender(answers) for kind, answers in rounds.items() if kind != "matmul"
        },
        "prompt_tokens": setting.prompt_tokens,
        "completion_tokens": setting.tokens,
        "lora": setting.lora,
    }


def _share(rounds: Rounds, phase: str) -> float | None:
    """A phase's part of our step."""
    if "astor" not in rounds:
        return None
    return summary([r["phases"][phase] / r["s"] for r in rounds["astor"]])["median"]


def _probe_share(rounds: Rounds) -> float | None:
    """What the gradient probe adds to a step on average; None without steps of both kinds.

    By how much longer a probe step is, so that smaller bins count too.
    """
    answers = rounds.get("astor", ())
    probed = [r["s"] for r in answers if _probed(r)]
    others = [r["s"] for r in answers if not _probed(r)]
    if not (probed and others):
        return None
    usual = summary(others)["median"]
    return (summary(probed)["median"] / usual - 1) / SynergyOptions().every


def _limit(rounds: Rounds, setting: Setting) -> dict[str, float | None]:
    """The useful multiplications of our step against what the machine can do."""
    rates = [
        step_flops(setting, r["tokens"], r["generated"]) / r["s"] / 1e9
        for r in rounds.get("astor", ())
    ]
    step = summary(rates)["median"] if rates else None
    most = (
        summary([r["gflops"] for r in rounds["matmul"]])["median"] if "matmul" in rounds else None
    )
    return {
        "matmul_limit_gflops": most,
        "step_gflops": step,
        "share_of_matmul_limit": step / most if step and most else None,
    }


def _contender(answers: Sequence[Answer]) -> dict[str, Any]:
    """Medians of one contender's rounds."""

    def parts(name: str) -> dict[str, float]:
        names = {part for answer in answers for part in answer.get(name, {})}
        return {
            part: summary([answer[name].get(part, 0.0) for answer in answers])["median"]
            for part in sorted(names)
        }

    return {
        "s": summary([answer["s"] for answer in answers]),
        "cpu_s": summary([answer["cpu_s"] for answer in answers]),
        "phases_s": parts("phases"),
        "tokens_computed": parts("tokens"),
        "generated": summary([answer["generated"] for answer in answers])["median"],
        "peak_mib": max(answer["peak_kib"] for answer in answers) / 1024,
    }


def headline(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The first setting's figures by themselves, and its ratios' spread."""
    first = next(iter(results.values()))
    shown = (
        "peak_memory_vs_trl",
        "coordination_share",
        "probe_share",
        "matmul_limit_gflops",
        "step_gflops",
        "share_of_matmul_limit",
    )
    medians = {name: spread and spread["median"] for name, spread in first["ratios"].items()}
    return {**medians, **{name: first[name] for name in shown}}
