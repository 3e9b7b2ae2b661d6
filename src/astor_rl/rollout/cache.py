"""Keys and values of running groups: a prompt's once, its completions' in rows of their own.

Shapes: L layers, N tokens of a forward, H query heads, K key-value heads, D head size, g groups,
P longest prompt, R rows (completions), T longest completion so far. One forward of either kind
carries its tokens as one sequence `[1, N]`, so that nothing is padded outside attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig

_ROW_STEP = 64


class GroupedCache:
    """Grows as needed, never concatenates: a step writes in place.

    Layer l holds `prefix[l]` [2, groups, K, P, D] and `suffix[l]` [2, rows, K, T, D]; index 0 of
    the first axis is keys, 1 values. Unwritten places are zero, so that masked reads are finite.
    """

    def __init__(self) -> None:
        self.prefix: dict[int, Tensor] = {}
        self.suffix: dict[int, Tensor] = {}
        self._prefix_size = (0, 0)
        self._suffix_size = (0, 0)

    def reserve(
        self, *, groups: int, prompt: int, rows: int, tokens: int, limit: int | None = None
    ) -> None:
        """Make room for so many groups, prompt positions, rows and completion positions.

        Completion positions grow by doubling, up to `limit`: limits are often far above what is
        sampled.
        """
        size = self._prefix_size
        if groups > size[0] or prompt > size[1]:
            self._prefix_size = (max(groups, size[0]), max(prompt, size[1]))
            _grow(self.prefix, *self._prefix_size)
        size = self._suffix_size
        if rows > size[0] or tokens > size[1]:
            longer = max(size[1], _ROW_STEP)
            while longer < tokens:
                longer *= 2
            if limit is not None:
                longer = max(size[1], tokens, min(longer, limit))
            self._suffix_size = (max(rows, size[0]), longer)
            _grow(self.suffix, *self._suffix_size)

    def places(self, *, groups: int, prompt: int, rows: int, limit: int) -> int:
        """Tokens that a layer would have room for with so many, completions at their limit."""
        (had_groups, had_prompt), (had_rows, had_tokens) = self._prefix_size, self._suffix_size
        prompts = max(groups, had_groups) * max(prompt, had_prompt)
        return prompts + max(rows, had_rows) * max(limit, had_tokens)

    def layer(self, index: int, like_NKD: Tensor) -> tuple[Tensor, Tensor]:
        """(prefix, suffix) of a layer, allocated at its first use with the heads of `like`."""
        if index not in self.prefix:
            _, heads, size = like_NKD.shape
            for store, (count, length) in (
                (self.prefix, self._prefix_size),
                (self.suffix, self._suffix_size),
            ):
                store[index] = like_NKD.new_zeros(2, count, heads, length, size)
        return self.prefix[index], self.suffix[index]

    def move_groups(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy prompts from slots to slots; the two sets are disjoint."""
        _move(self.prefix, source, target)

    def move_rows(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy completions from rows to rows; the two sets are disjoint."""
        _move(self.suffix, source, target)


def token_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of one token's keys and values in all layers; 0 for a model without attention."""
    text = config.get_text_config()
    queries = getattr(text, "num_attention_heads", None)
    if not queries:
        return 0
    heads = getattr(text, "num_key_value_heads", None) or queries
    size = getattr(text, "head_dim", None) or text.hidden_size // queries
    return int(2 * text.num_hidden_layers * heads * size * dtype.itemsize)


def _grow(store: dict[int, Tensor], count: int, length: int) -> None:
    """Layer by layer, so that one layer at a time is there twice."""
    for index in store:
        store[index] = _grown(store[index], count, length)


def _grown(old: Tensor, count: int, length: int) -> Tensor:
    new = old.new_zeros(2, count, old.shape[2], length, old.shape[4])
    new[:, : old.shape[1], :, : old.shape[3]] = old
    return new


def _move(store: dict[int, Tensor], source: Sequence[int], target: Sequence[int]) -> None:
    if not source:
        return
    for tensor in store.values():
        to = torch.tensor(target, device=tensor.device)
        tensor.index_copy_(1, to, tensor[:, list(source)])


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp, so that parts over disjoint keys can be joined.

    Args:
        q: [B, K, n, D]; the query heads that share a key-value head are among the n queries, so
            keys are never repeated.
        k, v: [B, K, m, D].
        mask: additive, broadcasts to [B, K, n, m], in q's dtype; finite, so no row is NaN.
        scale: multiplies q @ k.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).

    Returns:
        out [B, K, n, D] in q's dtype and lse [B, K, n] in float32.
    """
    if q.device.type == "cpu" and softcap is None:
        if mask is not None:
            mask = mask.expand(*q.shape[:3], k.shape[2])
        # The only fused CPU kernel that also returns the log-sum-exp; scores stay in float32.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=scale
        )
        return out, lse
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    return torch.matmul((scores - lse.unsqueeze(-1)).exp().to(v.dtype), v), lse


def _closed(dtype: torch.dtype) -> float:
    """A finite minus infinity: adding a score to it can't overflow."""
    return torch.finfo(dtype).min / 2


