"""What TRL can't honour is refused before anything is loaded, in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astor_rl.engines.trl import AstorGRPOTrainer, capabilities
from astor_rl.errors import AstorError, CapabilityError, ConfigError


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"num_iterations": 2}, "num_iterations is 2"),
        ({"steps_per_generation": 4}, r"steps_per_generation is 4.*accumulation_steps \(2\)"),
        ({"loss_type": "cispo"}, "loss_type is 'cispo'.*dr_grpo"),
        ({"scale_rewards": "batch"}, "scale_rewards is 'batch'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalize_then_sum"),
        ({"reward_weights": [1.0]}, "reward_weights is"),
        ({"entropy_coef": 0.1}, "entropy_coef is 0.1"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy is True"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile is 0.2"),
        (
            {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
            },
            "use_reentrant",
        ),
    ],
)
def test_an_option_is_named_with_its_value_and_what_is_right(trainer, changes, names):
    with pytest.raises(CapabilityError, match=names) as found:
        trainer(**changes)
    assert "\n" not in str(found.value)


class Config:
    """A `GRPOConfig` as on a machine that isn't here."""

    def __init__(self, real: Any, **changes: Any) -> None:
        vars(self).update(vars(real))
        self.world_size = 1
        vars(self).update(changes)


@pytest.mark.parametrize("changes", [{"world_size": 4}, {"use_vllm": True}])
def test_several_processes_and_vllm_are_refused(trainer, guest, changes):
    args = Config(trainer().args, **changes)
    capabilities.check_args(Config(trainer().args), guest.options.synergy)
    with pytest.raises(CapabilityError, match=next(iter(changes))):
        capabilities.check_args(args, guest.options.synergy)


@pytest.mark.parametrize(
    ("option", "value"), [("num_generations", 8), ("max_completion_length", 99)]
)
def test_group_sizes_and_lengths_that_differ_are_refused(trainer, guest, option, value):
    tasks = [guest.data("first"), replace(guest.data("second"), **{option: value})]
    with pytest.raises(CapabilityError, match=f"'second' has {option} {value}"):
        trainer(tasks)
    same = {"num_generations": 4, "max_completion_length": 6}[option]
    assert trainer([guest.data("first"), replace(guest.data("second"), **{option: same})])


def test_tasks_without_examples_are_refused(trainer, guest, tiny_model: Path):
    with pytest.raises(ConfigError, match="'first' has no examples"):
        trainer([replace(guest.data("first"), examples=())])
    with pytest.raises(ConfigError, match="tasks is empty"):
        AstorGRPOTrainer(str(tiny_model), [], trainer().args)


@pytest.mark.parametrize("name", ["reward_funcs", "train_dataset", "tools", "rollout_func"])
def test_what_tasks_bring_is_not_given_twice(trainer, name):
    with pytest.raises(CapabilityError, match=f"{name} was given"):
        trainer(given={name: [len]})


def test_a_router_loss_is_refused():
    capabilities.check_model(aux_loss=False)
    with pytest.raises(CapabilityError, match="router_aux_loss_coef"):
        capabilities.check_model(aux_loss=True)


def test_another_release_is_refused(monkeypatch):
    capabilities.check_version()
    monkeypatch.setattr(capabilities.metadata, "version", lambda name: "1.17.2")
    with pytest.raises(CapabilityError, match=r"trl 1\.17\.2 is installed"):
        capabilities.check_version()


def test_options_out_of_range_are_the_coordinators_own_errors(trainer, guest):
    with pytest.raises(AstorError, match="ratio"):
        trainer([guest.data("first", ratio=0.0)])
