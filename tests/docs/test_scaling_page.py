"""docs/scaling.md: its table of bytes is its own formulas."""

from __future__ import annotations

import re

import pytest

# Parameters, hidden, keys and values, mlp, layers.
MODELS = {
    "135M": (134.5e6, 576, 192, 1536, 30),
    "7B": (7.62e9, 3584, 512, 18944, 28),
    "70B": (70.6e9, 8192, 1024, 28672, 80),
}
UNITS = {"B": 1e9, "M": 1e6, "GB": 1e9, "MB": 1e6}


def number(cell: str) -> float:
    value, unit = cell.split()
    return float(value) * UNITS[unit]


@pytest.mark.parametrize("model", MODELS)
def test_bytes_are_their_formulas(manual, model):
    parameters, hidden, kv, mlp, layers = MODELS[model]
    adapter = 32 * layers * (9 * hidden + 2 * kv + 3 * mlp)
    rows = [row for row in manual.table("scaling", "What travels") if model in row]
    assert len(rows) == 8
    for row in rows:
        name, formula = row["bytes a step"], row["formula"]
        expected = {"N": parameters, "A": adapter}.get(name)
        if expected is None:
            python = re.sub(r"(?<=[\d)A-Z]) (?=[A-Z])", " * ", formula.replace(",", ""))
            names = {"N": parameters, "A": adapter, "K": 4}
            expected = eval(python.replace(" x ", " * "), names)
        assert number(row[model]) == pytest.approx(expected, rel=0.01), name


def test_shares_are_of_thirty_seconds(manual):
    for row in manual.table("scaling", "The driver"):
        share = float(row["ms of clock"]) / 300
        assert float(row["of 30 s"].rstrip("%")) == pytest.approx(share, abs=0.01)