@dataclass
class PrefillBatch:
    """Prompts laid end to end in one forward; prompt i goes to group slot `first_slot + i`."""

    cache: GroupedCache
    lengths: Sequence[int]
    first_slot: int

    def attend(
        self,
        layer: int,
        q_NHD: Tensor,
        k_NKD: Tensor,
        v_NKD: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Causal attention inside each prompt; keeps its keys and values. Returns [N, H, D]."""
        prefix, _ = self.cache.layer(layer, k_NKD)
        out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
        start = 0
        for i, length in enumerate(self.lengths):
            span = slice(start, start + length)
            q, k, v = (x[span].transpose(0, 1).unsqueeze(0) for x in (q_NHD, k_NKD, v_NKD))
            prefix[0, self.first_slot + i, :, :length] = k[0]
            prefix[1, self.first_slot + i, :, :length] = v[0]
            repeat = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            if softcap is None and (window is None or length <= window):
                done = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            else:
                mask = _causal_mask(length, window, q)
                done, _ = attend(q, k, v, mask, scale=scale, softcap=softcap)
            out[span] = done[0].transpose(0, 1)
            start += length
        return out


def _causal_mask(length: int, window: int | None, like: Tensor) -> Tensor:
    at = torch.arange(length, device=like.device)
    distance = at[:, None] - at[None, :]
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    return like.new_zeros(length, length).masked_fill_(~seen, _closed(like.dtype))


@dataclass
class Layout:
    """Which rows belong to which group; made anew only when rows come or go.

    Attributes:
        prompt_lengths_g: [g].
        padded: [g * most]: the row in each place of a rectangle of groups by rows; a group with
            fewer rows repeats a row. None when rows already lie so.
        place_R: [R]: each row's place in the rectangle. None with `padded`.
        prompt_lengths_R: [R]: the length of each row's prompt.
        ragged: whether prompts differ in length.
        longest: P.
        most: the largest number of rows in a group.
    """

    prompt_lengths_g: Tensor
    padded: Tensor | None
    place_R: Tensor | None
    prompt_lengths_R: Tensor
    ragged: bool
    longest: int
    most: int

    @classmethod
    def of(
        cls, group_of_row: Sequence[int], lengths: Sequence[int], device: torch.device
    ) -> Layout:
        """From each row's group slot and each group's prompt length."""
        members: list[list[int]] = [[] for _ in lengths]
        for row, group in enumerate(group_of_row):
            members[group].append(row)
        most = max(len(m) for m in members)
        padded = [row for m in members for row in m + m[:1] * (most - len(m))]
        place = [0] * len(group_of_row)
        for group, rows in enumerate(members):
            for j, row in enumerate(rows):
                place[row] = group * most + j
        in_order = padded == list(range(len(group_of_row)))
        lengths_g = torch.tensor(lengths, device=device)
        return cls(
            prompt_lengths_g=lengths_g,
            padded=None if in_order else torch.tensor(padded, device=device),
            place_R=None if in_order else torch.tensor(place, device=device),
            prompt_lengths_R=lengths_g[torch.tensor(group_of_row, device=device)],
            ragged=len(set(lengths)) > 1,
            longest=max(lengths),
            most=most,
        )


@dataclass
class DecodeBatch:
    """One more token for each of R rows.

    Attention is a cascade: all rows of a group read their prompt's keys together, each row reads
    its own completion's keys, and the two are joined by log-sum-exp (as in FlashInfer's shared
    prefix; Ye et al. 2024, arXiv 2501.01005).

    Attributes:
        written_R: [R] completion tokens already in the cache: where this one goes.
        most_written: the largest of them.
        even: whether they are all equal.
    """

    cache: GroupedCache
    layout: Layout
    written_R: Tensor
    most_written: int
    even: bool
    _masks: dict[tuple[str, int | None, int], Tensor | None] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        q_NHD: Tensor,
        k_NKD: Tensor,
        v_NKD: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Write the new keys and values and attend to prompt and completion. Returns [R, H, D]."""
        rows, heads, size = q_NHD.shape
        kv_heads = k_NKD.shape[1]
        repeat = heads // kv_heads
        prefix, suffix = self.cache.layer(layer, k_NKD)
        self._write(suffix, k_NKD, v_NKD)

        window = self._effective(window)
        groups, most = len(self.layout.prompt_lengths_g), self.layout.most
        rectangle = q_NHD if self.layout.padded is None else q_NHD[self.layout.padded]
        shared = rectangle.reshape(groups, most, kv_heads, repeat, size).transpose(1, 2)
        read, lse = attend(
            shared.reshape(groups, kv_heads, most * repeat, size),
            prefix[0, :groups, :, : self.layout.longest],
            prefix[1, :groups, :, : self.layout.longest],
            self._prefix_mask(window, repeat, q_NHD),
            scale=scale,
            softcap=softcap,
        )
        prompt_out = self._by_row(read, kv_heads, repeat)
        prompt_lse = self._by_row(lse.unsqueeze(-1), kv_heads, repeat)

        length = self.most_written + 1
        own_out, own_lse = attend(
            q_NHD.reshape(rows, kv_heads, repeat, size),
            suffix[0, :rows, :, :length],
            suffix[1, :rows, :, :length],
            self._suffix_mask(window, q_NHD),
            scale=scale,
            softcap=softcap,
        )
        share = torch.sigmoid(prompt_lse - own_lse.unsqueeze(-1)).to(own_out.dtype)
        return torch.lerp(own_out, prompt_out, share).reshape(rows, heads, size)

    def _write(self, suffix: Tensor, k_NKD: Tensor, v_NKD: Tensor) -> None:
        rows = k_NKD.shape[0]
        if self.even:
            suffix[0, :rows, :, self.most_written] = k_NKD
            suffix[1, :rows, :, self.most_written] = v_NKD
            return
        row = torch.arange(rows, device=k_NKD.device)
        suffix[0][row, :, self.written_R] = k_NKD
        suffix[1][row, :, self.written_R] = v_NKD

    def _by_row(self, x: Tensor, kv_heads: int, repeat: int) -> Tensor:
        """[g, K, most * repeat, D] -> [R, K, repeat, D]."""
        groups, most = len(self.layout.prompt_lengths_g), self.layout.most
        x = x.reshape(groups, kv_heads, most, repeat, -1).transpose(1, 2)
        x = x.reshape(groups * most, kv_heads, repeat, -1)
        return x if self.layout.place_R is None else x[self.layout.place_R]

    def _effective(self, window: int | None) -> int | None:
        """The window if any row is longer than it."""
        if window is None or self.layout.longest + self.most_written < window:
            return None
        return window

    def _prefix_mask(self, window: int | None, repeat: int, like: Tensor) -> Tensor | None:
        """[g, 1, 1 or most * repeat, P]: inside the prompt, and inside the row's window."""
        key = ("prefix", window, repeat)
        if key not in self._masks:
            self._masks[key] = self._make_prefix_mask(window, repeat, like)
        return self._masks[key]

    def _make_prefix_mask(self, window: int | None, repeat: int, like: Tensor) -> Tensor | None:
        layout = self.layout
        if not layout.ragged and window is None:
            return None
        at = torch.arange(layout.longest, device=like.device)
        seen = (at < layout.prompt_lengths_g[:, None])[:, None, None, :]
        if window is not None:
            position = layout.prompt_lengths_R + self.written_R
            if layout.padded is not None:
                position = position[layout.padded]
            first = (position - window + 1).reshape(-1, layout.most).repeat_interleave(repeat, 1)
            seen = seen & (at >= first[:, None, :, None])
        return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(
            ~seen, _closed(like.dtype)
        )

    def _suffix_mask(self, window: int | None, like: Tensor) -> Tensor | None:
        """[R, 1, 1, T]: up to the row's new token, and inside its window."""
        key = ("suffix", window, 0)
        if key not in self._masks:
            if self.even and (window is None or self.most_written < window):
                self._masks[key] = None
            else:
                at = torch.arange(self.most_written + 1, device=like.device)
                seen = at <= self.written_R[:, None]
                if window is not None:
                    seen = seen & (at > self.written_R[:, None] - window)
                closed = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
                closed.masked_fill_(~seen, _closed(like.dtype))
                self._masks[key] = closed[:, None, None, :]
        return self._masks[key]
