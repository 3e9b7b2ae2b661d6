from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astor_rl.errors import DataError
from astor_rl.policy.masks import block_mask, dense_mask, tree_mask
from astor_rl.policy.packing import TokenGroup, flat_samples, pack_groups

tokens = st.integers(0, 99)
groups = st.lists(
    st.builds(
        TokenGroup,
        st.lists(tokens, min_size=1, max_size=12),
        st.lists(st.lists(tokens, max_size=12), min_size=1, max_size=4),
        st.tuples(st.integers(0, 2), st.integers(0, 1)),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(groups, st.integers(1, 60), st.booleans())
def test_bins_hold_every_token_once(step: list[TokenGroup], budget: int, separate: bool) -> None:
    bins = pack_groups(step, budget, separate_keys=separate)
    flat = [token for group in step for completion in group.completions for token in completion]
    places = torch.cat([b.token_T for b in bins]) if bins else torch.zeros(0).long()
    assert sorted(places.tolist()) == list(range(len(flat)))
    sample_T = flat_samples(step)
    for packed in bins:
        assert packed.target_T.tolist() == [flat[i] for i in packed.token_T]
        assert packed.sample_T.tolist() == sample_T[packed.token_T].tolist()
        # A bin holds whole completions.
        for sample in packed.sample_T.unique():
            assert (packed.sample_T == sample).sum() == (sample_T == sample).sum()


@settings(deadline=None)
@given(groups, st.integers(1, 60), st.booleans())
def test_budget_is_kept_or_a_block_is_alone(
    step: list[TokenGroup], budget: int, separate: bool
) -> None:
    for packed in pack_groups(step, budget, separate_keys=separate):
        if len(packed.input_ids_S) > budget:
            assert packed.block_S.unique().tolist() == [0]
            # Only a prompt with one completion that takes input may be above the budget.
            assert len(set(packed.branch_S.tolist()) - {0}) <= 1


@settings(deadline=None)
@given(groups, st.integers(1, 60))
def test_separate_keys(step: list[TokenGroup], budget: int) -> None:
    bins = pack_groups(step, budget, separate_keys=True)
    keys = [group.key for group in step for _ in group.completions]
    assert [b.key for b in bins] == sorted(b.key for b in bins)
    for packed in bins:
        assert {keys[sample] for sample in packed.sample_T.tolist()} <= {packed.key}
    assert all(b.key is None for b in pack_groups(step, budget))


def test_layout_by_hand() -> None:
    (packed,) = pack_groups([TokenGroup([7, 8], [[1, 2, 3], [4], [5, 6]])], 10)
    assert packed.input_ids_S.tolist() == [7, 8, 1, 2, 5]
    assert packed.position_ids_S.tolist() == [0, 1, 2, 3, 2]
    assert packed.branch_S.tolist() == [0, 0, 1, 1, 3]
    # First tokens come from the prompt's last row.
    assert packed.row_T.tolist() == [1, 2, 3, 1, 1, 4]
    assert packed.target_T.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.sample_T.tolist() == [0, 0, 0, 1, 2, 2]


def brute_force(packed: Any, window: int | None) -> torch.Tensor:
    """Who sees whom, from the definition, one pair at a time."""
    size = len(packed.input_ids_S)
    seen = torch.zeros(size, size, dtype=torch.bool)
    for q in range(size):
        for k in range(q + 1):
            same = packed.block_S[q] == packed.block_S[k]
            own = packed.branch_S[k] in (0, packed.branch_S[q])
            near = window is None or packed.position_ids_S[q] - packed.position_ids_S[k] < window
            seen[q, k] = bool(same and own and near)
    return seen


@pytest.mark.parametrize("window", [None, 1, 4])
def test_masks_agree_with_the_definition(
    ragged_groups: list[TokenGroup], window: int | None
) -> None:
    (packed,) = pack_groups(ragged_groups, 1000)
    expected = brute_force(packed, window)
    for dtype in (torch.float32, torch.bfloat16):
        dense = dense_mask(packed, dtype, window)
        assert dense.dtype == dtype
        assert torch.equal(dense[0, 0] == 0, expected)
        assert (dense[0, 0][~expected] == torch.finfo(dtype).min).all()
    rows = torch.arange(len(expected))
    mod = tree_mask(packed, window)
    assert torch.equal(mod(rows, rows, rows[:, None], rows[None, :]), expected)
    # A block mask keeps the function and marks the 128-wide blocks where it is not all False.
    blocks = block_mask(packed, window)
    assert blocks.shape == (1, 1, len(expected), len(expected))
    assert bool(blocks.to_dense().all())


def test_block_mask_skips_other_groups_and_completions() -> None:
    step = [TokenGroup(range(128), [range(129)] * 3), TokenGroup(range(128), [range(129)])]
    (packed,) = pack_groups(step, 10_000)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    assert block_mask(packed).to_dense()[0, 0].tolist() == expected


def test_errors() -> None:
    with pytest.raises(DataError, match="group 1 has an empty prompt"):
        pack_groups([TokenGroup([1], [[2]]), TokenGroup([], [[2]])], 10)
    with pytest.raises(DataError, match="token_budget is 0"):
        pack_groups([], 0)
