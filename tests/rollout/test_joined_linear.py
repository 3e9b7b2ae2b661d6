from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from astor_rl.rollout.joined_linear import JoinedLinear, JoinedPart
from astor_rl.rollout.packed_linear import can_pack

CPU = torch.device("cpu")
PACKS = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            not can_pack(torch.bfloat16, CPU), reason="no bf16 kernels of oneDNN on this machine"
        ),
    ),
]
BIASES = [(False, False, False), (True, False, True)]


@pytest.fixture
def layers():
    def make(biases: tuple[bool, ...], dtype: torch.dtype, seed: int = 0) -> list[nn.Linear]:
        torch.manual_seed(seed)
        return [
            nn.Linear(24, size, bias=bias, dtype=dtype).requires_grad_(False)
            for size, bias in zip((16, 8, 40), biases, strict=True)
        ]

    return make


def _apart(layers: list[nn.Linear], x: Tensor) -> Tensor:
    return torch.cat([layer(x) for layer in layers], dim=1)


def _near(found: Tensor, wanted: Tensor) -> None:
    tolerance = 1e-6 if found.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("packed", PACKS)
@pytest.mark.parametrize("biases", BIASES)
def test_joined_is_the_layers_side_by_side(packed, biases, layers):
    own = layers(biases, torch.bfloat16 if packed else torch.float32)
    joined = JoinedLinear(own, packed=packed)
    x = torch.randn(5, 24, dtype=own[0].weight.dtype)
    onto = torch.randn(5, 64, dtype=x.dtype)
    kept = onto.clone()
    _near(joined(x), _apart(own, x))
    _near(joined(x, onto), onto + _apart(own, x))
    assert torch.equal(onto, kept)


@pytest.mark.parametrize("packed", PACKS)
def test_weights_are_replaced_layer_by_layer(packed, layers):
    own = layers(BIASES[1], torch.bfloat16 if packed else torch.float32)
    joined = JoinedLinear(own, packed=packed)
    parts = [JoinedPart(joined, number) for number in range(3)]
    new = layers(BIASES[1], own[0].weight.dtype, seed=1)
    for number in (2, 0, 1):
        weight = new[number].weight.clone()
        parts[number].take("weight", weight)
        weight.zero_()  # it keeps a copy
        if new[number].bias is not None:
            parts[number].take("bias", new[number].bias)
    x = torch.randn(5, 24, dtype=own[0].weight.dtype)
    _near(joined(x), _apart(new, x))


@pytest.mark.parametrize("packed", PACKS)
def test_an_update_that_broke_off_leaves_nothing_behind(packed, layers):
    dtype = torch.bfloat16 if packed else torch.float32
    joined = JoinedLinear(layers(BIASES[0], dtype), packed=packed)
    broken, new = (layers(BIASES[0], dtype, seed=seed) for seed in (1, 2))
    joined.offer(0, broken[0].weight)
    joined.forget()
    for number in (1, 2, 0):
        joined.offer(number, new[number].weight)
    x = torch.randn(5, 24, dtype=dtype)
    _near(joined(x), _apart(new, x))
