from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.data.decontaminate import HeldOutIndex, changed_lines
from astor_rl.data.rows import Row
from astor_rl.data.sources import load_source
from astor_rl.errors import ConfigError

FUNCTION = """
def has_close(numbers, threshold):
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j and abs(a - b) < threshold:
                return True
    return False
"""
OTHER = "def total(xs):\n    count = 0\n    for x in xs:\n        count += x\n    return count\n"


def reasons(train: list[Row], held_out: list[Row]) -> list[str]:
    return [c.reason for c in HeldOutIndex(held_out).sift(train).dropped]


def test_a_renamed_copy_has_the_same_shape(make_row: Callable[..., Row]) -> None:
    renamed = FUNCTION.replace("numbers", "vs").replace("threshold", "eps").replace("has_", "is_")
    held = [make_row("h", code=FUNCTION)]
    found = HeldOutIndex(held).sift([make_row("t", reference=renamed), make_row("o", code=OTHER)])
    assert [row.unit for row in found.kept] == ["o"]
    (collision,) = found.dropped
    assert (collision.reason, collision.with_origin) == ("same shape", held[0].origin)


def test_a_large_part_of_a_held_out_item_is_a_copy(make_row: Callable[..., Row]) -> None:
    grown = FUNCTION + "\n\nX = [1, 2, 3]\n"
    (reason,) = reasons([make_row("t", code=grown)], [make_row("h", code=FUNCTION)])
    assert reason.endswith("% of its shingles")
    assert int(reason.split("%")[0]) >= 40


def test_shingles_count_in_one_item_not_in_all_together(make_row: Callable[..., Row]) -> None:
    """Two held-out items that share a third each don't make a copy of a row."""
    parts = [
        f"def f{n}(a, b):\n    return sorted([a, b, {n}, a - b, a * b], key=abs)[{n}]\n"
        for n in range(3)
    ]
    train = make_row("t", code="\n".join(parts))
    assert reasons([train], [make_row("h0", code=parts[0]), make_row("h1", code=parts[1])]) == []
    assert reasons([train], [make_row("h", code="\n".join(parts[:2]) + "\nx = 1")]) != []


def test_equal_task_text(make_row: Callable[..., Row]) -> None:
    held = [make_row("h", prompt="Write a function that adds two numbers.")]
    rows = [
        make_row("t", prompt="  write a function, that adds TWO numbers"),
        make_row("u", prompt="Write a function that adds three numbers."),
    ]
    assert reasons(rows, held) == ["same text"]


def test_a_body_is_read_behind_its_prompt(make_row: Callable[..., Row]) -> None:
    head, body = FUNCTION.strip().split("\n", 1)
    held = [make_row("h", prompt=head + "\n", reference=body)]
    assert reasons([make_row("t", code=FUNCTION)], held) == ["same shape"]


def test_files_and_nested_versions_are_looked_at(make_row: Callable[..., Row]) -> None:
    held = [
        make_row("h", reference={"a.py": OTHER}),
        make_row("s", code="x = 1", sanitized={"code": FUNCTION}),
    ]
    rows = [make_row("t", code=OTHER), make_row("u", code=FUNCTION)]
    assert reasons(rows, held) == ["same shape", "same shape"]


def test_diffs_are_compared_by_their_changed_lines(make_row: Callable[..., Row]) -> None:
    diff = "--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n import os\n-x = 1\n+x = 2\n"
    moved = diff.replace("x.py", "y.py").replace("-1,3", "-9,3").replace("import os", "import re")
    assert changed_lines(diff) == ["-x = 1", "+x = 2"]
    held = [make_row("h", diff=diff)]
    assert reasons([make_row("t", diff=moved)], held) == ["same change"]
    assert reasons([make_row("t", diff=diff.replace("+x = 2", "+x = 3"))], held) == []


def test_a_diff_without_changes_is_like_no_other(make_row: Callable[..., Row]) -> None:
    rename = "diff --git a/x b/y\nrename from x\nrename to y\n"
    assert reasons([make_row("t", diff=rename)], [make_row("h", diff=rename)]) == []


def test_nothing_held_out_drops_nothing(make_row: Callable[..., Row]) -> None:
    rows = [make_row("t", code=FUNCTION), make_row("e")]
    assert HeldOutIndex([]).sift(rows).kept == tuple(rows)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_a_share_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        HeldOutIndex([], share=share)


@pytest.mark.shared
def test_the_shared_training_code_is_clean(shared_data: Path) -> None:
    """Its own notes say that it was cleaned by this very rule."""

    def rows(pattern: str) -> list[Row]:
        return [
            row
            for path in sorted(shared_data.glob(pattern))
            for row in load_source(f"jsonl:{path.name}", base_dir=shared_data, task_kind="any")
        ]

    code = [rows(f"{kind}*.heldout.*") for kind in ("io", "code", "unit")]
    index = HeldOutIndex(row for part in code for row in part)
    for kind in ("io", "code", "unit"):
        train = rows(f"{kind}*.train.*")[::3]
        assert len(train) > 200
        assert [row.origin for row in train if index.collision(row)] == []
    # The rule does find what is there: the held-out items themselves.
    assert all(index.collision(row) for row in code[0][:50])


@pytest.mark.shared
def test_the_shared_commits_are_nearly_clean(shared_data: Path) -> None:
    """They were made unique by changed lines; shingles find two more of 7,443."""
    held, train = (
        load_source(
            f"jsonl:commit_message.{name}.python_repos.jsonl.gz",
            base_dir=shared_data, task_kind="commit_message",
        )
        for name in ("heldout", "train")
    )  # fmt: skip
    dropped = HeldOutIndex(held).sift(train).dropped
    assert all("shingles" in collision.reason for collision in dropped)
    assert len(dropped) <= 2
