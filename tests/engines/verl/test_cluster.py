"""Whole runs: Ray, two FSDP2 ranks on gloo, four tasks, kills and resumes. Minutes, not seconds."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

import psutil
import torch
from verl_reference import reference_gram

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STEPS = 4
KILL_AFTER = 2
BETAS = {"io": 0.01, "code": 0.02, "tests": 0.05, "commits": 0.0}
BLOCKS = {name: {"beta": beta} for name, beta in BETAS.items()}
LONG_S = 900
"""A run takes half a minute; a machine that does other things too may need much longer."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {
        "max_steps": STEPS,
        "calibrate": {"enabled": False},
        # Every task in every step: the base mixture throughout.
        "schedule": {"task_scheduling": False},
        "verl": {"n_gpus_per_node": 2, "rollout": "hf_cpu", "reward_workers": 1},
    }


@pytest.fixture(scope="module")
def whole(module_run: Callable[..., Path], settings: dict[str, Any], module_start: Start) -> Path:
    """The folder of a run that nothing disturbed; its probes lie beside it."""
    path = module_run("whole", BLOCKS, **settings)
    out = finish(module_start(str(path), str(path.parent), script=HERE / "verl_recording_run.py"))
    folder = path.parent / "run"
    assert (folder / "metrics.jsonl").exists(), out[-3000:]
    return folder


