"""Merging rules by hand, PEFT's against them where they must agree, and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from astor_rl.errors import ConfigError, ModelError
from astor_rl.evaluate.merging import (
    MERGED,
    MergeOptions,
    merge_adapters,
    merge_options,
    merge_weights,
)

BASE = {"w": torch.tensor([1.0, 1.0, 1.0, 1.0]), "v": torch.tensor([0.0])}


def moved(*by: float) -> dict[str, Tensor]:
    """The base with a task vector added: four numbers for `w`, the last one for `v`."""
    return {"w": BASE["w"] + torch.tensor(by[:4]), "v": BASE["v"] + torch.tensor(by[4:])}


FIRST = moved(1.0, -2.0, 0.5, 0.0, 3.0)
SECOND = moved(-3.0, -4.0, 0.1, 2.0, 1.0)


def merged(**options: Any) -> dict[str, list[float]]:
    found = merge_weights(BASE, [FIRST, SECOND], MergeOptions(**options))
    return {name: pytest.approx(weight.tolist()) for name, weight in found.items()}


def test_linear_is_the_mean_task_vector():
    """Means (-1, -3, 0.3, 1) and 2; with scale 0.5 half of that."""
    assert merged(method="linear") == {"w": [0.0, -2.0, 1.3, 2.0], "v": [2.0]}
    assert merged(method="linear", scale=0.5) == {"w": [0.5, -0.5, 1.15, 1.5], "v": [1.0]}


def test_ties():
    """density 0.6: three of five numbers are kept, over the whole vector.

    First keeps 3, -2, 1: (1, -2, 0, 0; 3). Second keeps -4, -3, 2: (-3, -4, 0, 2; 0).
    Signs of the sums: -, -, none, +, +. Means of those that agree: -3, -3, 0, 2, 3.
    """
    assert merged(method="ties", density=0.6) == {"w": [-2.0, -2.0, 1.0, 3.0], "v": [3.0]}
    assert merged(method="ties", density=0.6, scale=2.0) == {"w": [-5, -5, 1.0, 5.0], "v": [6.0]}


def test_ties_of_everything_averages_what_agrees():
    """density 1: signs -, -, +, +, +; means -3, -3, 0.3, 2, 2."""
    assert merged(method="ties", density=1.0) == {"w": [-2.0, -2.0, 1.3, 3.0], "v": [2.0]}


def test_ties_keeps_its_share_of_equal_entries():
    """Two of ten, and half of six with one that is larger: equal ones stay from the first on."""
    base = {"w": torch.zeros(4), "v": torch.zeros(2, 3)}
    equal = {"w": torch.ones(4), "v": -torch.ones(2, 3)}
    found = merge_weights(base, [equal, equal], MergeOptions("ties", density=0.2))
    assert found["w"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert not found["v"].any()
    larger = {"w": torch.ones(4), "v": torch.tensor([[-1.0, 1.0, -2.0], [0.0, 0.0, 0.0]])}
    found = merge_weights(base, [larger], MergeOptions("ties", density=0.6))
    assert found["w"].tolist() == [1.0] * 4
    assert found["v"].tolist() == [[-1.0, 0.0, -2.0], [0.0, 0.0, 0.0]]


def test_dare_drops_and_rescales():
    """With a density of 1/4 an entry is 4 tau or 0; the expectation is tau."""
    base = {"w": torch.zeros(20_000)}
    model = {"w": torch.ones(20_000)}
    found = merge_weights(base, [model], MergeOptions("dare_linear", density=0.25))["w"]
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)
    again = merge_weights(base, [model], MergeOptions("dare_linear", density=0.25))["w"]
    other = merge_weights(base, [model], MergeOptions("dare_linear", density=0.25, seed=1))["w"]
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


def test_dare_of_everything_is_the_rule_it_precedes():
    for rule in ("linear", "ties"):
        whole = merge_weights(BASE, [FIRST, SECOND], MergeOptions(rule, density=1.0))
        dare = merge_weights(BASE, [FIRST, SECOND], MergeOptions(f"dare_{rule}", density=1.0))
        assert all(torch.equal(weight, dare[name]) for name, weight in whole.items())


def test_dtypes_are_the_base_models():
    base = {"w": torch.zeros(3, dtype=torch.bfloat16)}
    model = {"w": torch.full((3,), 0.5, dtype=torch.float32)}
    assert merge_weights(base, [model, model], MergeOptions("linear"))["w"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "says"),
    [({"w": torch.zeros(4)}, "such as 'v'"), ({**BASE, "v": torch.zeros(2)}, "'v' has shape")],
)
def test_models_that_do_not_fit(model, says):
    with pytest.raises(ModelError, match=says):
        merge_weights(BASE, [FIRST, model], MergeOptions())


@pytest.mark.parametrize("bad", [{"density": 0.0}, {"density": 1.1}, {"scale": 0}, {"seed": -1}])
def test_options_out_of_range(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        merge_options("ties", **{"density": 0.2, "scale": 1.0, "seed": 0, **bad})
    with pytest.raises(ConfigError, match="method is 'svd'"):
        merge_options("svd", density=0.2, scale=1.0, seed=0)


def adapted(outputs: int = 3) -> Any:
    """A layer with two inputs and two adapters that share A: B is (1, 0, 2) and (3, -4, 0)."""
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(2, outputs, bias=False)), config, "one")
    model.add_adapter("two", config)
    layer = model.base_model.model[0]
    for name, values in (("one", (1.0, 0.0, 2.0)), ("two", (3.0, -4.0, 0.0))):
        layer.lora_A[name].weight.data = torch.tensor([[1.0, 1.0]])
        layer.lora_B[name].weight.data = torch.tensor(values)[:, None]
    return model


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_adapters_through_peft(method: str):
    """With one A for both and nothing dropped, the factors give the formulas' result.

    linear: the mean, (2, -2, 1). ties: A agrees; B's means of what agrees are (2, -4, 2).
    """
    model = adapted()
    merge_adapters(model, ["one", "two"], MergeOptions(method, density=1.0))
    assert model.active_adapters == [MERGED]
    delta = model.base_model.model[0].get_delta_weight(MERGED)
    column = {"linear": [2.0, -2.0, 1.0], "ties": [2.0, -4.0, 2.0]}[method.removeprefix("dare_")]
    assert delta.tolist() == [pytest.approx([value, value], abs=1e-6) for value in column]


def test_dare_on_adapters_follows_the_seed_and_leaves_others_alone():
    found = []
    for seed in (0, 0, 7):
        model = adapted(12)
        layer = model.base_model.model[0]
        for name in ("one", "two"):
            layer.lora_B[name].weight.data = torch.arange(1.0, 13.0)[:, None]
        before = torch.random.get_rng_state()
        options = MergeOptions("dare_linear", density=0.5, seed=seed)
        merge_adapters(model, ["one", "two"], options)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(layer.lora_B[MERGED].weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
