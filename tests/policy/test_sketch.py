from __future__ import annotations

import numpy as np
import pytest
import torch

from astor_rl.errors import ConfigError
from astor_rl.policy import sketch as policy_sketch
from astor_rl.policy.sketch import CountSketch, GradientRows, gram, paired_halves, probe_seed


def correlated(cosine: float, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, generator=generator).double()
    noise = noise - x * (x @ noise) / (x @ x)
    return x / x.norm(), cosine * x / x.norm() + (1 - cosine**2) ** 0.5 * noise / noise.norm()


def variance(x: torch.Tensor, y: torch.Tensor, dim: int) -> float:
    """Of an estimate: pairs of places in different blocks meet with probability 1 / dim."""
    blocks = [(x[at : at + dim], y[at : at + dim]) for at in range(0, len(x), dim)]
    squares = np.array([[float(v @ v) for v in block] for block in blocks])
    products = np.array([float(one @ other) for one, other in blocks])
    apart = squares[:, 0].sum() * squares[:, 1].sum() - float(squares[:, 0] @ squares[:, 1])
    return float(apart + products.sum() ** 2 - products @ products) / dim


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
    expected = variance(x, y, dim) ** 0.5
    assert expected < ((1 + cosine**2) / dim) ** 0.5
    assert abs(np.mean(errors)) < 4 * expected / len(errors) ** 0.5
    assert np.std(errors) == pytest.approx(expected, rel=0.2)
    within = np.mean(np.abs(errors) <= 3 * expected)
    assert within >= 0.98


def test_blocks_that_are_alike_add_no_error() -> None:
    # All blocks equal: what their errors have in common would show.
    dim = 64
    one = torch.randn(dim, generator=torch.Generator().manual_seed(3)).double()
    x = one.repeat(50) / (50**0.5 * one.norm())
    errors = []
    for seed in range(300):
        sketch_D = torch.zeros(dim, dtype=torch.float64)
        CountSketch(dim, seed=seed).add(sketch_D, x)
        errors.append(float(sketch_D @ sketch_D) - 1)
    expected = variance(x, x, dim) ** 0.5
    assert abs(np.mean(errors)) < 4 * expected / len(errors) ** 0.5
    assert np.std(errors) == pytest.approx(expected, rel=0.25)


def test_what_fits_into_the_buckets_is_exact() -> None:
    x, y = correlated(0.3, 100, seed=4)
    products = gram([x, y], dim=100, memory_limit_mb=0, seed=6)[0]
    np.testing.assert_allclose(products, [[1, 0.3], [0.3, 1]], rtol=1e-6)


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
    x = torch.randn(2**20 + 1000, generator=torch.Generator().manual_seed(0))
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    sketch = CountSketch(512, seed=3)
    whole, parts = torch.zeros(2, 512, dtype=torch.float64)
    sketch.add(whole, 2 * x.double() - 0.5 * y.double())
    for start, end in ((0, 7), (7, 2**20 + 3), (2**20 + 3, len(x))):
        sketch.add(parts, x[start:end].double(), offset=start, scale=2)
        sketch.add(parts, y[start:end].double(), offset=start, scale=-0.5)
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("offset", "numel"), [(0, 64 * 9), (5, 64 * 9), (70, 3), (63, 66), (1, 0)])
@pytest.mark.parametrize("at_once", [2, 4, 100])
def test_blocks_together_give_the_numbers_of_blocks_one_by_one(
    offset: int, numel: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, on the CPU. Whole numbers, so that the order of sums is no excuse."""
    generator = torch.Generator().manual_seed(offset)
    values = torch.randint(-9, 10, (numel,), generator=generator).float()
    sketches = torch.ones(2, 64)
    CountSketch(64, seed=3).add(sketches[0], values, offset=offset, scale=0.5)
    monkeypatch.setattr(policy_sketch, "_blocks_at_once", lambda device, dim: at_once)
    CountSketch(64, seed=3).add(sketches[1], values.bfloat16(), offset=offset, scale=0.5)
    assert torch.equal(sketches[0], sketches[1])
    assert (numel == 0) == bool((sketches == 1).all())


def test_only_a_gpu_takes_blocks_together_and_its_scratch_is_bounded() -> None:
    assert policy_sketch._blocks_at_once(torch.device("cpu"), 64) == 1
    for dim in (1, 65_536, 2**21 + 1, 2**30):
        blocks = policy_sketch._blocks_at_once(torch.device("cuda"), dim)
        assert blocks == 1 or blocks * dim <= 2**22


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


def test_the_seed_of_a_probe_is_no_sum() -> None:
    """Seed 0 at step 5 and seed 5 at step 0 are two probes, with errors of their own."""
    seeds = {(seed, step): probe_seed(seed, step) for seed in range(20) for step in range(20)}
    assert len(set(seeds.values())) == len(seeds)
    assert seeds[3, 4] == probe_seed(3, 4)


def test_halves_come_in_pairs() -> None:
    assert paired_halves([(1, 1), (0, 0), (1, 0), (2, 1), (1, 1)]) == [(1, 0), (1, 1)]
    assert paired_halves({}) == []


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
