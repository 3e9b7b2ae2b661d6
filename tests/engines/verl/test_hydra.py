from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.verl.hydra import arguments, check, compose, overrides, spell
from astor_rl.errors import ConfigError

TASK = {"name": "io", "task": "io_prediction", "source": "jsonl:x"}
FOLDER = Path("/runs/a b's/verl")


def run(**changes: Any) -> RunConfig:
    raw = {"model": "m", "engine": "verl", "lora": {"enabled": False}, "tasks": [TASK]}
    return parse_config({**raw, **changes})


def test_options_win_over_what_the_run_file_says():
    options = {"trainer": {"nnodes": 3}, "+ray_kwargs.ray_init.num_gpus": 2}
    keys = overrides(run(verl={"nnodes": 2, "options": options}), FOLDER)
    assert keys["trainer.nnodes"] == 3
    assert keys["+ray_kwargs.ray_init.num_gpus"] == 2
    replaced = overrides(run(verl={"options": {"astor": {"run": "x"}}}), FOLDER)
    assert [key for key in replaced if key.endswith("astor.run")] == ["astor.run"]


def test_the_engine_may_be_named_by_its_table():
    config = parse_config({"model": "m", "tasks": [TASK], "engine": {"verl": {"nnodes": 4}}})
    assert (config.engine, config.verl.nnodes) == ("verl", 4)
    assert parse_config(config.resolved()) == config
    with pytest.raises(ConfigError, match=r"\[engine\.verl\] and \[verl\] are two names"):
        parse_config({"model": "m", "tasks": [TASK], "engine": {"verl": {}}, "verl": {}})
    with pytest.raises(ConfigError, match="engine = a table"):
        parse_config({"model": "m", "tasks": [TASK], "engine": {"deepspeed": {}}})


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        1e-6,
        "plain",
        "",
        "null",
        "On",
        "7",
        "a b",
        "it's",
        "back\\slash",
        "ends\\",
        "quote\\'s",
        "a,b=c:[d]{e}",
        "$HOME",
        "${trainer.nnodes}",
        "hf://x/y.z",
        ["a b", 1, None],
        {"k": "v w", "n": [1]},
    ],
)
def test_hydra_reads_every_value_back(value: Any):
    parser = pytest.importorskip(
        "hydra.core.override_parser.overrides_parser", reason="needs verl: make test-verl"
    )
    (override,) = parser.OverridesParser.create().parse_overrides([f"key={spell(value)}"])
    assert override.value() == value


@pytest.fixture
def composed() -> Any:
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    config = run(
        num_generations=6,
        beta=0.02,
        epsilon=0.1,
        epsilon_high=0.3,
        chat_template_kwargs={"enable_thinking": False},
        max_completion_length=400,
        loss_type="dr_grpo",
        lr_warmup_steps=3,
        tasks=[{**TASK, "num_generations": 10}, {**TASK, "name": "b"}],
        eval={"samples": 2, "temperature": 0.5, "every": 5},
    )
    found = compose(arguments(overrides(config, FOLDER)))
    check(found, config)
    return found


def test_a_run_is_composed_and_checked_by_verl(composed: Any):
    actor, rollout = composed.actor_rollout_ref.actor, composed.actor_rollout_ref.rollout
    assert composed.data.train_files == [f"{FOLDER}/train.parquet"]
    assert composed.data.apply_chat_template_kwargs == {"enable_thinking": False}
    assert composed.data.max_response_length == 400
    assert (actor.loss_agg_mode, actor.loss_scale_factor) == ("seq-mean-token-sum-norm", 400)
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.1, 0.3)
    assert (actor.use_kl_loss, actor.kl_loss_coef) == (True, 0.0)
    assert actor.optim.lr_warmup_steps == 3
    assert (rollout.n, rollout.response_length) == (10, 400)
    assert (rollout.val_kwargs.n, rollout.val_kwargs.do_sample) == (2, True)
    assert composed.algorithm.rollout_correction.rollout_is == "token"
    assert composed.trainer.test_freq == 5
    assert composed.astor.run == f"{FOLDER}/run.json"
    assert composed.trainer.default_local_dir == f"{FOLDER.parent}/checkpoints"


@pytest.mark.parametrize(("dtype", "short"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_fsdp_computes_in_the_runs_dtype(dtype: str, short: str):
    """verl's engine reads `mixed_precision`; without it everything is bf16, whatever `dtype`."""
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    from omegaconf import OmegaConf
    from verl.utils.config import omega_conf_to_dataclass

    found = compose(arguments(overrides(run(dtype=dtype), FOLDER))).actor_rollout_ref
    for part in (found.actor, found.ref):
        engine = omega_conf_to_dataclass(part.fsdp_config)
        wanted = {"param_dtype": short, "reduce_dtype": "fp32"}
        assert OmegaConf.to_container(OmegaConf.create(dict(engine.mixed_precision))) == wanted
    assert found.rollout.dtype == dtype


def test_precision_can_be_set_in_verls_own_keys():
    key = "actor_rollout_ref.actor.fsdp_config.mixed_precision.reduce_dtype"
    keys = overrides(run(verl={"options": {f"+{key}": "bf16"}}), FOLDER)
    assert keys[f"+{key}"] == "bf16"
    assert keys["+actor_rollout_ref.ref.fsdp_config.mixed_precision.reduce_dtype"] == "fp32"


def test_without_any_kl_there_is_no_reference_model():
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    from verl.trainer.ppo.utils import need_reference_policy

    free = compose(arguments(overrides(run(beta=0.0), FOLDER)))
    assert not need_reference_policy(free)
    held = compose(arguments(overrides(run(beta=0.0, tasks=[{**TASK, "beta": 0.1}]), FOLDER)))
    assert need_reference_policy(held)


def test_what_verl_refuses_is_one_line():
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    unknown = run(verl={"options": {"trainer.gpus": 3}})
    with pytest.raises(ConfigError, match=r"verl's configuration: .*trainer\.gpus"):
        compose(arguments(overrides(unknown, FOLDER)))
    bad = run(verl={"options": {"actor_rollout_ref.actor.loss_agg_mode": "none-such"}})
    with pytest.raises(ConfigError, match="verl refuses its configuration: .*none-such"):
        check(compose(arguments(overrides(bad, FOLDER))), bad)
