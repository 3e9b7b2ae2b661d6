from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.step import figures, limits, work
from benchmarks.step.reward import checksum
from benchmarks.step.side import PROBE_EVERY, WARM_UP, Counts, Setting, peak_kib
from benchmarks.turns import in_turns, running
from torch import nn

from astor_rl.engines.local.model import load_model, render_prompt, stop_token_ids

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[work.Lengths, Setting]:
    """The tiny model, and prompts mined from one package."""
    sizes = work.Sizes(prompts=8, generations=2, tokens={"equal": 5, "ragged": 7})
    folder = tmp_path_factory.mktemp("step")
    return work.prepare(work.TINY, folder, sizes, lengths=["equal", "ragged"], packages="toolz")


@pytest.mark.parametrize("kind", ["equal", "ragged"])
def test_prompts_have_the_lengths_that_both_sides_see(
    settings: dict[work.Lengths, Setting], kind: work.Lengths
) -> None:
    setting = settings[kind]
    loaded = load_model(setting.folder, dtype=torch.float32)
    prompts = [row["prompt"] for row in setting.prompt_rows()]
    lengths = sorted(len(render_prompt(loaded.tokenizer, prompt)) for prompt in prompts)
    expected = {"equal": [150] * 8, "ragged": [90, 90, 120, 120, 150, 180, 210, 240]}
    assert lengths == expected[kind]
    assert setting.prompt_tokens == lengths[-1]
    assert Setting.load(str(setting.save(Path(setting.rows) / "setting.json"))) == setting


def test_completions_end_never_or_at_a_frequent_token(
    settings: dict[work.Lengths, Setting],
) -> None:
    ends = {}
    for kind, setting in settings.items():
        loaded = load_model(setting.folder, dtype=torch.float32)
        ends[kind] = stop_token_ids(loaded.tokenizer, loaded.model)
        assert loaded.tokenizer.eos_token_id == (ends[kind][0] if ends[kind] else None)
    assert ends["equal"] == ()
    assert loaded.tokenizer.decode(ends["ragged"]) == "\n"


def test_rewards_are_a_function_of_the_text_and_vary() -> None:
    texts = [f"completion {i}" for i in range(64)]
    rewards = checksum([], texts)
    assert rewards == checksum([], [[{"role": "assistant", "content": t}] for t in texts])
    assert set(rewards) == {i / 8 for i in range(8)}


def test_tokens_and_seconds_go_to_the_innermost_phase() -> None:
    counts = Counts()
    try:
        model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
        with counts.phase("outer"):
            model(torch.zeros(2, 3, dtype=torch.long))
            with counts.phase("inner"):
                model(torch.zeros(5, dtype=torch.long))
        model(torch.zeros(1, dtype=torch.long))
        assert counts.tokens == {"outer": 6, "inner": 5, "rest": 1}
        assert counts.seconds.keys() == {"rest", "outer", "inner"}
        counts.reset()
        assert not counts.tokens
    finally:
        counts.close()


def test_operations_are_those_of_the_layers(settings: dict[work.Lengths, Setting]) -> None:
    setting = settings["equal"]
    # Two layers: q and o 64 x 64, k and v 64 x 32, three of 64 x 64; an output embedding.
    layers, head = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 64), 64 * 256
    tokens = {"rollout": 10, "reference": 20, "update": 30}
    full = limits.step_flops(setting, tokens, generated=7)
    assert full == 2 * (layers * (10 + 20 + 3 * 30) + head * 7 * 5)


def test_peak_memory_is_this_programs_own() -> None:
    ballast = bytearray(b"x" * (64 << 20))
    command = "from benchmarks.step.side import peak_kib; print(peak_kib())"
    child = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert peak_kib() > len(ballast) >> 10
    assert 0 < int(child.stdout) < peak_kib()


def answer(s: float, **fields: Any) -> dict[str, Any]:
    common = {"cpu_s": 2 * s, "peak_kib": 2048, "generated": 8, "tokens": {"update": 4}}
    return {"s": s, **common, "phases": {"coordination": s / 10}, **fields}


