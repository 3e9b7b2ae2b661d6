"""Lay a step's groups out flat and fill bins with them (docs/method.md, Packing).

A bin is one sequence of [prompt][c1]…[cG] blocks. Positions restart after each prompt, so every
completion sees the positions it would have alone. A completion's last token predicts nothing and
is left out of the input; its first token is predicted by the prompt's last row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from astor_rl.errors import DataError


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """A prompt and its completions, as token ids.

    Attributes:
        prompt_ids: at least one token.
        completions: each completion's tokens; an empty one is allowed and has no log-probs.
        key: what a bin may be told to keep apart, e.g. (task, half) on a probe step. Keys of one
            step must be comparable with each other.
    """

    prompt_ids: Sequence[int]
    completions: Sequence[Sequence[int]]
    key: Hashable = ()


@dataclass(frozen=True, slots=True)
class _Block:
    """A prompt with some of its group's completions, and where they stand in the step."""

    prompt_ids: Sequence[int]
    completions: tuple[Sequence[int], ...]
    samples: tuple[int, ...]
    offsets: tuple[int, ...]
    key: Hashable

    @property
    def cost(self) -> int:
        """Input tokens."""
        return len(self.prompt_ids) + sum(_inputs(c) for c in self.completions)


@dataclass(frozen=True, slots=True)
class Packed:
    """One bin: a packed sequence, and where its completion tokens are in the step.

    Attributes:
        input_ids_S, position_ids_S: int64.
        block_S: int64, which prompt's block a position is in.
        branch_S: int64, 0 in a prompt, else which of the block's completions, from 1.
        row_T: int64, the position whose output predicts each completion token.
        target_T: int64, the completion tokens.
        sample_T: int64, each token's completion, an index into the step's `_M` tensors.
        token_T: int64, each token's place in the step's flat layout.
        key: the blocks' common key, or None where bins were filled without regard to it.
    """

    input_ids_S: Tensor
    position_ids_S: Tensor
    block_S: Tensor
    branch_S: Tensor
    row_T: Tensor
    target_T: Tensor
    sample_T: Tensor
    token_T: Tensor
    key: Hashable = None

    def to(self, device: torch.device | str) -> Self:
        """The same bin on another device."""
        tensors = {
            name: getattr(self, name).to(device)
            for name in self.__dataclass_fields__
            if name != "key"
        }
        return replace(self, **tensors)


def flat_samples(groups: Sequence[TokenGroup]) -> Tensor:
    """`sample_T` of the whole step: completions group after group, tokens in order. int64 [T]."""
    lengths = [len(c) for group in groups for c in group.completions]
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths).long())


def pack_groups(
    groups: Sequence[TokenGroup], token_budget: int, *, separate_keys: bool = False
) -> list[Packed]:
    """Fill bins with a step's groups, first-fit by decreasing size; deterministic.

    A group above the budget is split: its completions go to several blocks, each with the prompt.
    A prompt with a single completion that is above the budget all the same has a bin of its own.

    Args:
        groups: the whole step (`token_T` counts through all of it, in this order).
        token_budget: input tokens of a bin, >= 1. With dense masks, attention costs its square.
        separate_keys: let a bin hold groups of one `key` only; bins come sorted by key.

    Raises:
        DataError: a prompt is empty, or the budget is below 1.
    """
    if token_budget < 1:
        raise DataError(f"token_budget is {token_budget}; it must be >= 1 token")
    blocks = _blocks(groups, token_budget)
    keyed: dict[Hashable, list[_Block]] = {}
    for block in blocks:
        keyed.setdefault(block.key if separate_keys else None, []).append(block)
    keys = sorted(keyed) if separate_keys else list(keyed)  # type: ignore[type-var]
    return [
        _pack(members, key)
        for key in keys
        for members in _first_fit_decreasing(keyed[key], token_budget)
    ]


def _inputs(completion: Sequence[int]) -> int:
    """Input positions of a completion: all its tokens but the last."""
    return max(0, len(completion) - 1)


def _blocks(groups: Sequence[TokenGroup], token_budget: int) -> list[_Block]:
    """Split groups that are above the budget; completions keep their place in the step."""
    blocks: list[_Block] = []
    sample = offset = 0
    for number, group in enumerate(groups):
        if not len(group.prompt_ids):
            raise DataError(f"group {number} has an empty prompt; it needs at least one token")
        lengths = [len(completion) for completion in group.completions]
        offsets = [offset + before for before in accumulate(lengths, initial=0)]
        blocks.extend(
            _Block(
                group.prompt_ids,
                tuple(group.completions[i] for i in part),
                tuple(sample + i for i in part),
                tuple(offsets[i] for i in part),
                group.key,
            )
            for part in _split(group, token_budget)
        )
        sample += len(lengths)
        offset = offsets[-1]
    return blocks


def _split(group: TokenGroup, token_budget: int) -> list[list[int]]:
    """Indices of a group's completions, in parts that fit the budget with the prompt."""
    parts: list[list[int]] = []
    room = 0
    for i, completion in enumerate(group.completions):
        cost = _inputs(completion)
        if not parts or cost > room:
            parts.append([])
            room = token_budget - len(group.prompt_ids)
        parts[-1].append(i)
        room -= cost
    return parts


def _first_fit_decreasing(blocks: Sequence[_Block], token_budget: int) -> list[list[_Block]]:
    """Bins within the budget; a block above it has its own. Ties keep the step's order."""
    bins: list[list[_Block]] = []
    rooms: list[int] = []
    for block in sorted(blocks, key=lambda block: -block.cost):
        place = next((i for i, room in enumerate(rooms) if block.cost <= room), None)
        if place is None:
            bins.append([])
            rooms.append(token_budget)
            place = len(bins) - 1
        bins[place].append(block)
        rooms[place] -= block.cost
    return bins


def _pack(blocks: Sequence[_Block], key: Hashable) -> Packed:
    """Write blocks one after another into one sequence."""
    inputs: list[int] = []
    positions: list[int] = []
    block_of: list[int] = []
    branch_of: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    samples: list[int] = []
    tokens: list[int] = []

    def write(ids: Sequence[int], first_position: int, block: int, branch: int) -> None:
        inputs.extend(ids)
        positions.extend(range(first_position, first_position + len(ids)))
        block_of.extend([block] * len(ids))
        branch_of.extend([branch] * len(ids))

    for number, block in enumerate(blocks):
        write(block.prompt_ids, 0, number, 0)
        last_prompt_row = len(inputs) - 1
        for branch, (completion, sample, offset) in enumerate(
            zip(block.completions, block.samples, block.offsets, strict=True), start=1
        ):
            if not len(completion):
                continue
            first_row = len(inputs)
            write(completion[:-1], len(block.prompt_ids), number, branch)
            rows.append(last_prompt_row)
            rows.extend(range(first_row, len(inputs)))
            targets.extend(completion)
            samples.extend([sample] * len(completion))
            tokens.extend(range(offset, offset + len(completion)))
    return Packed(
        input_ids_S=torch.tensor(inputs, dtype=torch.long),
        position_ids_S=torch.tensor(positions, dtype=torch.long),
        block_S=torch.tensor(block_of, dtype=torch.long),
        branch_S=torch.tensor(branch_of, dtype=torch.long),
        row_T=torch.tensor(rows, dtype=torch.long),
        target_T=torch.tensor(targets, dtype=torch.long),
        sample_T=torch.tensor(samples, dtype=torch.long),
        token_T=torch.tensor(tokens, dtype=torch.long),
        key=key,
    )
