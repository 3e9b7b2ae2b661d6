"""docs/trl.md: its script runs, and the metrics it names are logged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trl

PAGE = Path(__file__).parents[3] / "docs" / "trl.md"
SMALL = {
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 24,
    "gradient_checkpointing": False,
    "max_completion_length": 5,
    "max_steps": 1,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}


@pytest.fixture
def ran(tiny_model: Path, tmp_path: Path, monkeypatch) -> dict[str, Any]:
    """The page's script on a tiny model and made-up rows."""
    after = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    config = trl.GRPOConfig
    monkeypatch.setattr(trl, "GRPOConfig", lambda *a, **changes: config(*a, **SMALL, **changes))
    monkeypatch.chdir(tmp_path)

    def tests_pass(prompts: Any, completions: list[str], tests: list[str], **_: Any) -> list[float]:
        return [float(len(c) % 2) for c, _ in zip(completions, tests, strict=True)]

    def names_match(prompts: Any, completions: list[str], style: Any, **_: Any) -> list[float]:
        return [1.0 - 2 * (len(c) % 2) for c in completions]

    namespace: dict[str, Any] = {
        "tests_pass": tests_pass,
        "names_match": names_match,
        "code": [{"prompt": f"code {letter}", "tests": "t"} for letter in "abcdef"],
        "naming": [{"prompt": f"name {letter}", "style": "s"} for letter in "abcdef"],
    }
    exec(after.replace("Qwen/Qwen2.5-Coder-1.5B-Instruct", str(tiny_model)), namespace)
    return namespace


def test_the_script_runs_and_logs_what_the_page_says(ran):
    text = PAGE.read_text()
    log = ran["trainer"].state.log_history[0]
    table = text[text.index("## What is measured") : text.index("## Stopping")]
    names = [name for name in re.findall(r"`([\w/<>]+)`", table) if "/" in name]
    assert len(names) > 8
    for name in names:
        if name.startswith("task/<name>/..."):
            continue
        full = name if name.startswith(("task/", "time/")) else f"task/<name>/{name}"
        assert full.replace("<name>", "code") in log, name


def test_betas_are_those_of_the_script(ran):
    log = ran["trainer"].state.log_history[0]
    assert log["task/naming/beta"] == pytest.approx(10 * log["task/code/beta"], rel=1e-6)
