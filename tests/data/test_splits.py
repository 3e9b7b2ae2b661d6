from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.data.mining import HELD_OUT_OPERATORS
from astor_rl.data.rows import Row
from astor_rl.data.splits import SPLITS, Splits, split_all
from astor_rl.errors import ConfigError

BODIES = [f"def f(a):\n    return a + {n}\n" for n in range(6)]


def row(task: str, unit: int, body: int | None, number: int) -> Row:
    fields = {} if body is None else {"code": BODIES[body]}
    return Row({"id": f"{unit}#{number}", **fields}, f"{task}:{unit}#{number}", f"u{unit}")


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(0, 40),
        st.one_of(st.none(), st.integers(0, len(BODIES) - 1)),
    ),
    max_size=60,
)


def by_task(entries: list[tuple[str, int, int | None]]) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = {"a": [], "b": []}
    for number, (task, unit, body) in enumerate(entries):
        tasks[task].append(row(task, unit, body, number))
    return tasks


def place(splits: dict[str, Splits]) -> dict[str, str]:
    return {r.origin: s for part in splits.values() for s in SPLITS for r in getattr(part, s)}


@given(ROWS, st.integers(0, 5))
def test_nothing_is_lost_and_nothing_straddles(
    entries: list[tuple[str, int, int | None]], seed: int
) -> None:
    tasks = by_task(entries)
    splits = split_all(tasks, seed=seed, validation=0.25, test=0.25)
    placed = place(splits)
    rows = [r for part in tasks.values() for r in part]
    assert set(placed) == {r.origin for r in rows}
    for key in (lambda r: r.unit, lambda r: r.fields.get("code")):
        groups: dict[object, set[str]] = {}
        for r in rows:
            if key(r) is not None:
                groups.setdefault(key(r), set()).add(placed[r.origin])
        assert all(len(found) == 1 for found in groups.values())


@given(ROWS, ROWS)
def test_additions_move_only_what_they_join(
    first: list[tuple[str, int, int | None]], second: list[tuple[str, int, int | None]]
) -> None:
    old = by_task(first)
    # Units of the additions are new, and so is their code.
    extra = [(task, unit + 1000, None) for task, unit, _ in second]
    new = by_task([*first, *extra])
    before, after = place(split_all(old)), place(split_all(new))
    assert all(after[origin] == split for origin, split in before.items())


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    entries: list[tuple[str, int, int | None]], random: object
) -> None:
    tasks = by_task(entries)
    shuffled = {name: list(rows) for name, rows in reversed(tasks.items())}
    for rows in shuffled.values():
        random.shuffle(rows)  # type: ignore[attr-defined]
    assert place(split_all(tasks)) == place(split_all(shuffled))


def test_names_do_not_hide_a_copy(make_row: Callable[..., Row]) -> None:
    """The same function under other names, with a docstring, in another task's field."""
    plain = "def take(n, xs):\n    return [x for x, _ in zip(xs, range(n))]\n"
    copy = 'def first(k, seq):\n    """Doc."""\n    return [v for v, _ in zip(seq, range(k))]\n'
    for seed in range(30):
        splits = split_all(
            {"a": [make_row("p.take", code=plain)], "b": [make_row("q.first", reference=copy)]},
            seed=seed, validation=0.3, test=0.3,
        )  # fmt: skip
        assert len(set(place(splits).values())) == 1


def test_a_shared_helper_ties_rows(make_row: Callable[..., Row]) -> None:
    helper = (
        "def _h(a, b):\n    c = [a, b, a + b]\n    d = sorted(c)\n    return d[0] + d[-1] * 2\n"
    )
    one = helper + "def f(a):\n    return _h(a, 1)\n"
    two = helper + "def g(a):\n    return _h(a, 2) - 7\n"
    for seed in range(30):
        rows = [make_row("f", code=one), make_row("g", code=two)]
        assert len(set(place(split_all({"": rows}, seed=seed, test=0.4)).values())) == 1


def test_shares_are_about_as_asked() -> None:
    rows = [Row({}, str(n), f"u{n}") for n in range(4000)]
    found = split_all({"": rows}, validation=0.1, test=0.2)[""]
    assert abs(len(found.validation) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5
    assert abs(len(found.test) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5


def test_large_components_are_not_drawn_to_one_split() -> None:
    """The least of many hashes is small; the share must not be read off it."""
    rows = [
        Row({"code": f"def f(a):\n    return a + {n}\n"}, f"{n}/{m}", f"u{n}/{m}")
        for n in range(150)
        for m in range(12)
    ]
    found = split_all({"": rows}, validation=0.0, test=0.2)[""]
    components = len({row.fields["code"] for row in found.test})
    assert 15 <= components <= 45


def test_the_seed_matters() -> None:
    rows = [Row({}, str(n), f"u{n}") for n in range(100)]
    assert split_all({"": rows}, seed=1) != split_all({"": rows}, seed=2)


def test_held_out_operators_are_in_test_only() -> None:
    op = sorted(HELD_OUT_OPERATORS)[0]
    rows = [Row({"op": op if n % 2 else "add_guard"}, str(n), f"u{n}") for n in range(200)]
    found = split_all({"": rows}, validation=0.2, test=0.2)[""]
    ops = {split: {r.fields["op"] for r in getattr(found, split)} for split in SPLITS}
    assert ops == {"train": {"add_guard"}, "validation": {"add_guard"}, "test": {"add_guard", op}}
    assert found.left_out
    assert len(found.left_out) + sum(len(getattr(found, split)) for split in SPLITS) == len(rows)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, -1)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        split_all({"": []}, validation=validation, test=test)