def test_ratios_are_paired_and_against_trls_best(settings: dict[work.Lengths, Setting]) -> None:
    rounds = {
        "astor": [answer(2.0, probe_s=0.1), answer(1.0, probe_s=None), answer(2.0, probe_s=None)],
        "trl_bf16": [answer(9.0), answer(8.0), answer(9.0)],
        "trl_fp32": [answer(s, peak_kib=4096) for s in (9.0, 3.0, 4.0)],
        "sampler": [answer(s) for s in (9.0, 1.0, 1.0)],
        "generate": [answer(s) for s in (9.0, 3.0, 3.0)],
        "matmul": [{"s": 1.0, "gflops": 100.0}] * 3,
    }
    found = figures.of_setting(rounds, settings["equal"])
    assert found["trl_best"] == "trl_fp32"
    spread = found["ratios"]
    assert spread["speedup_vs_trl_transformers"]["median"] == 2.5
    assert spread["sampler_vs_generate"]["median"] == 3.0
    assert spread["speedup_vs_trl"] is None
    assert spread["speedup_same_dtype"] is None
    assert found["peak_memory_vs_trl"] == 0.5
    assert found["coordination_share"] == pytest.approx(0.1)
    assert found["probe_share"] == pytest.approx((2.0 / 1.5 - 1) / 8)
    assert found["probe_rounds"] == 1
    assert found["contenders"]["astor"]["phases_s"]["coordination"] == pytest.approx(0.15)
    headline = figures.headline({"equal-full": found})
    assert headline["speedup_vs_trl_transformers"] == 2.5
    assert headline["speedup_vs_trl"] is None


def test_rounds_to_warm_up_come_first_and_turns_change() -> None:
    names: list[Any] = ["a", "b"]
    assert list(in_turns(names, 2, warm_up=3)) == [
        *((-2, "a"), (-2, "b"), (-1, "b"), (-1, "a"), (0, "a"), (0, "b")),
        *((1, "b"), (1, "a"), (2, "a"), (2, "b")),
    ]
    assert [number for number, _ in in_turns(names[:1], 2)] == [0, 1, 2]


def test_the_short_benchmark_has_a_probe_step_and_another() -> None:
    assert [step % PROBE_EVERY == 0 for step in range(WARM_UP, WARM_UP + 2)] == [False, True]


def test_a_contender_that_ends_is_named() -> None:
    with (
        pytest.raises(RuntimeError, match="broken ended with exit code 3"),
        running({"broken": [sys.executable, "-c", "raise SystemExit(3)"]}),
    ):
        pass


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "step.json"
    arguments = ["--tiny", "--settings", "equal-full", "ragged-lora", "--only"]
    arguments += ["astor", "trl_bf16", "sampler", "generate", "matmul"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", *arguments, "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(output.read_text())
    first = result["settings"]["equal-full"]
    for name in ("sampler_vs_generate", "coordination_share", "share_of_matmul_limit"):
        assert result[name] > 0
    ours = first["contenders"]["astor"]
    expected = 4 * (150 + 2 * (6 - 1))
    assert ours["generated"] == 4 * 2 * 6
    assert ours["tokens_computed"] == dict.fromkeys(("rollout", "reference", "update"), expected)
    if importlib.util.find_spec("trl") is None:
        assert result["speedup_vs_trl_transformers"] is None
        assert "has no trl" in result["unavailable"]["trl_bf16"]
        return
    theirs = first["contenders"][first["trl_best"]]
    for name in ("speedup_vs_trl_transformers", "speedup_same_dtype", "peak_memory_vs_trl"):
        assert result[name] > 0
    assert theirs["generated"] == ours["generated"]
    # Each completion with its prompt: what sharing the prompt saves.
    assert theirs["tokens_computed"]["update"] == 4 * 2 * (150 + 6)
    assert set(theirs["phases_s"]) == {"rollout", "reward", "reference", "update", "rest"}
