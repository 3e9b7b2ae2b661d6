from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from astor_rl.policy.fused import blocks
from astor_rl.policy.fused.norm import rms_norm, rms_norm_backward


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows to a block, so that blocks have edges here too."""
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", 2 * 16)


@pytest.mark.parametrize("shape", [(7, 16), (5, 3, 16), (1, 16)])
@pytest.mark.parametrize("residual", [False, True])
def test_equals_transformers(shape: tuple[int, ...], residual: bool) -> None:
    torch.manual_seed(0)
    own = LlamaRMSNorm(16, eps=1e-3)
    own.weight.data.uniform_(0.5, 1.5)
    x = (3 * torch.randn(shape)).requires_grad_()
    grad, around = torch.randn(shape), torch.randn(shape)
    expected = own(x)
    (expected * grad + (x * around if residual else 0)).sum().backward()
    out, grad_x = torch.empty(shape), torch.empty(shape)
    weight = own.weight.detach()
    rstd = rms_norm(x.detach(), weight, 1e-3, out)
    grad_weight = rms_norm_backward(
        grad, x.detach(), weight, rstd, grad_x, residual=around if residual else None
    )
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(grad_x, x.grad)
    torch.testing.assert_close(grad_weight, own.weight.grad)


def test_bfloat16_is_float32_inside() -> None:
    """Within one rounding of the float64 result, which a bfloat16 sum of squares is not."""
    torch.manual_seed(0)
    x, weight = (5 * torch.randn(9, 512)).bfloat16(), torch.rand(512).bfloat16()
    out, exact = torch.empty_like(x), torch.empty(9, 512, dtype=torch.float64)
    rstd = rms_norm(x, weight, 1e-5, out)
    assert rstd.dtype == torch.float32
    rms_norm(x.double(), weight.double(), 1e-5, exact)
    assert float(((out - exact) / exact).abs().max()) <= 2**-8


def test_the_weights_gradient_only_when_wanted() -> None:
    x = torch.randn(3, 16)
    out = torch.empty_like(x)
    rstd = rms_norm(x, torch.ones(16), 1e-5, out)
    assert rms_norm_backward(x, x, torch.ones(16), rstd, out, weight_grad=False) is None
