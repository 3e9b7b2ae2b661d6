from __future__ import annotations

import numpy as np
import pytest
import torch

from astor_rl.errors import ConfigError
from astor_rl.policy.sketch import CountSketch, GradientRows, gram


def correlated(cosine: float, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator).double()
    noise = noise - x * (x @ noise) / (x @ x)
    return x / x.norm(), cosine * x / x.norm() + (1 - cosine**2) ** 0.5 * noise / noise.norm()


@pytest.mark.parametrize("cosine", [0.0, 0.016, 0.5, 1.0])
@pytest.mark.parametrize("dim", [256, 1000])
def test_inner_products_are_unbiased_with_the_stated_error(cosine: float, dim: int) -> None:
    x, y = correlated(cosine, 5000, seed=1)
    errors = []
    for seed in range(300):
        sketches = torch.zeros(2, dim, dtype=torch.float64)
        sketch = CountSketch(dim, seed=seed)
        sketch.add(sketches[0], x)
        sketch.add(sketches[1], y)
        errors.append(float(sketches[0] @ sketches[1]) - cosine)
    expected = ((1 + cosine**2 - 2 * float((x.square() * y.square()).sum())) / dim) ** 0.5
    assert abs(np.mean(errors)) < 4 * expected / len(errors) ** 0.5
    assert np.std(errors) == pytest.approx(expected, rel=0.2)
    within = np.mean(np.abs(errors) <= 3 * expected)
    assert within >= 0.98


def test_cosines_within_three_over_root_d() -> None:
    dim = 4096
    x, y = correlated(0.1, 200_000, seed=2)
    rows = GradientRows(2, x.numel(), dim=dim, memory_limit_mb=0, seed=5)
    rows.add(0, [x])
    rows.add(1, [y])
    assert rows.sketched
    products = rows.gram()
    cosine = products[0, 1] / np.sqrt(products[0, 0] * products[1, 1])
    assert abs(cosine - 0.1) < 3 / dim**0.5


def test_linear_and_additive_over_parts_and_ranks() -> None:
    # Across a hashing block's edge, so that places are counted through it.
    x = torch.randn(2**20 + 1000, generator=torch.Generator().manual_seed(0))
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    sketch = CountSketch(512, seed=3)
    whole, parts = torch.zeros(2, 512, dtype=torch.float64)
    sketch.add(whole, 2 * x.double() - 0.5 * y.double())
    for start, end in ((0, 7), (7, 2**20 + 3), (2**20 + 3, len(x))):
        sketch.add(parts, x[start:end].double(), offset=start, scale=2)
        sketch.add(parts, y[start:end].double(), offset=start, scale=-0.5)
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=1e-9)


def test_signs_are_balanced_and_seeded() -> None:
    sketches = torch.zeros(3, 64, dtype=torch.float64)
    CountSketch(64, seed=11).add(sketches[0], torch.ones(64_000))
    # About 1000 signs a bucket: beyond 5 standard deviations would be a biased hash.
    assert sketches[0].abs().max() < 5 * 1000**0.5
    assert sketches[0].std() == pytest.approx(1000**0.5, rel=0.3)
    CountSketch(64, seed=12).add(sketches[1], torch.ones(64_000))
    assert not torch.equal(sketches[0], sketches[1])
    CountSketch(64, seed=11).add(sketches[2], torch.ones(64_000))
    assert torch.equal(sketches[0], sketches[2])


def test_gram_is_whole_up_to_the_limit() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = list(torch.randn(4, 2**18, generator=generator))
    products, sketched = gram(gradients, dim=16, memory_limit_mb=4, seed=0)
    expected = torch.stack(gradients).double()
    assert not sketched
    assert products.dtype == np.float64
    np.testing.assert_allclose(products, (expected @ expected.T).numpy(), rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(products, products.T)
    assert gram(gradients, dim=16, memory_limit_mb=3, seed=0)[1]
    assert gram([], dim=16, memory_limit_mb=1, seed=0)[0].shape == (0, 0)


def test_rows_accumulate_parts() -> None:
    rows = GradientRows(2, 5, dim=4, memory_limit_mb=1, seed=0)
    rows.add(1, [torch.ones(2, 2), torch.ones(1)], scale=2)
    rows.add(1, [torch.ones(2, 2), torch.zeros(1)])
    assert rows.rows_RD.tolist() == [[0] * 5, [3, 3, 3, 3, 2]]
    with pytest.raises(ConfigError, match="5 were announced"):
        rows.add(0, [torch.ones(4)])
    with pytest.raises(ConfigError, match="5 were announced"):
        rows.add(0, [torch.ones(6)])
    with pytest.raises(ConfigError, match="sketch_dim is 0"):
        CountSketch(0, seed=0)
