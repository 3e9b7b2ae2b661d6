"""Extras and their requirements, from the distribution's own metadata."""

from __future__ import annotations

import pytest

from astor_rl.report.extras import extra_of, extras, name_of


def test_extras_are_those_of_the_distribution() -> None:
    found = extras()
    assert {"local", "tasks", "quickstart", "hf", "trackers"} <= found.keys()
    assert any(requirement.startswith("torch") for requirement in found["local"])
    assert all(";" not in requirement for lines in found.values() for requirement in lines)


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "local"),
        ("torch.nn", "local"),
        ("rouge_score", "tasks"),
        ("more_itertools", "quickstart"),
        ("numpy", None),
        ("nothing", None),
    ],
)
def test_a_module_is_traced_to_the_extra_that_installs_it(module: str, extra: str | None) -> None:
    assert extra_of(module) == extra


@pytest.mark.parametrize(
    "requirement", ["torch", "torch>=2.9", "torch [x]", "torch[x]<3", "torch!=1"]
)
def test_a_requirement_names_its_distribution(requirement: str) -> None:
    assert name_of(requirement) == "torch"
