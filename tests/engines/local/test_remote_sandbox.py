"""A whole run whose rewards are computed on a sandbox server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from astor_rl.report.run_folder import read_evaluations, read_metrics, read_receipts, read_samples

pytestmark = pytest.mark.slow

TOKEN = "correct-horse-battery-staple"
TASK = '''
"""The share of a completion's letters that are the wanted one, as the sandbox counts it."""
from astor_rl.sandbox.api import CallJob, Limits
from astor_rl.tasks.from_reward import RewardTask


class Counted(RewardTask):
    @classmethod
    def from_config(cls, config, sandbox):
        def share(prompts, completions, letter, **_):
            code = "def f(text, letter): return text.count(letter) / max(len(text), 1)"
            jobs = [
                CallJob(code, (f"f({c!r}, {l!r})",), limits=Limits(wall_s=60, cpu_s=20))
                for c, l in zip(completions, letter, strict=True)
            ]
            return [outcome.calls[0].value for outcome in sandbox.map(jobs)]

        return cls(share, answer_column="answer")
'''


@pytest.fixture
def url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "astor_rl", "sandbox", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ASTOR_SANDBOX_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    found = re.match(r"serving on (\S+):", process.stdout.readline())
    assert found
    yield found[1]
    process.kill()
    process.wait()
    process.stdout.close()


def timeless(path: Path) -> list[dict[str, object]]:
    return [
        {key: value for key, value in record.items() if not key.startswith("time")}
        for record in read_metrics(path)
    ]


def test_a_run_with_remote_rewards_is_the_local_one_bit_for_bit(
    tiny_run: Callable[..., Path],
    astor: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", TOKEN)
    (tmp_path / "counted_tasks.py").write_text(TASK)
    tasks = [
        {"name": name, "task": "counted_tasks:Counted", "source": f"jsonl:{tmp_path / name}.jsonl"}
        for name in ("first", "second")
    ]
    run = tiny_run(max_steps=3, tasks=tasks)
    local, remote = tmp_path / "local", tmp_path / "remote"
    for folder, more in ((local, ()), (remote, ("--set", f"sandbox.url={url}"))):
        process = astor("train", str(run), "--set", f"output_dir={folder}", *more)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert timeless(local) == timeless(remote)
    assert read_receipts(local) == read_receipts(remote)
    assert read_samples(local) == read_samples(remote)
    assert read_evaluations(local) == read_evaluations(remote)
    assert any(sample["outcome"] for sample in read_samples(local)), "nothing was ever rewarded"
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (local, remote)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for path in remote.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert url in (remote / "config.json").read_text()
