from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astor_rl.errors import ModelError
from astor_rl.rollout.decoding import draw, uniforms


def test_uniforms_belong_to_seed_and_index_alone():
    numbers = uniforms(7, 3, 100)
    assert ((numbers >= 0) & (numbers < 1)).all()
    np.testing.assert_array_equal(numbers[:20], uniforms(7, 3, 20))
    for other in (uniforms(7, 4, 100), uniforms(8, 3, 100), uniforms(3, 7, 100)):
        assert not np.isin(numbers, other).any()
    np.testing.assert_array_equal(uniforms(-1, 0, 5), uniforms(2**64 - 1, 0, 5))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 70),
    vocabulary=st.sampled_from([1, 2, 255, 256, 257, 1000]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
)
def test_draw_inverts_the_cumulative_distribution(seed, rows, vocabulary, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator) * 4
    source = torch.randint(rows, (rows + 3,), generator=generator).sort().values
    uniform = torch.rand(rows + 3, generator=generator, dtype=torch.float64)
    tokens, logprobs = draw(logits, torch.full((rows,), temperature), source, uniform)
    expected = (logits.double() / temperature).log_softmax(-1)[source]
    ends = expected.exp().cumsum(-1)
    places = torch.arange(rows + 3)
    assert (ends[places, tokens] > uniform - 1e-6).all()
    before = torch.where(tokens > 0, ends[places, tokens - 1], 0.0)
    assert (before <= uniform + 1e-6).all()
    torch.testing.assert_close(
        logprobs, expected[places, tokens].float(), atol=2e-6 * vocabulary**0.5, rtol=1e-6
    )


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_impossible_tokens_are_never_drawn(uniform):
    logits = torch.full((1, 700), -math.inf)
    logits[0, [300, 301]] = 0.0
    tokens, logprobs = draw(
        logits, torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.tensor([uniform]).double()
    )
    assert tokens.tolist() == [300 if uniform < 0.5 else 301]
    assert logprobs.tolist() == pytest.approx([math.log(0.5)])


def test_temperature_zero_is_the_largest_beside_rows_that_sample():
    logits = torch.zeros(2, 600)
    logits[0, 417] = 1e-3
    tokens, logprobs = draw(
        logits,
        torch.tensor([0.0, 1.0]),
        torch.tensor([0, 0, 1]),
        torch.tensor([0.01, 0.99, 0.5], dtype=torch.float64),
    )
    assert tokens.tolist() == [417, 417, 300]
    assert logprobs[0].item() == pytest.approx(logits[0].log_softmax(-1)[417].item(), abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_logits_without_a_distribution_are_an_error(bad):
    with pytest.raises(ModelError, match="NaN"):
        draw(
            torch.full((1, 5), bad),
            torch.ones(1),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.float64),
        )
