"""Inner products of half-batch gradients, whole or sketched (docs/method.md, Synergy)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astor_rl.errors import ConfigError

_BLOCK = 2**20
"""Elements multiplied at once: tens of megabytes of scratch, whatever the model."""

_GATHERED = 2**22
"""Elements a GPU sketches at once: about 120 MB of scratch instead of a launch for each block."""

_MASK64 = 2**64 - 1
_LOW31 = 2**31 - 1
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: SplitMix64's step between places."""


Half = tuple[int, int]
"""A task's number, and 0 or 1."""


def paired_halves(found: Iterable[Half]) -> list[Half]:
    """A probe's rows: the halves of the tasks that have both, half 0 then half 1 of each."""
    kept = set(found)
    return sorted(half for half in kept if (half[0], 1 - half[1]) in kept)


def probe_seed(seed: int, revision: int) -> int:
    """Of a probe's sketch: a stream of the run's seed and the revision, no sum of them."""
    return int(np.random.SeedSequence((seed, revision)).generate_state(1)[0])


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= _MASK64
    return value - 2**64 if value >= 2**63 else value


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (Steele, Lea, Flood 2014); products wrap around."""

    def xor_shift(bits: Tensor, by: int) -> Tensor:
        # int64 shifts keep the sign: mask it off to shift in zeros.
        return bits ^ ((bits >> by) & ((1 << (64 - by)) - 1))

    bits = xor_shift(bits, 30) * _signed(0xBF58476D1CE4E5B9)
    bits = xor_shift(bits, 27) * _signed(0x94D049BB133111EB)
    return xor_shift(bits, 31)


class CountSketch:
    """A seeded linear map from n numbers to D buckets that keeps inner products.

    Source: Charikar, Chen, Farach-Colton 2002, with a hash that memory bandwidth allows: the vector
    is cut into blocks of D places, and each block goes into the buckets in its own order, turned by
    a hashed number of places, with hashed signs. Two places of one block never share a bucket, two
    of different blocks with probability 1 / D, so that the error is at most that of a hash for each
    place. All is a function of (seed, place), the same on every device: shards may be sketched
    apart with their offsets and summed. <sketch x, sketch y> estimates <x, y> without bias, with a
    variance of at most about (|x|^2 |y|^2 + <x, y>^2) / D: a cosine's standard error is about
    1 / sqrt(D).

    Args:
        dim: D >= 1, buckets.
        seed: a new one for each probe, so that errors average out over probes.

    Raises:
        ConfigError: `dim` is below 1.
    """

    def __init__(self, dim: int, *, seed: int) -> None:
        if dim < 1:
            raise ConfigError(f"sketch_dim is {dim}; it must be >= 1")
        self._dim = dim
        self._key = int(_mix(torch.tensor(_signed(seed + _GOLDEN))))
        # Blocks begin at different places of it, else two that are turned alike would have the
        # same signs, and errors of theirs would add up instead of averaging out.
        self._signs = 1.0 - 2.0 * (self._hash(-2 * dim, 0) < 0).float()

    def add(self, sketch_D: Tensor, values: Tensor, *, offset: int = 0, scale: float = 1.0) -> None:
        """Add `scale` times the sketch of `values` into `sketch_D`, in place.

        Args:
            sketch_D: float32 or float64.
            values: a part of the vector, flattened.
            offset: where in the vector the part begins.
            scale: a factor.
        """
        flat, dim = values.detach().reshape(-1), self._dim
        self._signs = self._signs.to(sketch_D)
        end, at_once = offset + flat.numel(), _blocks_at_once(sketch_D.device, dim)
        first, last = -(-offset // dim), end // dim  # whole blocks
        if at_once == 1 or last <= first:
            self._add_each(sketch_D, flat, offset, scale)
            return
        self._add_each(sketch_D, flat[: first * dim - offset], offset, scale)
        for block in range(first, last, at_once):
            stop = min(block + at_once, last)
            part = flat[block * dim - offset : stop * dim - offset]
            self._add_together(sketch_D, part.view(-1, dim), block, scale)
        self._add_each(sketch_D, flat[last * dim - offset :], last * dim, scale)

    def _add_each(self, sketch_D: Tensor, flat: Tensor, offset: int, scale: float) -> None:
        """Block by block, in the order of memory: what a CPU is fast at."""
        dim = self._dim
        first, end = offset // dim, offset + flat.numel()
        turns, starts, signs = (each.tolist() for each in self._blocks(first, -(-end // dim)))
        for block, turn, start, sign in zip(
            range(first, -(-end // dim)), turns, starts, signs, strict=True
        ):
            begin, stop = max(block * dim, offset), min((block + 1) * dim, end)
            part = flat[begin - offset : stop - offset].to(sketch_D)
            place, length = begin - block * dim, stop - begin
            signed = self._signs[start + place : start + place + length]
            to = (place + turn) % dim
            fits = min(length, dim - to)
            factor = sign * scale
            sketch_D[to : to + fits].addcmul_(part[:fits], signed[:fits], value=factor)
            sketch_D[: length - fits].addcmul_(part[fits:], signed[fits:], value=factor)

    def _add_together(self, sketch_D: Tensor, values_BD: Tensor, first: int, scale: float) -> None:
        """Whole blocks at once: each bucket looks up its place in each of them."""
        blocks, device = self._blocks(first, first + len(values_BD)), sketch_D.device
        turn_B1, start_B1, sign_B1 = (each.to(device)[:, None] for each in blocks)
        place_BD = (torch.arange(self._dim, device=device) - turn_B1) % self._dim
        signed_BD = values_BD.gather(1, place_BD).to(sketch_D)
        signed_BD *= self._signs[start_B1 + place_BD]
        sketch_D += signed_BD.mul_(sign_B1 * scale).sum(0)

    def _hash(self, start: int, end: int) -> Tensor:
        return _mix(torch.arange(start, end) * _signed(_GOLDEN) + self._key)

    def _blocks(self, first: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """By how much each block is turned, where its signs begin, and a sign for all of it."""
        bits = self._hash(first, end)
        turn, start = bits & _LOW31, (bits >> 31) & _LOW31
        return turn % self._dim, start % self._dim, 1 - 2 * (bits < 0).long()


def _blocks_at_once(device: torch.device, dim: int) -> int:
    return 1 if device.type == "cpu" else max(1, _GATHERED // dim)


class GradientRows:
    """A probe's gradients, one row each: whole while all fit in memory, else sketches.

    Rows are linear in what is added, so bins accumulate into them, and ranks sum `rows_RD`.

    Args:
        rows: R, how many gradients.
        numel: elements of a gradient.
        dim: D of the sketch that replaces a row beyond the limit.
        memory_limit_mb: MiB that whole float32 rows may take together.
        seed: the sketch's; see `CountSketch`.
        device: where rows live.
    """

    def __init__(
        self,
        rows: int,
        numel: int,
        *,
        dim: int,
        memory_limit_mb: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sketched = rows * numel * 4 > memory_limit_mb * 2**20
        self._numel = numel
        self._sketch = CountSketch(dim, seed=seed)
        width = dim if self.sketched else numel
        self.rows_RD = torch.zeros(rows, width, dtype=torch.float32, device=device)

    def add(self, row: int, parts: Iterable[Tensor], *, scale: float = 1.0) -> None:
        """Add `scale` times a gradient, given as its parameters' parts in a fixed order.

        Raises:
            ConfigError: the parts don't have `numel` elements together.
        """
        offset = 0
        for part in parts:
            end = offset + part.numel()
            if end > self._numel:
                raise self._wrong_size(end)
            if self.sketched:
                self._sketch.add(self.rows_RD[row], part, offset=offset, scale=scale)
            else:
                flat = part.detach().reshape(-1).to(self.rows_RD)
                self.rows_RD[row, offset:end].add_(flat, alpha=scale)
            offset = end
        if offset != self._numel:
            raise self._wrong_size(offset)

    def gram(self) -> NDArray[np.float64]:
        """All inner products of rows, [R, R], in float64 and exactly symmetric."""
        rows = len(self.rows_RD)
        total_RR = self.rows_RD.new_zeros(rows, rows, dtype=torch.float64)
        for start in range(0, self.rows_RD.shape[1], _BLOCK):
            part = self.rows_RD[:, start : start + _BLOCK].double()
            total_RR += part @ part.T
        total: NDArray[np.float64] = ((total_RR + total_RR.T) / 2).cpu().numpy()
        return total

    def _wrong_size(self, found: int) -> ConfigError:
        return ConfigError(f"a gradient has {found} elements or more; {self._numel} were announced")


def gram(
    half_gradients: Sequence[Tensor], *, dim: int, memory_limit_mb: float, seed: int
) -> tuple[NDArray[np.float64], bool]:
    """Inner products of whole gradients at hand, and whether they are of sketches.

    For `GradientProbe.gram_KK`, rows ordered half a, half b of each task. An engine that can't
    hold all halves at once accumulates into `GradientRows` instead.

    Args:
        half_gradients: R tensors of one size.
        dim, memory_limit_mb, seed: see `GradientRows`.

    Returns:
        float64 [R, R], and True when sketched.

    Raises:
        ConfigError: sizes differ.
    """
    rows = GradientRows(
        len(half_gradients),
        half_gradients[0].numel() if half_gradients else 0,
        dim=dim,
        memory_limit_mb=memory_limit_mb,
        seed=seed,
        device=half_gradients[0].device if half_gradients else "cpu",
    )
    for row, gradient in enumerate(half_gradients):
        rows.add(row, [gradient])
    return rows.gram(), rows.sketched
