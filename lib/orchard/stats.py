"""Intervals and tests: how sure a measured number is, in the few forms the claims use.

Everything here is two-sided at ``level`` (0.95) unless a direction is asked for, seeded, and equal on every call.
Values are 1-D arrays; a value that is not finite makes the whole interval NaN, so it can never support anything.

Bootstrap intervals are percentile intervals. With S training seeds the bootstrap over seeds shows (S - 1)/S of their
variance, and with one seed none of it: such an interval speaks for the evaluation units only, and its ``note`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy  # its submodules load when first used

Array = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "less", "greater"]
RESAMPLES = 4000
EXACT_SPEARMAN = 8  # 8! = 40,320 pairings: up to here the p-value is computed from all of them


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval. ``note`` is empty, or says in words what the interval leaves out."""

    estimate: float
    low: float
    high: float
    level: float
    note: str = ""


@dataclass(frozen=True)
class SignTest:
    """How many values lie above and below ``threshold``, the p-value, and the median with its exact interval."""

    above: int
    below: int
    ties: int
    p_value: float
    median: Interval


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho, its p-value, and whether that is exact (all pairings) or the t approximation."""

    rho: float
    p_value: float
    exact: bool


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Callable[..., npt.ArrayLike] = np.mean,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of ``statistic(values, axis=...)`` over independent ``values``.

    Efron and Tibshirani (1993), chapter 13, through ``scipy.stats.bootstrap``. One value has no interval (NaN).
    """
    array = _values(values)
    _check_level(level)
    estimate = float(np.asarray(statistic(array, axis=-1)))
    if array.size < 2:
        return Interval(estimate, math.nan, math.nan, level, "one value: no interval")
    if not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan, level, _not_finite(array))
    found = scipy.stats.bootstrap(
        (array,), statistic, n_resamples=RESAMPLES, batch=_batch(array.size), confidence_level=level,
        method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(estimate, float(found.low), float(found.high), level)


def paired_bootstrap(
    differences: npt.ArrayLike,
    seeds: npt.ArrayLike,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Hierarchical bootstrap of a mean paired difference: over seeds, and over units (documents) within each seed.

    ``differences`` holds one signed difference (arm A minus arm B on the same unit) per row and ``seeds`` the training
    seed of that row. The estimate is the mean of the seeds' means, so every seed weighs the same. A resample draws as
    many seeds as there are, with replacement, and for each drawn seed as many of its units, anew for each draw.
    With one seed only units are resampled; with one difference in all there is no interval (NaN). ``note`` says so.
    """
    array, groups = _values(differences), np.asarray(seeds)
    _check_level(level)
    if groups.shape != array.shape:
        raise ValueError(f"differences {array.shape} and seeds {groups.shape} differ: give one seed per difference")
    if not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan, level, _not_finite(array))
    by_seed = [array[groups == name] for name in np.unique(groups)]
    estimate = float(np.mean([group.mean() for group in by_seed]))
    if array.size == 1:
        return Interval(estimate, math.nan, math.nan, level, "one seed and one unit: no interval")

    random = np.random.default_rng(seed)
    drawn = random.integers(len(by_seed), size=(RESAMPLES, len(by_seed)))
    means = np.empty(drawn.shape)
    for index, group in enumerate(by_seed):
        where = drawn == index
        means[where] = _resampled_means(group, int(where.sum()), random)
    low, high = np.quantile(means.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    note = "one seed: the interval covers the units, not the spread between training runs" if len(by_seed) == 1 else ""
    return Interval(estimate, float(low), float(high), level, note)


def sign_test(values: npt.ArrayLike, threshold: float = 0.0, alternative: Alternative = "two-sided") -> SignTest:
    """Exact sign test of "the median is ``threshold``"; values equal to it are ties and are left out.

    ``alternative="less"`` tests for a median below the threshold. The interval of the median inverts the same test
    (Conover 1999, section 3.2); with fewer than six values no 95 % interval exists and its ends are infinite.
    """
    array = _values(values)
    if not np.isfinite(array).all():
        return SignTest(0, 0, 0, math.nan, Interval(math.nan, math.nan, math.nan, 0.95, _not_finite(array)))
    above, below = int((array > threshold).sum()), int((array < threshold).sum())
    p_value = scipy.stats.binomtest(above, above + below, 0.5, alternative).pvalue if above + below else 1.0
    found = scipy.stats.quantile_test(array, q=threshold, p=0.5).confidence_interval(0.95)
    low = -math.inf if math.isnan(found.low) else float(found.low)
    high = math.inf if math.isnan(found.high) else float(found.high)
    note = "too few values for a 95 % interval of the median" if math.isinf(low) or math.isinf(high) else ""
    median = Interval(float(np.median(array)), low, high, 0.95, note)
    return SignTest(above, below, array.size - above - below, float(p_value), median)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, alternative: Alternative = "two-sided") -> RankCorrelation:
    """Spearman's rank correlation (mid-ranks for ties); NaN when ``x`` or ``y`` is constant.

    Up to eight pairs the p-value is exact, over all n! pairings; beyond that the t approximation of scipy.
    """
    first, second = _values(x), _values(y)
    if first.shape != second.shape or first.size < 3:
        raise ValueError(f"spearman needs two arrays of one length, at least 3: got {first.size} and {second.size}")
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    if constant or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return RankCorrelation(math.nan, math.nan, exact=False)
    found = scipy.stats.spearmanr(first, second, alternative=alternative)
    if first.size > EXACT_SPEARMAN:
        return RankCorrelation(float(found.statistic), float(found.pvalue), exact=False)
    centred = [scipy.stats.rankdata(values) - (first.size + 1) / 2 for values in (first, second)]
    test = scipy.stats.permutation_test(
        (centred[0],), lambda ranks, axis: (ranks * centred[1]).sum(axis=axis), permutation_type="pairings",
        vectorized=True, n_resamples=np.inf, alternative=alternative,
    )  # fmt: skip
    return RankCorrelation(float(found.statistic), float(test.pvalue), exact=True)


def wilson_interval(successes: int, total: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927): sensible near 0 and 1 and for small ``total``."""
    _check_level(level)
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"successes={successes} of total={total}: give 0 <= successes <= total and total >= 1")
    found = scipy.stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    return Interval(successes / total, float(found.low), float(found.high), level)


def _resampled_means(group: Array, count: int, random: np.random.Generator) -> Array:
    """Means of ``count`` resamples of ``group``, made in batches so that memory stays bounded."""
    size, batch = group.size, _batch(group.size)
    parts = [
        group[random.integers(size, size=(min(batch, count - start), size))].mean(axis=1)
        for start in range(0, count, batch)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _batch(size: int) -> int:
    return max(1, 2_000_000 // size)  # 16 MB of indices at a time


def _values(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values have shape {array.shape}: give a 1-D array with at least one value")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a fraction between 0 and 1, such as 0.95")


def _not_finite(array: Array) -> str:
    return f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite"
