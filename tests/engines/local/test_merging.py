"""Two specialists trained, merged, and the merged model evaluated, through the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_specialists_are_trained_merged_and_evaluated(
    tiny_run: Callable[..., Path], astor: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    def finish(*arguments: str) -> str:
        output, _ = (process := astor(*arguments)).communicate(timeout=240)
        assert process.returncode == 0, output
        return output

    run = tiny_run(max_steps=2, schedule={"method": "single"}, baseline={"task": "first"})
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        overrides = (f"output_dir={folder}", f"baseline.task={folder.name}", "eval.examples=0")
        finish("train", str(run), *(part for each in overrides for part in ("--set", each)))
    merged = tmp_path / "merged"
    assert "merged the adapters of 2 runs" in finish("merge", *map(str, folders), "-o", str(merged))
    finish("eval", str(merged), "-c", str(run), "-o", str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text())["tasks"].keys() == {"first", "second"}
