"""`astor merge`: specialists become one model that `astor eval` takes; what doesn't fit is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from astor_rl.cli.app import run
from astor_rl.config import RunConfig
from astor_rl.engines.local.checkpoint import save_checkpoint
from astor_rl.engines.local.merging import merge_runs
from astor_rl.engines.local.model import add_lora, save_model
from astor_rl.errors import ConfigError, ModelError
from astor_rl.evaluate.merging import MergeOptions
from astor_rl.report.console import make_console
from astor_rl.report.run_folder import RunFolder, read_config


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A base model with a tokenizer, as `load_model` wants it."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=4, num_attention_heads=1, max_position_embeddings=16, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "<e>": 1, "?": 2, "b": 3}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>").save_pretrained(folder)
    return folder


def specialist(base: Path, folder: Path, *, seed: int, lora: bool = True) -> Path:
    """A finished run whose training moved its weights at random."""
    config = RunConfig.model_validate(
        {
            "model": str(base),
            "dtype": "float32",
            "lora": {"enabled": lora, "r": 2, "lora_alpha": 2.0},
            "tasks": [{"name": "t", "task": "io_prediction", "source": "jsonl:x.jsonl"}],
        }
    )
    with RunFolder.create(
        folder, config.resolved(), resume=False, base_dir=folder.parent
    ) as opened:
        model = LlamaForCausalLM.from_pretrained(base)
        if lora:
            model = add_lora(model, r=2, alpha=2.0)
        generator = torch.Generator().manual_seed(seed)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        state = {name: p.detach() for name, p in trained.items()}
        save_checkpoint(folder / "checkpoints", 1, {"updater": {"weights": state}}, keep=1)
        save_model(model, AutoTokenizer.from_pretrained(base), folder / "model")
        opened.append_event("finished")
    return folder


def merge(runs: list[Path], output: Path, options: MergeOptions, *, whole: bool = False) -> str:
    with make_console(live=False) as console:
        return merge_runs(runs, output, options, console=console, whole=whole)


@pytest.fixture
def pair(tiny: Path, tmp_path: Path) -> list[Path]:
    return [specialist(tiny, tmp_path / f"run{seed}", seed=seed) for seed in (1, 2)]


@pytest.mark.parametrize("whole", [False, True])
def test_linear_is_the_mean_of_the_models(pair: list[Path], tmp_path: Path, whole: bool) -> None:
    space = merge(pair, tmp_path / "out", MergeOptions("linear"), whole=whole)
    assert space == ("weights" if whole else "adapters")
    ours, theirs = [weights(run / "model") for run in pair]
    found = weights(tmp_path / "out")
    assert found.keys() == ours.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, (ours[name] + theirs[name]) / 2)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["space"] == space
    assert record["method"] == "linear"
    assert record["runs"] == [str(run) for run in pair]


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_every_rule_makes_another_model(pair: list[Path], tmp_path: Path, method: str) -> None:
    options = MergeOptions(method, density=0.5)
    spaces = [merge(pair, tmp_path / f"out{whole}", options, whole=whole) for whole in (0, 1)]
    assert spaces == ["adapters", "weights"]
    base = weights(tmp_path / "base")
    for whole in (0, 1):
        found = weights(tmp_path / f"out{whole}")
        moved = [name for name in found if not torch.equal(found[name], base[name])]
        assert any("proj" in name for name in moved)
        assert not any("norm" in name or "embed" in name for name in moved)


def test_runs_of_all_weights(tiny: Path, tmp_path: Path) -> None:
    runs = [specialist(tiny, tmp_path / f"full{s}", seed=s, lora=False) for s in (1, 2, 3)]
    assert merge(runs, tmp_path / "out", MergeOptions("linear", scale=3.0)) == "weights"
    base, found = weights(tiny), weights(tmp_path / "out")
    for name, weight in base.items():
        total = sum((weights(run / "model")[name] - weight for run in runs), torch.zeros(()))
        torch.testing.assert_close(found[name], weight + total)


def test_runs_from_other_weights_are_refused(tiny: Path, pair: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    model = LlamaForCausalLM.from_pretrained(tiny)
    model.lm_head.weight.data += 1
    model.save_pretrained(other)
    for file in tiny.glob("tokenizer*"):
        (other / file.name).write_bytes(file.read_bytes())
    third = specialist(other, tmp_path / "run3", seed=3)
    with pytest.raises(ModelError, match="began RL at different weights"):
        merge([*pair, third], tmp_path / "out", MergeOptions())
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 run is given"):
        merge(pair[:1], tmp_path / "out", MergeOptions())
    with pytest.raises(ConfigError, match="exists; choose a new folder"):
        merge(pair, pair[0], MergeOptions())
    (pair[1] / "model").rename(pair[1] / "gone")
    with pytest.raises(ModelError, match="has no final model yet"):
        merge(pair, tmp_path / "out", MergeOptions())


@pytest.mark.parametrize("whole", [False, True])
def test_an_extended_run_that_failed_is_not_finished(
    pair: list[Path], tmp_path: Path, whole: bool
) -> None:
    """Its model is the shorter run's, its newest checkpoint is not."""
    config = {**read_config(pair[1]), "max_steps": 200}
    failed = RunFolder.create(pair[1], config, resume=True, base_dir=tmp_path)
    failed.accept()
    with pytest.raises(ModelError, match="diverged"), failed:
        raise ModelError("diverged")
    with pytest.raises(ModelError, match=r"run2' has a model of .* not finished since"):
        merge(pair, tmp_path / "out", MergeOptions(), whole=whole)
    with RunFolder.create(pair[1], config, resume=True, base_dir=tmp_path) as again:
        again.accept()
        again.append_event("finished")
    merge(pair, tmp_path / "out", MergeOptions(), whole=whole)


def test_the_command(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "merged"
    assert run(["merge", *map(str, pair), "--method", "ties", "-o", str(out), "--plain"]) == 0
    assert "merged the adapters of 2 runs by ties" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()
    assert run(["merge", *map(str, pair), "--method", "svd", "-o", str(tmp_path / "x")]) == 2
    assert "error: method is 'svd'; it must be one of linear, ties" in capsys.readouterr().err


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
