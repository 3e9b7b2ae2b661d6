from __future__ import annotations

import pytest
import torch
from torch import nn

from astor_rl.rollout.packed_linear import PackedLinear, can_pack, pack_linears, restore

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(
    not can_pack(torch.bfloat16, CPU), reason="no bf16 kernels of oneDNN on this machine"
)


def test_only_bf16_on_a_cpu_is_packed():
    assert not can_pack(torch.float32, CPU)
    assert not can_pack(torch.bfloat16, torch.device("meta"))


@needs_kernels
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_packed_is_the_linear_layer(bias, rows):
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    packed = PackedLinear(linear)
    x = torch.randn(1, rows, 96, dtype=torch.bfloat16)
    torch.testing.assert_close(packed(x), linear(x), atol=2e-2, rtol=2e-2)
    new = torch.randn(40, 96)
    packed.pack(new)
    linear.weight.copy_(new)
    torch.testing.assert_close(packed(x), linear(x), atol=2e-1, rtol=2e-2)
    new.zero_()
    assert packed(x).abs().sum() > 1  # it keeps a copy


@needs_kernels
def test_restore_undoes_packing():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2))).bfloat16()
    names = dict(model.named_parameters())
    plain = pack_linears(model)
    assert set(plain) == {"0", "1.0"}
    assert isinstance(model[1][0], PackedLinear)
    restore(model, plain)
    assert dict(model.named_parameters()) == names
