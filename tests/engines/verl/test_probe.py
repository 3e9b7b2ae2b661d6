"""Gradients of sharded models: real FSDP2 processes against the whole vector on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

import torch
from verl_reference import reference_gram
from verl_shards import HERE, batch, launch, model

from astor_rl.policy.sketch import GradientRows

pytestmark = pytest.mark.slow


def whole_rows() -> list[list[torch.Tensor]]:
    module = model()
    rows = []
    for row in range(3):
        module.zero_grad()
        module(batch(row)).sum().backward()
        rows.append([p.grad.clone() for p in module.parameters() if p.requires_grad])
    return rows


def measured(folder: Path, *, ranks: int, dim: int = 0, replicas: int = 1) -> dict[str, Any]:
    launch("gram", str(folder), str(dim), str(replicas), ranks=ranks)
    found: dict[str, Any] = torch.load(folder / "gram.pt", weights_only=False)
    return found


def reference(*, dim: int = 0) -> torch.Tensor:
    rows = whole_rows()
    numel = sum(part.numel() for part in rows[0])
    limit = 0.0001 if dim else 1
    kept = GradientRows(3, numel, dim=dim or 8, memory_limit_mb=limit, seed=7)
    assert kept.sketched == bool(dim)
    for number, parts in enumerate(rows):
        kept.add(number, parts)
    return torch.as_tensor(kept.gram())


@pytest.mark.parametrize(("ranks", "replicas"), [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_inner_products_of_shards_are_those_of_the_whole(tmp_path: Path, ranks: int, replicas: int):
    found = measured(tmp_path, ranks=ranks, replicas=replicas)
    assert not found["sketched"]
    torch.testing.assert_close(torch.as_tensor(found["gram"]), reference(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("ranks", "replicas"), [(2, 1), (3, 1), (2, 2)])
def test_a_sketch_of_shards_is_the_sketch_of_the_whole(tmp_path: Path, ranks: int, replicas: int):
    found = measured(tmp_path, ranks=ranks, replicas=replicas, dim=16)
    assert found["sketched"]
    torch.testing.assert_close(
        torch.as_tensor(found["gram"]), reference(dim=16), rtol=1e-5, atol=1e-7
    )


HORIZON = 6
PROMPTS, LENGTHS = (3, 5, 2, 4, 6, 3, 2, 4), (4, 2, 6, 3, 5, 1, 2, 6)
HALVES = torch.tensor([0, 0, 1, 2, 3, -1, 3, 0])


def case(ranks: list[list[int]]) -> dict[str, Any]:
    """Eight rows of two tasks' halves, one of neither, shared out among ranks."""
    generator = torch.Generator().manual_seed(3)
    sizes = list(zip(PROMPTS, LENGTHS, strict=True))
    columns = {
        "input_ids": [torch.randint(5, 30, (p + n,), generator=generator) for p, n in sizes],
        "old_log_probs": [torch.randn(n, generator=generator) - 3 for _, n in sizes],
        "advantages": [torch.randn(1, generator=generator).expand(n).clone() for _, n in sizes],
        "response_mask": [torch.ones(n, dtype=torch.int64) for _, n in sizes],
    }
    columns["prompts"] = [ids[:p] for ids, (p, _) in zip(columns["input_ids"], sizes, strict=True)]
    columns["responses"] = [
        ids[p:] for ids, (p, _) in zip(columns["input_ids"], sizes, strict=True)
    ]
    columns["response_mask"][6][1] = 0
    samples = [int((half == HALVES).sum()) for half in range(4)]
    return {
        "columns": columns,
        "row_of": HALVES,
        "samples": samples,
        "ranks": ranks,
        "horizon": HORIZON,
    }


@pytest.mark.parametrize(
    "ranks",
    [
        pytest.param([[0, 2, 4, 6], [1, 3, 5, 7]], id="halves on some ranks only"),
        pytest.param([[5], [0, 1, 2, 3, 4, 6, 7]], id="a rank without any task"),
    ],
)
def test_a_task_may_be_missing_on_a_rank(tmp_path: Path, tiny_model: Path, ranks: list[list[int]]):
    given = case(ranks)
    torch.save(given, tmp_path / "case.pt")
    launch(
        str(tiny_model),
        str(tmp_path),
        ranks=len(ranks),
        script=str(HERE / "verl_probe_rank.py"),
        VERL_PLATFORM="cpu",
        VERL_USE_EXTERNAL_MODULES="verl_cpu_platform",
    )
    found = torch.as_tensor(torch.load(tmp_path / "answer.pt", weights_only=False)["gram"])
    expected = reference_gram(tiny_model, given, horizon=HORIZON, clip=0.2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