@pytest.fixture(scope="module")
def resumed(module_run: Callable[..., Path], settings: dict[str, Any], module_start: Start) -> Path:
    """The folder of the same run, a worker of which was killed in its third step."""
    path = module_run("resumed", BLOCKS, **settings)
    folder = path.parent / "run"
    process = module_start("train", str(path))
    wait_for(lambda: checkpointed(folder) >= KILL_AFTER and complete(folder, KILL_AFTER), process)
    workers = [p for p in descendants(process) if "WorkerDict" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 1
    errors = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, out[-3000:]
    assert re.search(r"a process of the run died .*--resume", errors[0]), errors
    assert checkpointed(folder) == KILL_AFTER
    finish(module_start("train", str(path), "--resume"))
    return folder


def test_two_ranks_measure_the_gradients_of_one(whole: Path, tiny_model: Path):
    kept = torch.load(whole.parent / "probe-0.pt", weights_only=False)
    expected = reference_gram(tiny_model, kept, horizon=6)
    found = torch.as_tensor(kept["gram"])
    assert not kept["sketched"]
    assert len(kept["tasks"]) >= 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_each_tasks_kl_arrives_at_its_coefficient(whole: Path):
    # A step may do without a task.
    complete_ones = [m for m in metrics(whole) if all(f"task/{name}/kl" in m for name in BETAS)]
    last = complete_ones[-1]
    tokens = {name: last[f"task/{name}/loss_tokens"] for name in BETAS}
    for name, beta in BETAS.items():
        assert last[f"task/{name}/kl"] > 0
        # What the workers put into the loss, over what the driver measured: the coefficient.
        unweighted = last[f"task/{name}/kl"] * tokens[name] / sum(tokens.values())
        assert last[f"actor/task/{name}/kl_loss"] == pytest.approx(beta * unweighted, rel=1e-3)
    parts = sum(last[f"actor/task/{name}/kl_loss"] for name in BETAS)
    assert last["actor/astor/kl_loss"] == pytest.approx(parts, rel=1e-5)


def test_every_step_leaves_its_metrics_and_its_receipt(whole: Path):
    receipts = read(whole / "receipts.jsonl")
    assert [r["step"] for r in metrics(whole)] == [r["step"] for r in receipts] == [1, 2, 3, 4]
    for record, receipt in zip(metrics(whole), receipts, strict=True):
        assert sum(task["prompts"] for task in receipt["tasks"].values()) == 8
        assert record["rollouts/lost"] == 0
        assert record["time/coordination"] < record["time/step"]
        for name in BETAS:
            assert record[f"task/{name}/prompts"] == receipt["tasks"][name]["prompts"]
    assert any(
        record[f"task/{name}/rollouts/invalid"] for record in metrics(whole) for name in BETAS
    )
    probed = [record["step"] for record in metrics(whole) if "time/probe" in record]
    kept = sorted(int(p.stem.split("-")[1]) + 1 for p in whole.parent.glob("probe-*.pt"))
    assert probed == kept
    assert probed


def test_a_killed_run_goes_on_as_if_nothing_had_been(whole: Path, resumed: Path):
    undisturbed, continued = metrics(whole), metrics(resumed)
    assert [record["step"] for record in continued] == [1, 2, 3, 4]
    for one, other in zip(undisturbed, continued, strict=True):
        assert course(one) == course(other)
    assert read(whole / "receipts.jsonl") == read(resumed / "receipts.jsonl")


def test_other_data_is_refused_before_anything_is_started_or_replaced(
    whole: Path, module_start: Start
):
    data = whole.parent / "code.jsonl"
    before, exported = data.read_text(), (whole / "verl" / "train.parquet").read_bytes()
    config = (whole / "config.json").read_text()
    data.write_text(before.replace("say one", "say none"))
    try:
        process = module_start("train", str(whole.parent / "run.json"), "--resume")
        out, _ = process.communicate(timeout=LONG_S)
    finally:
        data.write_text(before)
    assert process.returncode == 1
    assert "error: task code: its training examples changed since the run began" in out
    assert "ray" not in out.lower()
    assert (whole / "verl" / "train.parquet").read_bytes() == exported
    assert (whole / "config.json").read_text() == config


def test_one_rank_takes_up_what_two_left(whole: Path, module_start: Start):
    raw = json.loads((whole.parent / "run.json").read_text())
    raw["max_steps"] = STEPS + 1
    raw["verl"]["n_gpus_per_node"] = 1
    raw["verl"]["options"]["+ray_kwargs.ray_init.num_gpus"] = 1
    path = whole.parent / "one.json"
    path.write_text(json.dumps(raw))
    finish(module_start("train", str(path), "--resume"))
    records = metrics(whole)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert records[-1]["rollouts/lost"] == 0
    # The weights came along: against the reference they are as far as before, not back at it.
    for name in ("io", "code"):
        assert records[-1][f"task/{name}/kl"] > 0.5 * records[-2][f"task/{name}/kl"]


def test_an_adapter_is_trained_and_validation_is_by_task(
    module_run: Callable[..., Path], module_start: Start
):
    path = module_run(
        "adapter",
        {"io": {"num_generations": 2, "max_completion_length": 3}},
        lora={"enabled": True, "r": 4, "lora_alpha": 8},
        schedule={"task_scheduling": False},
        eval={"examples": 1, "samples": 2, "temperature": 0.7, "every": 1},
        # The tests' sampler takes whole weights.
        verl={"options": {"actor_rollout_ref.model.lora.merge": True}},
    )
    finish(module_start("train", str(path)))
    records = metrics(path.parent / "run")
    assert len(records) == 2
    for record in records:
        for name in BETAS:
            # Where neither sample could be judged, nothing is said of the outcome.
            unjudged = record[f"val-aux/{name}/invalid/mean@2"] == 1
            assert (f"val-core/{name}/acc/mean@2" in record) is not unjudged
    # The reference is the model without its adapter: equal to it first, not afterwards.
    assert records[0]["task/io/kl"] == pytest.approx(0, abs=1e-9)
    assert records[1]["task/io/kl"] > 0
    assert all("time/probe" in record for record in records)
    # A task's own group size and length limit; what fills the batch up is counted nowhere.
    for record, receipt in zip(records, read(path.parent / "run" / "receipts.jsonl"), strict=True):
        assert record["rollouts/lost"] == 0
        assert record["task/io/rollouts/length"] <= 3
        groups = {name: receipt["tasks"][name]["prompts"] for name in BETAS}
        most = {"io": 2 * 3, "code": 4 * 6, "tests": 4 * 6, "commits": 4 * 6}
        for name, count in groups.items():
            assert record[f"task/{name}/loss_tokens"] <= most[name] * count


def course(record: dict[str, Any]) -> dict[str, Any]:
    """What of a step's record belongs to the training's course, not to the machine's."""
    machine = ("time/", "timing", "perf/", "actor/perf/", "actor/mfu", "training/epoch")
    return {
        name: value
        for name, value in record.items()
        if not name.startswith(machine) and not name.startswith("agent_loop")
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    return read(folder / "metrics.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def complete(folder: Path, step: int) -> bool:
    """Whether a step's record also has verl's own figures, which follow the checkpoint."""
    records = [record for record in metrics(folder) if record["step"] == step]
    return any("critic/advantages/mean" in record for record in records)


def checkpointed(folder: Path) -> int:
    tracker = folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    return int((tracker.read_text() if tracker.exists() else "") or 0)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert process.poll() is None, (process.stdout.read() if process.stdout else "")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, out[-6000:]
    assert not [p for p in psutil.process_iter() if p.ppid() == process.pid]
    return out
