"""Corrected cosines: consistency and coverage at low signal, resolution, shrinkage, state."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from astor_rl.errors import ConfigError, PlanError, StateError
from astor_rl.plan import GradientProbe
from astor_rl.utility.synergy import BLOCKS, MIN_PROBES, Synergy, SynergyOptions, _student_quantile

D = 1000


def directions(cosines: np.ndarray) -> np.ndarray:
    """Unit vectors [K, D] with the given Gram."""
    factor = np.linalg.cholesky(cosines)
    means = np.zeros((len(cosines), D))
    means[:, : len(cosines)] = factor
    return means


def probe(
    rng: np.random.Generator,
    means: np.ndarray,
    snr: float,
    *,
    scale: np.ndarray | float = 1.0,
    names: str = "abcdefgh",
    groups: tuple[int, int] = (4, 4),
) -> GradientProbe:
    """Half-batch gradients of known means; |mean|^2 / E|noise|^2 = snr for the full batch."""
    count = len(means)
    halves = np.empty((2 * count, D))
    total = sum(groups)
    for side in range(2):
        sigma = math.sqrt(total / groups[side] / snr / D)
        halves[side::2] = means + rng.normal(0, sigma, means.shape)
    halves *= np.repeat(np.broadcast_to(scale, (count,)), 2)[:, None]
    return GradientProbe(tuple(names[:count]), halves @ halves.T, groups * count)


PAIR = np.array([[1.0, 0.3], [0.3, 1.0]])


def test_noiseless_gradients_give_the_cosine_itself() -> None:
    synergy = Synergy("ab", SynergyOptions())
    halves = np.repeat(directions(PAIR), 2, axis=0)
    for revision in range(MIN_PROBES):
        synergy.observe(revision, GradientProbe(("a", "b"), halves @ halves.T, (1, 1, 1, 1)))
    pair = synergy.pair("a", "b")
    assert pair.cosine == pytest.approx(0.3, abs=1e-12)
    assert pair.se == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("snr", [1.0, 0.1])
def test_corrected_cosine_is_consistent_where_the_plain_one_is_not(snr: float) -> None:
    rng = np.random.default_rng(3)
    synergy = Synergy("ab", SynergyOptions(half_life=1e6))
    plain = []
    for revision in range(1500):
        step = probe(rng, directions(PAIR), snr)
        synergy.observe(revision, step)
        half = np.full((1, 2), 0.5)
        gram = np.kron(np.eye(2), half) @ step.gram_KK @ np.kron(np.eye(2), half).T
        plain.append(gram[0, 1] / math.sqrt(gram[0, 0] * gram[1, 1]))
    pair = synergy.pair("a", "b")
    assert pair.cosine is not None
    assert pair.se is not None
    assert abs(pair.cosine - 0.3) < 3.5 * pair.se
    assert pair.se < 0.02
    assert np.mean(plain) == pytest.approx(0.3 / (1 + 1 / snr), rel=0.2)


@pytest.mark.parametrize("snr", [1.0, 0.1])
def test_interval_covers_the_truth_in_nine_of_ten_trials(snr: float) -> None:
    """docs/method.md, Exact checks: the 95% interval covers at least 90% of 200 trials."""
    rng = np.random.default_rng(11)
    means = directions(PAIR)
    covered = resolved = 0
    for _ in range(200):
        synergy = Synergy("ab", SynergyOptions())
        for revision in range(30):
            synergy.observe(revision, probe(rng, means, snr))
        interval = synergy.pair("a", "b").interval()
        if interval is not None:
            resolved += 1
            covered += interval[0] <= 0.3 <= interval[1]
    assert resolved >= 190
    assert covered >= 0.9 * resolved


def grams(
    product: np.ndarray, square: np.ndarray, norm: np.ndarray | None = None
) -> list[GradientProbe]:
    """Probes of two tasks with given N, D of both tasks and |g_a|^2 (|g_b| = 1)."""
    norm = np.ones(len(product)) if norm is None else norm
    probes = []
    for n, (first, second), size in zip(product, square, norm, strict=True):
        gram = np.full((4, 4), n)
        gram[:2, :2] = [[2 * size - first, first], [first, 2 * size - first]]
        gram[2:, 2:] = [[2 - second, second], [second, 2 - second]]
        probes.append(GradientProbe(("a", "b"), gram, (1, 1, 1, 1)))
    return probes


def test_with_equal_weights_the_error_is_the_textbook_jackknife() -> None:
    rng = np.random.default_rng(0)
    product, square = rng.normal(0.1, 0.1, 7), rng.normal(0.5, 0.1, (7, 2))
    synergy = Synergy("ab", SynergyOptions(half_life=1e12))
    for revision, step in enumerate(grams(product, square)):
        synergy.observe(revision, step)

    def cosine(keep: np.ndarray) -> float:
        return float(product[keep].mean() / np.sqrt(square[keep].mean(axis=0).prod()))

    full = cosine(np.ones(7, dtype=bool))
    moves = [cosine(np.arange(7) != i) - full for i in range(7)]
    pair = synergy.pair("a", "b")
    assert pair.cosine == pytest.approx(full)
    assert pair.se == pytest.approx(math.sqrt(6 / 7 * np.square(moves).sum()))
    assert pair.freedom == pytest.approx(6)


def test_steps_are_weighted_by_earlier_norms_and_age() -> None:
    product, norm = np.array([0.1, 0.4, 0.2, 0.3, 0.1]), np.array([1.0, 4.0, 9.0, 1.0, 16.0])
    square = np.stack([0.5 * norm, np.full(5, 0.5)], axis=1)
    synergy = Synergy("ab", SynergyOptions(half_life=1.0))
    for revision, step in enumerate(grams(product, square, norm)):
        synergy.observe(revision, step)
    decay = 0.5 ** np.arange(5)[::-1]
    scale = np.array(
        [1.0, *(np.average(norm[:t], weights=0.5 ** np.arange(t)[::-1]) for t in range(1, 5))]
    )
    n = decay @ (product / np.sqrt(scale))
    d = decay @ (square[:, 0] / scale), decay @ square[:, 1]
    synergy_now = synergy.state_dict()
    assert synergy_now["product_KKB"][0, 1].sum() == pytest.approx(n)
    assert synergy_now["square_KKB"][0, 1].sum() == pytest.approx(d[0])
    assert synergy_now["square_KKB"][1, 0].sum() == pytest.approx(d[1])
    assert synergy._cosine_KK[0, 1] == pytest.approx(n / math.sqrt(d[0] * d[1]))


def test_unequal_halves_and_growing_norms_do_not_bias() -> None:
    """Steps are divided by earlier norms, so the last ones do not drown the first."""
    rng = np.random.default_rng(5)
    synergy = Synergy("ab", SynergyOptions(half_life=200))
    for revision in range(300):
        scale = np.array([1.03**revision, 1.0])
        synergy.observe(revision, probe(rng, directions(PAIR), 1.0, scale=scale, groups=(1, 3)))
    pair = synergy.pair("a", "b")
    assert pair.cosine is not None
    assert pair.se is not None
    assert abs(pair.cosine - 0.3) < 3.5 * pair.se
    assert pair.se < 0.04


def test_rescaling_a_task_changes_nothing() -> None:
    first, second = Synergy("ab", SynergyOptions()), Synergy("ab", SynergyOptions())
    for revision in range(8):
        rng = np.random.default_rng(revision)
        first.observe(revision, probe(rng, directions(PAIR), 1.0))
        rng = np.random.default_rng(revision)
        second.observe(revision, probe(rng, directions(PAIR), 1.0, scale=np.array([1e-4, 1e3])))
    assert first.pair("a", "b").cosine == pytest.approx(second.pair("a", "b").cosine)
    assert first.pair("a", "b").se == pytest.approx(second.pair("a", "b").se)


def test_pure_noise_is_unresolved_not_zero() -> None:
    rng = np.random.default_rng(2)
    unresolved = 0
    for _ in range(50):
        synergy = Synergy("ab", SynergyOptions())
        for revision in range(12):
            synergy.observe(revision, probe(rng, np.zeros((2, D)), 1.0))
        estimate = synergy.estimate("a")
        if estimate.value is None:
            unresolved += 1
            assert (estimate.se, estimate.shrunk, estimate.shrunk_se) == (None, 0.0, 0.0)
            assert synergy.pair("a", "b").cosine is None
            assert synergy.pair("a", "b").interval() is None
            assert synergy.unresolved() == [("a", "b")]
            assert estimate.revision == 11
    assert unresolved >= 45


def test_few_probes_resolve_nothing() -> None:
    synergy = Synergy("ab", SynergyOptions())
    halves = np.repeat(directions(PAIR), 2, axis=0)
    for revision in range(MIN_PROBES - 1):
        synergy.observe(revision, GradientProbe(("a", "b"), halves @ halves.T, (1, 1, 1, 1)))
    assert synergy.estimate("a").value is None


def test_probes_of_one_jackknife_block_resolve_nothing() -> None:
    """Their differences are in no error: it would be 0, and noise be taken for certain."""
    rng = np.random.default_rng(0)
    synergy = Synergy("abc", SynergyOptions())
    for revision in range(BLOCKS * (MIN_PROBES + 1)):
        joint = revision % BLOCKS == 0
        names, means = ("ab", directions(PAIR)) if joint else ("c", np.ones((1, D)) / D**0.5)
        synergy.observe(revision, probe(rng, means, 50.0, names=names))
    pair = synergy.pair("a", "b")
    assert pair.probes > MIN_PROBES
    assert pair.cosine is None
    assert synergy.estimate("a").shrunk == 0


@pytest.mark.parametrize("other", [{"estimator": "plain"}, {"gradient": "total"}])
def test_sums_of_another_kind_are_not_continued(other: dict[str, str]) -> None:
    before, after = Synergy("ab", SynergyOptions()), Synergy("ab", SynergyOptions(**other))  # type: ignore[arg-type]
    for revision in range(MIN_PROBES):
        before.observe(revision, probe(np.random.default_rng(0), directions(PAIR), 50.0))
    state = before.state_dict()
    assert after.is_of_another_kind(state)
    assert not before.is_of_another_kind(state)
    after.load_state_dict(state)
    assert after.pair("a", "b").probes == 0


def test_what_was_measured_does_not_count_once_it_is_switched_off() -> None:
    before, after = (Synergy("ab", SynergyOptions(enabled=enabled)) for enabled in (True, False))
    for revision in range(MIN_PROBES):
        before.observe(revision, probe(np.random.default_rng(0), directions(PAIR), 50.0))
    after.load_state_dict(before.state_dict())
    assert before.estimate("a").shrunk > 0
    found = after.estimate("a")
    assert (found.value, found.shrunk, found.shrunk_se, found.revision) == (None, 0, 0, None)


def test_one_task_has_a_known_synergy_of_zero() -> None:
    estimate = Synergy("a", SynergyOptions()).estimate("a")
    assert (estimate.value, estimate.shrunk) == (0.0, 0.0)


def test_two_tasks_have_the_same_synergy() -> None:
    rng = np.random.default_rng(1)
    synergy = Synergy("ab", SynergyOptions())
    for revision in range(10):
        synergy.observe(revision, probe(rng, directions(PAIR), 1.0))
    assert synergy.estimate("a") == synergy.estimate("b")


def test_mean_over_pairs_counts_unresolved_as_zero_and_its_error_is_right() -> None:
    """Task c never shows a gradient: S_a is half of c_ab. The SE matches the spread of trials."""
    rng = np.random.default_rng(8)
    means = np.vstack([directions(PAIR), np.zeros((1, D))])
    values, errors = [], []
    for _ in range(60):
        synergy = Synergy("abc", SynergyOptions())
        for revision in range(24):
            synergy.observe(revision, probe(rng, means, 1.0))
        if synergy.pair("a", "c").cosine is not None or synergy.pair("b", "c").cosine is not None:
            continue
        assert synergy.cosines("a") == {"b": synergy.pair("a", "b").cosine}
        assert synergy.cosines("c") == {}
        estimate = synergy.estimate("a")
        assert estimate.value is not None
        assert estimate.se is not None
        values.append(estimate.value)
        errors.append(estimate.se)
    assert len(values) > 40
    assert np.mean(values) == pytest.approx(0.15, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.4)


def test_error_of_a_mean_takes_in_that_pairs_share_a_task() -> None:
    rng = np.random.default_rng(9)
    cosines = np.full((4, 4), 0.4) + 0.6 * np.eye(4)
    values, errors = [], []
    for _ in range(80):
        synergy = Synergy("abcd", SynergyOptions())
        for revision in range(24):
            synergy.observe(revision, probe(rng, directions(cosines), 1.0))
        estimate = synergy.estimate("a")
        assert estimate.value is not None
        assert estimate.se is not None
        values.append(estimate.value)
        errors.append(estimate.se)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)


def test_shrinkage_removes_what_noise_explains() -> None:
    rng = np.random.default_rng(4)
    synergy = Synergy("ab", SynergyOptions())
    for revision in range(20):
        synergy.observe(revision, probe(rng, directions(PAIR), 1.0))
    estimate = synergy.estimate("a")
    assert estimate.value is not None
    assert estimate.se is not None
    keep = max(0.0, 1 - estimate.se**2 / estimate.value**2)
    assert 0 < keep < 1
    assert estimate.shrunk == pytest.approx(estimate.value * keep)
    assert estimate.shrunk_se == pytest.approx(estimate.se * math.sqrt(keep))


def test_absence_keeps_what_is_known() -> None:
    rng = np.random.default_rng(6)
    synergy = Synergy("abc", SynergyOptions(half_life=2))
    cosines = np.full((3, 3), 0.4) + 0.6 * np.eye(3)
    for revision in range(10):
        synergy.observe(revision, probe(rng, directions(cosines), 1.0))
    before = synergy.pair("a", "c")
    for revision in range(10, 30):
        synergy.observe(revision, probe(rng, directions(cosines)[:2], 1.0))
    after = synergy.pair("a", "c")
    assert (after.cosine, after.se) == (before.cosine, before.se)
    assert (after.revision, synergy.pair("a", "b").revision) == (9, 29)


def test_a_task_without_any_gradient_leaves_the_probe() -> None:
    synergy = Synergy("ab", SynergyOptions())
    gram = np.zeros((4, 4))
    gram[:2, :2] = 1.0
    synergy.observe(0, GradientProbe(("a", "b"), gram, (1, 1, 1, 1)))
    assert synergy.pair("a", "b").probes == 0


def test_a_probe_of_no_task_says_nothing() -> None:
    synergy = Synergy("ab", SynergyOptions())
    synergy.observe(0, GradientProbe((), np.zeros((0, 0)), ()))
    assert synergy.pair("a", "b").probes == 0


def test_sums_take_memory_only_once_there_are_probes() -> None:
    rng = np.random.default_rng(8)
    synergy = Synergy("ab", SynergyOptions())
    assert synergy.state_dict()["weight_KKB"].size == 0
    for revision in range(BLOCKS + 3):
        synergy.observe(revision, probe(rng, directions(PAIR), 1.0))
        blocks = min(revision + 1, BLOCKS)
        assert synergy.state_dict()["weight_KKB"].shape == (2, 2, blocks)
    again = Synergy("ab", SynergyOptions())
    again.load_state_dict(synergy.state_dict())
    assert again.pair("a", "b") == synergy.pair("a", "b")
    broken = synergy.state_dict()
    broken["weight_KKB"] = broken["weight_KKB"][..., 1:]
    with pytest.raises(StateError, match="weight_KKB has shape"):
        again.load_state_dict(broken)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"gram_KK": np.zeros((3, 3))}, "shape"),
        ({"gram_KK": np.full((4, 4), np.nan)}, "not finite"),
        ({"tasks": ("a", "z")}, "unknown: \\['z'\\]"),
        ({"tasks": ("a", "a")}, "names tasks"),
        ({"groups": (1, 0, 1, 1)}, "every half needs a group"),
        ({"groups": (1, 1)}, "group counts"),
    ],
)
def test_bad_probes_are_refused_and_leave_no_trace(changed: dict[str, object], text: str) -> None:
    synergy = Synergy("ab", SynergyOptions())
    good: dict[str, object] = {
        "tasks": ("a", "b"),
        "gram_KK": np.eye(4),
        "groups": (1, 1, 1, 1),
    }
    with pytest.raises(PlanError, match=text):
        synergy.observe(0, GradientProbe(**{**good, **changed}))  # type: ignore[arg-type]
    assert synergy.state_dict()["probes"] == 0


def test_state_round_trip_is_exact_also_after_tasks_came_and_went() -> None:
    rng = np.random.default_rng(7)
    synergy = Synergy("bc", SynergyOptions())
    for revision in range(6):
        synergy.observe(revision, probe(rng, directions(PAIR), 1.0, names="bc"))
    known = synergy.pair("b", "c")
    synergy.add_task("a")
    assert synergy.pair("b", "c") == known
    assert synergy.pair("a", "c").probes == 0
    again = Synergy("abc", SynergyOptions())
    again.load_state_dict(synergy.state_dict())
    cosines = np.full((3, 3), 0.4) + 0.6 * np.eye(3)
    for revision in range(6, 12):
        step = probe(rng, directions(cosines), 1.0)
        synergy.observe(revision, step)
        again.observe(revision, step)
    for name in "abc":
        assert again.estimate(name) == synergy.estimate(name)
    again.follow(["b", "c", "d"])
    assert again.pair("b", "c") == synergy.pair("b", "c")
    assert again.pair("d", "c").probes == 0
    with pytest.raises(StateError, match="tasks"):
        again.load_state_dict(synergy.state_dict())
    broken = synergy.state_dict()
    broken["norm_K"] = np.zeros(2)
    with pytest.raises(StateError, match="norm_K has shape"):
        Synergy("abc", SynergyOptions()).load_state_dict(broken)


def test_a_new_task_brings_nothing_into_the_sums() -> None:
    """Four noiseless probes with it give the cosine itself, as they do at the start."""
    synergy = Synergy("bc", SynergyOptions())
    halves = np.repeat(directions(PAIR), 2, axis=0)
    for revision in range(6):
        synergy.observe(revision, GradientProbe(("b", "c"), halves @ halves.T, (1, 1, 1, 1)))
    synergy.add_task("a")
    for revision in range(6, 6 + MIN_PROBES):
        synergy.observe(revision, GradientProbe(("a", "b"), halves @ halves.T, (1, 1, 1, 1)))
    pair = synergy.pair("a", "b")
    assert pair.cosine == pytest.approx(0.3, abs=1e-12)
    assert (pair.probes, pair.revision) == (MIN_PROBES, 9)


@pytest.mark.parametrize(
    ("freedom", "exact"), [(3, 3.182), (5, 2.571), (10, 2.228), (23, 2.069), (1e9, 1.960)]
)
def test_student_quantile_matches_the_tables(freedom: float, exact: float) -> None:
    assert _student_quantile(0.975, freedom) == pytest.approx(exact, rel=0.01)


def test_student_quantile_is_the_expansion_worked_by_hand() -> None:
    """z = 1: 2/4, 24/96 and 24/384; z = 2: 10/4, 294/96 and 1098/384 (the powers are told apart).

    No expansion is of use below one degree of freedom: then it is that of one.
    """
    one, two = NormalDist().cdf(1), NormalDist().cdf(2)
    assert _student_quantile(one, 2) == pytest.approx(1 + 1 / 4 + 1 / 16 + 1 / 128)
    assert _student_quantile(two, 2) == pytest.approx(2 + 2.5 / 2 + 3.0625 / 4 + 2.859375 / 8)
    assert _student_quantile(two, 0.5) == pytest.approx(2 + 2.5 + 3.0625 + 2.859375)


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"synergy.every is 0"):
        SynergyOptions(every=0)
    with pytest.raises(ConfigError, match=r"synergy.gradient is 'kl'"):
        SynergyOptions(gradient="kl")  # type: ignore[arg-type]
