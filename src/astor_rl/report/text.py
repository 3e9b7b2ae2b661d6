"""Numbers for people. What isn't known is shown as `unknown`, never as 0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import IO, Any

UNKNOWN = "unknown"
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"


def number(value: float | None, digits: int = 3) -> str:
    """A fixed number of decimals, or `unknown` for None and what isn't finite."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{digits}f}"


def small(value: float | None) -> str:
    """Three significant digits, for betas and divergences: `0.00123`, `1.2e-05`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.3g}"


def with_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """`0.123 ± 0.045`; only the value when its error isn't known."""
    if value is None or error is None or UNKNOWN in (number(value), number(error)):
        return number(value, digits)
    return f"{number(value, digits)} ± {number(error, digits)}"


def signed(value: float | None, error: float | None, digits: int = 3) -> str:
    """As `with_error`, with the sign of a difference: `+0.100 ± 0.031`."""
    plus = "+" if value is not None and 0 <= value < math.inf else ""
    return plus + with_error(value, error, digits)


def percent(share: float | None) -> str:
    """A share in [0, 1] as `25%`."""
    return UNKNOWN if share is None or not math.isfinite(share) else f"{100 * share:.0f}%"


def duration(seconds: float | None) -> str:
    """`8s`, `3m 20s`, `2h 05m`, `4d 03h`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24:02d}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{whole}s"


def sparkline(
    values: Sequence[float | None],
    *,
    width: int = 24,
    top: float | None = None,
    ascii: bool = False,
) -> str:
    """A row of bars from 0 to `top` (default: the largest value); gaps where unknown.

    Args:
        values: over time; longer ones are averaged into `width` columns.
        width: columns at most.
        top: the value of a full bar, so that several rows can share a scale.
        ascii: for streams that can't show block characters.
    """
    columns = _columns([v if v is not None and math.isfinite(v) else None for v in values], width)
    ramp = _ASCII if ascii else _BLOCKS
    known = [value for value in columns if value is not None]
    highest = top if top is not None else max(known, default=0.0)
    return "".join(" " if value is None else _bar(value, highest, ramp) for value in columns)


def _bar(value: float, highest: float, ramp: str) -> str:
    share = value / highest if highest > 0 else 0.0
    return ramp[min(len(ramp) - 1, max(0, int(share * len(ramp))))]


def _columns(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    edges = [round(column * len(values) / width) for column in range(width + 1)]
    return [_mean(values[low:high]) for low, high in itertools.pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def shows_blocks(stream: IO[Any]) -> bool:
    """Whether block characters and `±` can be written to a stream."""
    try:
        (_BLOCKS + "±·").encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
