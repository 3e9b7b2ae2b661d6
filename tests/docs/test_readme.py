"""README.md: its figures are those of the results that are kept, its loop runs, its counts hold."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from benchmarks.learning import results

from astor_rl.schedule.baselines.registry import ARMS

GAINS = {
    "equal shares (Joint)": ("joint", ["joint"]),
    "a curriculum of tasks": ("curriculum", ["curriculum"]),
    "the best specialist (a specialist has a quarter of the tokens)": (
        "best_specialist",
        ["specialists-share"],
    ),
    "merged specialists (all the tokens together)": ("merging", ["merging"]),
}
"""A row's first cell -> the headline whose gain it has, and the arms that the cell speaks of."""
INTERVAL = re.compile(r"([+-]?\d+\.\d)%\**\s*\[([+-]?\d+\.\d), ([+-]?\d+\.\d)\]")
WORDS = {word: n for n, word in enumerate(("ten", "eleven", "twelve"), 10)} | {"sixteen": 16}


@pytest.fixture(scope="module")
def text(manual) -> str:
    return (manual.root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gains() -> list[tuple[str, str, Any]]:
    """What all seeds of a laboratory have been run for: its name, a row's label, the gain."""
    laboratories = results.kept()["laboratories"]
    return [
        (name, label, found)
        for name in ("A", "B")
        for label, (headline, arms) in GAINS.items()
        if (found := laboratories[name].get(f"astor_vs_{headline}"))
        and found["seeds"] == len(laboratories[name]["comparison"]["seeds"])
        and found["against"] == arms
    ]


def test_the_gains_are_those_of_the_results_that_are_kept(gains, text):
    expected = []
    for laboratory, label, found in gains:
        mean, low, high = (f"{found[part]:+.1f}" for part in ("mean", "low", "high"))
        by = f"**{mean}%**" if found["low"] > 0 else f"{mean}%"
        expected.append(f"| {laboratory} | {label} | {by} | [{low}, {high}] | {found['seeds']} |")
    table = text.partition("| laboratory | above | by |")[2].partition("\n\n")[0]
    wanted = "\n".join(expected)
    assert table.split("\n", 2)[2] == wanted, f"the table's rows should be:\n{wanted}"


def test_the_gains_on_the_laboratorys_page_are_the_same(manual, gains):
    titles = {label: results._TITLES[headline] for label, (headline, _) in GAINS.items()}
    expected = [
        {
            "laboratory": laboratory,
            "above": titles[label],
            "by": f"{found['mean']:+.1f}% [{found['low']:+.1f}, {found['high']:+.1f}]",
            "seeds": str(found["seeds"]),
        }
        for laboratory, label, found in gains
    ]
    assert manual.table("laboratory", "Today's result") == expected


def test_every_other_interval_is_on_a_page_about_the_laboratories(manual, text):
    pages = " ".join(
        path.read_text(encoding="utf-8").replace("|", " ")
        for path in sorted((manual.root / "docs").glob("*.md"))
        if path.stem.startswith(("laboratory", "results"))
    )
    known = {tuple(map(float, found)) for found in INTERVAL.findall(pages)}
    rest = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    said = {tuple(map(float, found)) for found in INTERVAL.findall(rest)}
    assert said
    assert said <= known


def test_the_loop_runs(manual, text):
    (block,) = manual.blocks(text, "python")

    def rollouts(items: Any) -> list[tuple[int, list[float]]]:
        return [(item.slot, [0.0, 1.0] * (item.num_generations // 2)) for item in items]

    names: dict[str, Any] = {
        "io_keys": [f"io/{n}" for n in range(100)],
        "code_keys": [f"code/{n}" for n in range(100)],
        "steps": 3,
        "my_rollouts": rollouts,
        "my_update": lambda items, rewards: {item.task: 0.01 for item in items},
    }
    exec(block, names)
    metrics = names["coordinator"].metrics()
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["task/io/groups"] + metrics["task/code/groups"] == 48


def test_as_many_schedulers_as_pages_say_and_as_many_of_them_from_papers(manual, text):
    modules = {method: inspect.getmodule(arm) for method, arm in ARMS.items()}
    headings = {
        method: (module.__doc__ or "").split("\n\n")[0] for method, module in modules.items()
    }
    published = {
        m for m, heading in headings.items() if re.search(r"\(.* \d{4}, arXiv \d", heading)
    }
    assert {
        "uniform",
        "proportional",
        "single",
        "sequential",
        "curriculum",
    } == ARMS.keys() - published
    for page in (text, (manual.root / "CHANGELOG.md").read_text(encoding="utf-8")):
        said = re.search(
            r"(\w+) other schedulers.*?(\w+)\s+of\s+them\s+from\s+papers", page, re.DOTALL
        )
        assert said, "how many other schedulers there are, and how many of them are from papers"
        assert (WORDS[said[1]], WORDS[said[2]]) == (len(ARMS), len(published))
    said = re.search(
        r"there are (\w+)\. (\w+) are from papers", manual.section("baselines", "Arms")
    )
    assert said
    assert (WORDS[said[1]], WORDS[said[2].lower()]) == (len(ARMS), len(published))
