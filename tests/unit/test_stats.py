"""Intervals and tests against scipy, statsmodels and closed forms."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.descriptivestats import sign_test as statsmodels_sign_test
from statsmodels.stats.proportion import proportion_confint

from orchard.stats import bootstrap_interval, paired_bootstrap, sign_test, spearman, wilson_interval

RANDOM = np.random.default_rng(7)
NORMAL = RANDOM.normal(1.0, 2.0, size=400)


def test_bootstrap_interval_matches_the_normal_interval_of_a_mean() -> None:
    found = bootstrap_interval(NORMAL)
    half = scipy_stats.norm.ppf(0.975) * NORMAL.std() / math.sqrt(NORMAL.size)
    assert found.estimate == pytest.approx(NORMAL.mean())
    assert found.low == pytest.approx(NORMAL.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(NORMAL.mean() + half, abs=0.1 * half)
    assert found == bootstrap_interval(NORMAL)
    assert found != bootstrap_interval(NORMAL, seed=1)


def test_bootstrap_interval_takes_any_statistic_and_narrows_with_the_level() -> None:
    median = bootstrap_interval(NORMAL, statistic=np.median, level=0.5)
    wide = bootstrap_interval(NORMAL, statistic=np.median)
    assert median.estimate == pytest.approx(np.median(NORMAL))
    assert wide.low < median.low < median.estimate < median.high < wide.high


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(random.normal(size=40)) for _ in range(200)]
    assert 0.88 <= np.mean([found.low <= 0 <= found.high for found in intervals]) <= 0.99


def test_one_value_or_a_nan_gives_no_interval() -> None:
    assert math.isnan(bootstrap_interval([3.0]).low)
    assert math.isnan(bootstrap_interval([3.0, math.nan, 1.0]).high)
    found = paired_bootstrap([0.1, math.inf], [0, 1])
    assert math.isnan(found.estimate)
    assert found.note == "1 of 2 values are not finite"


def test_paired_bootstrap_of_one_seed_is_the_bootstrap_over_units_and_says_so() -> None:
    ours, plain = paired_bootstrap(NORMAL, np.zeros(400, dtype=int)), bootstrap_interval(NORMAL)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=0.03)
    assert ours.note.startswith("one seed")
    assert paired_bootstrap([0.2], [0]).note == "one seed and one unit: no interval"


def test_paired_bootstrap_has_the_closed_form_variance() -> None:
    """Var = (1/S) * [variance between seed means (divided by S, not S - 1) + mean over seeds of unit variance / n]."""
    seeds = np.repeat(np.arange(20), 50)
    values = np.random.default_rng(1).normal(size=20)[seeds] * 0.3 + np.random.default_rng(2).normal(size=1000)
    groups = values.reshape(20, 50)
    variance = (groups.mean(1).var() + groups.var(1).mean() / 50) / 20
    found = paired_bootstrap(values, seeds)
    assert found.note == ""
    assert found.estimate == pytest.approx(values.mean())
    assert (found.high - found.low) / (2 * scipy_stats.norm.ppf(0.975)) == pytest.approx(variance**0.5, rel=0.06)


def test_paired_bootstrap_weighs_seeds_equally_and_ignores_row_order() -> None:
    values, seeds = np.array([0.0, 0.0, 0.0, 1.0]), np.array([5, 5, 5, 9])
    found = paired_bootstrap(values, seeds)
    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)
    assert paired_bootstrap(values[::-1], seeds[::-1]) == found


def test_the_hierarchy_is_wider_than_pooling_when_seeds_differ() -> None:
    seeds = np.repeat([0, 1, 2], 200)
    values = np.array([-1.0, 0.0, 1.0])[seeds] + np.random.default_rng(3).normal(size=600)
    pooled, found = bootstrap_interval(values), paired_bootstrap(values, seeds)
    assert found.high - found.low > 4 * (pooled.high - pooled.low)


def test_paired_bootstrap_is_bounded_in_memory_and_reports_bad_shapes() -> None:
    assert math.isfinite(paired_bootstrap(np.random.default_rng(0).normal(size=6000), np.arange(6000) % 3).low)
    with pytest.raises(ValueError, match="one seed per difference"):
        paired_bootstrap([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_bootstrap([1.0, 2.0], [0, 1], level=95.0)
    with pytest.raises(ValueError, match="1-D"):
        bootstrap_interval([])


def test_sign_test_matches_statsmodels_and_the_closed_form() -> None:
    values = np.array([0.3, -0.1, -0.4, -0.2, 0.0, -0.6, -0.9, -0.3, -0.5])
    _, expected = statsmodels_sign_test(values, 0.0)
    found = sign_test(values)
    assert (found.above, found.below, found.ties) == (1, 7, 1)
    assert found.p_value == pytest.approx(expected)
    assert sign_test(values, alternative="less").p_value == pytest.approx((1 + 8) / 2**8)
    assert sign_test(values, alternative="greater").p_value == pytest.approx(1 - 1 / 2**8)
    assert sign_test(values, threshold=-10.0, alternative="greater").p_value == pytest.approx(2**-9)


def test_the_interval_of_the_median_is_the_order_statistics_of_the_textbook() -> None:
    values = np.arange(20.0)  # n = 20: the 6th and the 15th value hold the median with 95.9 %
    found = sign_test(values).median
    assert (found.estimate, found.low, found.high) == (9.5, 5.0, 14.0)
    few = sign_test([1.0, 2.0, 3.0])
    assert (few.median.low, few.median.high) == (-math.inf, math.inf)
    assert "too few" in few.median.note
    assert sign_test([0.0, 0.0]).p_value == 1.0
    assert math.isnan(sign_test([0.0, math.nan]).p_value)


def test_spearman_is_exact_for_few_pairs() -> None:
    windows, accuracy = [32, 64, 128, 256, 512], [0.9, 0.8, 0.85, 0.4, 0.3]
    ranks = np.array([5, 3, 4, 2, 1])
    rho = 1 - 6 * ((np.arange(1, 6) - ranks) ** 2).sum() / (5 * 24)
    all_rho = [1 - 6 * ((np.arange(1, 6) - np.array(p)) ** 2).sum() / 120 for p in permutations(range(1, 6))]
    found = spearman(windows, accuracy, alternative="less")
    assert found.exact
    assert found.rho == pytest.approx(rho)
    assert found.p_value == pytest.approx(np.mean([value <= rho + 1e-12 for value in all_rho]))
    assert spearman(windows, windows[::-1], alternative="less").p_value == pytest.approx(1 / 120)


def test_spearman_is_scipys_for_many_pairs_and_refuses_nonsense() -> None:
    x = np.arange(30.0)
    y = x + RANDOM.normal(0, 10, size=30)
    found, expected = spearman(x, y), scipy_stats.spearmanr(x, y)
    assert not found.exact
    assert (found.rho, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert math.isnan(spearman([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]).rho)
    with pytest.raises(ValueError, match="at least 3"):
        spearman([1.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (3, 10), (10, 10), (128, 256)])
def test_wilson_matches_statsmodels_and_the_closed_form(successes: int, total: int) -> None:
    found = wilson_interval(successes, total)
    assert (found.low, found.high) == pytest.approx(proportion_confint(successes, total, method="wilson"))
    z, p = scipy_stats.norm.ppf(0.975), successes / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    with pytest.raises(ValueError, match="total >= 1"):
        wilson_interval(total + 1, total)
