"""Prompt draws: utilities, propensities, exploration, ageing, repeats, size, state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import pytest

from astor_rl.errors import ConfigError, PlanError, StateError
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.prompts import Draw, PromptBook, Rule

WIDE, EQUAL = [0.0, 1.0] * 4, [0.0] * 8


class Keys(Sequence[str]):
    """Ten million keys that exist only when asked for, and count how often that is."""

    def __init__(self, size: int) -> None:
        self.size, self.reads = size, 0

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        assert isinstance(index, int)
        self.reads += 1
        return f"{index:032x}"


def keys(size: int) -> list[str]:
    return [f"k{i}" for i in range(size)]


def book(size: int = 100, **options: Any) -> PromptBook:
    return PromptBook("t", keys(size), PromptOptions(**options))


def visit(
    prompts: PromptBook, rng: np.random.Generator, count: int, revision: int = 0
) -> dict[str, int]:
    """Draw and release; rows by key."""
    draw = prompts.draw(count, revision=revision, rng=rng)
    for row in draw.rows:
        prompts.release(row)
    return dict(zip(draw.keys, draw.rows, strict=True))


def trained(size: int, seen: int, seed: int = 0, **options: Any) -> tuple[PromptBook, list[int]]:
    """A book with `seen` prompts of varied outcome variance."""
    rng = np.random.default_rng(seed)
    prompts = book(size, **options)
    rows = list(visit(prompts, rng, seen).values())
    for row in rows:
        share = rng.random()
        prompts.observe(row, 0, (rng.random(8) < share).astype(float).tolist())
    return prompts, rows


def test_prompts_of_a_draw_are_distinct_and_in_flight() -> None:
    rng, prompts = np.random.default_rng(0), book(10)
    first = prompts.draw(6, revision=0, rng=rng)
    second = prompts.draw(4, revision=0, rng=rng)
    assert sorted(first.keys + second.keys) == sorted(keys(10))
    assert (prompts.free, prompts.seen) == (0, 10)
    with pytest.raises(PlanError, match="task t: 1 prompts are wanted and 0 of 10 are free"):
        prompts.draw(1, revision=0, rng=rng)
    prompts.release(first.rows[0])
    assert prompts.draw(1, revision=0, rng=rng).keys == (first.keys[0],)


def test_drawing_everything_has_propensity_one() -> None:
    assert book(8).draw(8, revision=0, rng=np.random.default_rng(0)).propensities == (1.0,) * 8
    assert book(0).draw(0, revision=0, rng=np.random.default_rng(0)) == Draw()


def test_repeats_come_only_after_every_free_prompt() -> None:
    rng, prompts = np.random.default_rng(0), book(5)
    busy = prompts.draw(2, revision=0, rng=rng)
    draw = prompts.draw(10, revision=0, rng=rng, allow_repeats=True)
    assert set(draw.keys[:3]) == set(keys(5)) - set(busy.keys)
    assert set(draw.keys[3:8]) == set(keys(5))
    assert len(draw.keys) == 10
    for row in busy.rows + draw.rows:
        prompts.release(row)
    assert prompts.free == 5
    with pytest.raises(PlanError, match="of 0 are free"):
        book(0).draw(1, revision=0, rng=rng, allow_repeats=True)


@pytest.mark.parametrize("rule", ["utility", "chance"])
@pytest.mark.parametrize("explore_share", [0.5, 0.3])
def test_propensities_match_inclusion(rule: Rule, explore_share: float) -> None:
    """Horvitz-Thompson: E[1(i drawn) / propensity] = 1 for every prompt, seen or not."""
    prompts, _ = trained(14, 8, explore_share=explore_share)
    rng, trials = np.random.default_rng(5), 8000
    weight = dict.fromkeys(keys(14), 0.0)
    square = dict.fromkeys(keys(14), 0.0)
    state = prompts.state_dict()
    for _ in range(trials):
        draw = prompts.draw(5, revision=1, rng=rng, rule=rule)
        for key, propensity in zip(draw.keys, draw.propensities, strict=True):
            assert 0 < propensity <= 1
            weight[key] += 1 / propensity
            square[key] += 1 / propensity**2
        prompts.load_state_dict(state)
    for key in weight:
        mean = weight[key] / trials
        se = math.sqrt((square[key] / trials - mean**2) / trials)
        assert abs(mean - 1) < 4.2 * se, key


def test_single_draws_follow_utility_to_the_power_of_one_over_tau() -> None:
    """With one prompt drawn and no unseen ones, P(i) = u_i^(1/tau) / sum u^(1/tau)."""
    prompts, rows = book(3, eta=0.0, prior_weight=1e-9), []
    rng = np.random.default_rng(0)
    found = visit(prompts, rng, 3)
    groups = {"k0": [0.0, 1.0], "k1": [0.0, 0.5], "k2": [0.5, 0.5]}
    for key, row in found.items():
        prompts.observe(row, 0, groups[key])
        rows.append(row)
    counts = dict.fromkeys(groups, 0)
    for _ in range(6000):
        for key in visit(prompts, rng, 1):
            counts[key] += 1
    utility = np.array([2.0, 0.5, 0.01])  # v / 0.25, the last one floored at u_min
    expected = 6000 * utility**2 / (utility**2).sum()
    observed = np.array(list(counts.values()))
    assert np.abs(observed - expected)[0] < 4 * math.sqrt(6000 * 0.94 * 0.06)
    assert observed[2] <= 3


def test_at_a_temperature_near_zero_weights_are_compared_by_their_logarithms() -> None:
    """Of 20 seen prompts one has u = 2 and the others u_min = 0.01; an unseen one has v0 = 2.25/21.
    At tau = 0.005 their logarithms are 586 (unseen) and 1060 below the best's: no float holds
    e^-1060, so it can't win a race, and beside the best no other of the seen could be found.
    """
    prompts = book(40, tau=0.005, eta=0.0, prior_weight=1e-9, explore_share=1.0)
    rng = np.random.default_rng(0)
    seen = list(visit(prompts, rng, 20).values())
    for row in seen:
        prompts.observe(row, 0, [0.0, 1.0] if row == 7 else EQUAL)
    best, next_best = (prompts.draw(1, revision=0, rng=rng) for _ in range(2))
    assert (best.rows, best.propensities) == ((7,), (1.0,))
    assert next_best.rows == (20,)  # a new row


def test_uniform_draws_ignore_utility_and_whether_a_prompt_was_seen() -> None:
    prompts, _ = trained(10, 5)
    rng, counts = np.random.default_rng(1), dict.fromkeys(keys(10), 0)
    state = prompts.state_dict()
    for _ in range(5000):
        for key in prompts.draw(3, revision=1, rng=rng, rule="chance").keys:
            counts[key] += 1
        prompts.load_state_dict(state)
    chi2 = sum((n - 1500) ** 2 / 1500 for n in counts.values())
    assert chi2 < 27.9  # 0.999 quantile at 9 degrees of freedom


def test_order_statistics_agree_with_one_gumbel_a_prompt() -> None:
    """How many unseen prompts a draw takes has the distribution of the plain method."""
    prompts, rows = trained(60, 10, explore_share=1.0)
    rng, state, trials = np.random.default_rng(2), prompts.state_dict(), 6000
    utility, unseen = prompts._utilities(1)
    phi = np.log(np.concatenate([utility[rows], np.full(50, unseen)])) / PromptOptions().tau
    pooled, plain = np.zeros(9), np.zeros(9)
    for _ in range(trials):
        draw = prompts.draw(8, revision=1, rng=rng)
        pooled[sum(row >= 10 for row in draw.rows)] += 1
        prompts.load_state_dict(state)
        top = np.argsort(-(phi + rng.gumbel(size=60)))[:8]
        plain[(top >= 10).sum()] += 1
    np.testing.assert_allclose(pooled / trials, plain / trials, atol=0.035)
    assert (plain > 300).sum() >= 3  # a test of something


def test_unseen_prompts_neither_swamp_nor_starve() -> None:
    """Of 10^5 unseen prompts explore_share of the quota is drawn at most; of solved ones, more."""
    rng = np.random.default_rng(3)
    prompts, _ = trained(100_000, 200, explore_share=0.25)
    new = 0
    for _ in range(200):
        before = prompts.seen
        visit(prompts, rng, 6, revision=1)
        taken = prompts.seen - before
        assert taken in (1, 2)  # 1.5 by a coin
        new += taken
    assert new / 200 == pytest.approx(1.5, abs=0.15)


def test_a_quota_of_one_explores_too() -> None:
    rng = np.random.default_rng(4)
    prompts, _ = trained(100_000, 50, explore_share=0.5)
    before = prompts.seen
    for _ in range(200):
        visit(prompts, rng, 1, revision=1)
    assert 0.35 < (prompts.seen - before) / 200 < 0.55


def test_unseen_prompts_fill_up_what_seen_ones_cannot() -> None:
    rng, prompts = np.random.default_rng(0), book(50, explore_share=0.0)
    assert len(prompts.draw(10, revision=0, rng=rng).keys) == 10
    assert prompts.seen == 10


def test_value_is_the_shrunk_aged_mean_and_v0_learns_from_first_visits() -> None:
    prompts = book(4, eta=0.0, tau=1.0, evidence_half_life=10.0, prior_weight=2.0)
    rng = np.random.default_rng(0)
    first, second = list(visit(prompts, rng, 2).values())
    prompts.observe(first, 0, [0.0, 1.0])  # v = 2 in units of 0.25
    prompts.observe(second, 0, [0.0, 0.5])  # v = 0.5
    prompts.observe(first, 10, [1.0, 1.0])  # v = 0, not a first visit
    # At revision 10 first visits weigh 1/2 each, the prior value 0.25 weighs one.
    v0 = (0.25 + 0.5 * 2 + 0.5 * 0.5) / (1 + 0.5 + 0.5)
    assert prompts.expected_variance(10) == pytest.approx(v0)
    utility, unseen = prompts._utilities(10)
    assert unseen == pytest.approx(v0)
    assert utility[first] == pytest.approx((2 * v0 + 0.5 * 2 + 0) / (2 + 1.5))
    assert utility[second] == pytest.approx((2 * v0 + 0.5 * 0.5) / (2 + 0.5))


def test_evidence_survives_any_number_of_revisions() -> None:
    """Weights are kept relative to a base that moves: 10^5 half-lives neither overflow nor stop."""
    prompts = book(4, evidence_half_life=1.0, eta=0.0, tau=1.0)
    rng = np.random.default_rng(0)
    row = next(iter(visit(prompts, rng, 1).values()))
    for revision in range(0, 100_000, 997):
        prompts.observe(row, revision, [0.0, 1.0])
    prompts.observe(row, revision - 1, [0.5, 0.5])  # late
    utility, unseen = prompts._utilities(revision)
    v0 = prompts.expected_variance(revision)
    assert unseen == pytest.approx(v0)
    assert v0 == pytest.approx(0.25)  # the prior's: the one first visit is long past
    assert utility[row] == pytest.approx((v0 + 2 + 0.5 * 0) / (1 + 1 + 0.5))


def test_a_book_that_is_never_drawn_expects_the_prior_for_ever() -> None:
    idle = book(evidence_half_life=1.0)
    assert idle.expected_variance(0) == idle.expected_variance(10**6) > 0


def test_progress_and_its_error() -> None:
    """Fast minus slow average; its error is that of the same linear combination of visits."""
    prompts = book(4, fast_half_life=1.0, slow_half_life=4.0)
    row = next(iter(visit(prompts, np.random.default_rng(0), 1).values()))
    groups = [EQUAL, WIDE, [1.0] * 8]
    for revision, group in enumerate(groups):
        prompts.observe(row, revision, group)
    means = np.array([0.0, 0.5, 1.0])
    noise = np.array([(np.var(g, ddof=1) * 7 + 0.25) / 64 for g in groups])
    a, b = 0.5, 1 - 2**-0.25
    fast = np.array([(1 - a) ** 2, a * (1 - a), a])
    slow = np.array([(1 - b) ** 2, b * (1 - b), b])
    progress, se = prompts.progress(row)
    assert progress == pytest.approx((fast - slow) @ means)
    assert se == pytest.approx(math.sqrt((fast - slow) ** 2 @ noise))
    assert prompts.state_dict()["columns"]["bonus"][0] == pytest.approx(0.5 * (progress - se))


def test_a_first_visit_is_no_progress_and_steady_noise_earns_little() -> None:
    prompts = book(4)
    row = next(iter(visit(prompts, np.random.default_rng(0), 1).values()))
    prompts.observe(row, 0, [1.0] * 8)
    assert prompts.progress(row)[0] == 0.0
    assert prompts.state_dict()["columns"]["bonus"][0] == 0.0
    for revision in range(1, 20):
        prompts.observe(row, revision, [1.0] * 8)
    assert prompts.state_dict()["columns"]["bonus"][0] == 0.0


def test_invalid_rollouts_change_nothing_but_the_group_size() -> None:
    """A group of 3 valid rollouts is the same evidence whatever else failed; none is no visit."""
    prompts, again = book(4), book(4)
    for each in (prompts, again):
        row = next(iter(visit(each, np.random.default_rng(0), 1).values()))
        each.observe(row, 0, [0.0, 1.0, 1.0])
    again.observe(row, 0, [])
    assert str(prompts.state_dict()) == str(again.state_dict())
    single = book(4)
    row = next(iter(visit(single, np.random.default_rng(0), 1).values()))
    single.observe(row, 0, [1.0])
    columns = single.state_dict()["columns"]
    assert (columns["weight"][0], columns["visits"][0], columns["fast"][0]) == (0.0, 1, 1.0)


def test_ten_million_prompts_cost_what_was_seen() -> None:
    lazy = Keys(10_000_000)
    prompts, rng = PromptBook("t", lazy, PromptOptions()), np.random.default_rng(0)
    for revision in range(20):
        draw = prompts.draw(32, revision=revision, rng=rng)
        for row in draw.rows:
            prompts.observe(row, revision, WIDE)
            prompts.release(row)
    assert lazy.reads == 20 * 32
    assert prompts.seen <= 20 * 32
    assert len(prompts.state_dict()["columns"]["index"]) == prompts.seen


def test_state_round_trip_is_exact() -> None:
    prompts, _ = trained(50, 20)
    prompts.draw(5, revision=1, rng=np.random.default_rng(9))
    again = book(50)
    rows = again.load_state_dict(prompts.state_dict())
    assert rows.tolist() == list(range(prompts.seen))
    for revision in range(2, 10):
        mine = prompts.draw(4, revision=revision, rng=np.random.default_rng(revision))
        assert again.draw(4, revision=revision, rng=np.random.default_rng(revision)) == mine
        for each in (prompts, again):
            each.observe(mine.rows[0], revision, WIDE)
            each.release(mine.rows[0])
    assert str(again.state_dict()) == str(prompts.state_dict())


def test_changed_prompts_are_an_error_unless_adapted() -> None:
    prompts, _ = trained(50, 20)
    flying = prompts.draw(3, revision=1, rng=np.random.default_rng(9))
    state = prompts.state_dict()
    kept = [key for i, key in enumerate(keys(50)) if i % 3][::-1]
    changed = PromptBook("t", [*kept, "new"], PromptOptions())
    with pytest.raises(StateError, match=r"prompts of t changed .*: there were 50, now there are"):
        changed.load_state_dict(state)
    moved = PromptBook("t", keys(50)[::-1], PromptOptions())
    with pytest.raises(StateError, match=r"prompts of t changed .*: prompt .* was k"):
        moved.load_state_dict(state)

    rows = changed.load_state_dict(state, on_change="adapt")
    old, new = state["columns"], changed.state_dict()
    for row, key in enumerate(key.decode() for key in state["keys"].tolist()):
        if key not in kept:
            assert rows[row] == -1
            continue
        assert new["keys"][rows[row]].decode() == key
        assert changed._keys[int(new["columns"]["index"][rows[row]])] == key
        assert new["columns"]["weight"][rows[row]] == old["weight"][row]
    busy = sum(key in kept for key in flying.keys)
    assert changed.free == len(kept) + 1 - busy
    rest = changed.draw(changed.free, revision=2, rng=np.random.default_rng(0))
    assert set(rest.keys) == {*kept, "new"} - set(flying.keys)


def test_broken_states_are_named() -> None:
    prompts, _ = trained(50, 20)
    state = prompts.state_dict()
    with pytest.raises(StateError, match="prompts of t: column fast has shape"):
        book(50).load_state_dict({**state, "columns": {**state["columns"], "fast": np.zeros(3)}})
    with pytest.raises(StateError, match=r"missing \['keys'\]"):
        book(50).load_state_dict({k: v for k, v in state.items() if k != "keys"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0.0),
        ("tau", 1e-200),
        ("eta", -0.1),
        ("fast_half_life", 0.0),
        ("evidence_half_life", math.inf),
        ("explore_share", 1.2),
        ("u_min", 0.0),
        ("prior_weight", 0.0),
        ("prior_variance", -1.0),
    ],
)
def test_bad_options_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"prompts.{name} is {value}"):
        PromptOptions(**{name: value})


def valued(value: Literal["variance", "nonzero"]) -> PromptBook:
    """Four prompts of which one group each was seen; eta = 0, so that u = V."""
    prompts = PromptBook("t", keys(4), PromptOptions(value=value, eta=0.0))
    groups = {"k0": WIDE, "k1": [1.0] * 7 + [0.0], "k2": [0.5] * 7 + [0.52], "k3": EQUAL}
    for key, row in visit(prompts, np.random.default_rng(0), 4).items():
        prompts.observe(row, 0, groups[key])
    return prompts


def test_nonzero_asks_whether_a_group_had_variance_and_not_how_much() -> None:
    """Three of four first visits varied and the prior is 1/4: v0 = 3.25 / 5 = 0.65. So a prompt
    that varied has V = (0.65 + 1) / 2, one that didn't 0.65 / 2: a ratio of 33/13, squared at
    tau = 1/2, which are the chances of being drawn first."""
    prompts = valued("nonzero")
    assert prompts.expected_variance(0) == pytest.approx(0.65)
    rng = np.random.default_rng(1)
    firsts = Counter(next(iter(visit(prompts, rng, 1))) for _ in range(8000))
    weights = {"k0": 33**2, "k1": 33**2, "k2": 33**2, "k3": 13**2}
    for key, weight in weights.items():
        share = weight / sum(weights.values())
        assert firsts[key] / 8000 == pytest.approx(share, abs=4 * math.sqrt(share / 8000))


def test_variance_prefers_groups_near_one_half() -> None:
    rng, prompts = np.random.default_rng(1), valued("variance")
    firsts = Counter(next(iter(visit(prompts, rng, 1))) for _ in range(2000))
    assert firsts["k0"] > 2 * firsts["k1"] > 2 * firsts["k2"] > 0


def test_a_value_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="prompts.value is 'half'"):
        PromptOptions(value="half")  # type: ignore[arg-type]


def test_prompts_that_others_chose_are_drawn_like_any() -> None:
    """Taken by place: in flight, remembered, found again by later draws and by a load."""
    rng = np.random.default_rng(0)
    one = book(6)
    drawn = one.draw(2, revision=0, rng=rng)
    free = one.free_indices()
    assert len(free) == 4
    assert {f"k{index}" for index in free} == set(keys(6)) - set(drawn.keys)

    taken = one.take(free[:2])
    assert taken.keys == tuple(f"k{index}" for index in free[:2])
    assert taken.propensities == (1.0, 1.0)
    assert [one.index(row) for row in taken.rows] == free[:2].tolist()
    assert (one.free, one.seen) == (2, 4)
    np.testing.assert_array_equal(one.free_indices(), free[2:])
    rest = one.draw(2, revision=0, rng=rng)
    assert set(rest.keys) == {f"k{index}" for index in free[2:]}

    other = book(6)
    other.load_state_dict(one.state_dict())
    for row in taken.rows:
        other.release(row)
    assert other.free_indices().tolist() == sorted(free[:2].tolist())
    assert other.take(np.array([free[1]])).rows == (taken.rows[1],)
