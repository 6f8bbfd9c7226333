"""The statistics against their definitions."""

import numpy as np
import scipy.stats

from jaxrl.run.report import filled, thin
from jaxrl.run.stats import difference, improvement, interval, iqm, slope, summarise
from jaxrl.run.train import final


def test_iqm_is_the_mean_of_the_middle_half():
    x = np.array([100.0, 4.0, 1.0, 2.0, 3.0, -50.0, 5.0, 6.0])
    assert iqm(x) == np.mean([2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(iqm(np.stack([x, x + 1], 1)), [3.5, 4.5])


def test_the_interval_is_the_percentile_bootstrap():
    x = np.random.default_rng(1).normal(10.0, 2.0, 16)
    want = scipy.stats.bootstrap(
        (x,), iqm, n_resamples=9999, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    np.testing.assert_allclose(interval(x), want, atol=0.15)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = [
        lo <= 0 <= hi for lo, hi in (interval(rng.normal(size=20), draws=400) for _ in range(300))
    ]
    assert 0.85 < np.mean(hits) < 0.98


def test_the_difference_draws_seeds_within_each_environment_and_method():
    """Two environments far apart: drawn across them, the interval would be as wide as their gap."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 16)) + [[0.0], [100.0]]
    y = rng.normal(size=(2, 16)) + [[0.0], [100.0]]
    gap, (low, high) = difference(x, y)
    assert gap == iqm(x.ravel()) - iqm(y.ravel())
    assert low < gap < high and high - low < 100
    shifted, (low, high) = difference(x[0] + 3, y[0])
    np.testing.assert_allclose(shifted, iqm(x[0]) + 3 - iqm(y[0]))
    want = [
        iqm(rng.choice(x[0] + 3, 16)) - iqm(rng.choice(y[0], 16)) for _ in range(4000)
    ]  # one environment: the plain bootstrap of both
    np.testing.assert_allclose([low, high], np.percentile(want, [2.5, 97.5]), atol=0.12)


def test_the_probability_of_improvement_is_mann_whitneys():
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 5, 12), rng.integers(0, 4, 9)
    want = scipy.stats.mannwhitneyu(x, y).statistic / (12 * 9)
    np.testing.assert_allclose(improvement(x, y), want)
    np.testing.assert_allclose(improvement([x, x - 100], [y, y]), want / 2)  # the mean over both


def test_episodes_are_not_replicates():
    """jax-aht#108: a thousand episodes of each of four seeds are four runs, not four thousand.

    The middle half of four draws is their worst (or best) alone in 13 of 256 cases, over 2.5 %.
    """
    means = np.array([0.0, 10.0, 20.0, 30.0])
    returns = means[:, None] + np.random.default_rng(6).normal(size=(4, 1000))
    got = final({"return": returns, "complete": np.ones((4, 1000), bool)})
    np.testing.assert_allclose(got["per_seed"], means, atol=0.2)
    np.testing.assert_allclose(got["ci95"], [0.0, 30.0], atol=0.2)


def test_one_seed_has_no_interval():
    got = summarise([3.0])
    assert got["iqm"] == got["mean"] == got["min"] == 3.0
    assert got["ci95"] == [None, None]
    gap, ends = difference([3.0], [1.0])
    assert gap == 2.0 and np.isnan(ends).all()


def test_a_lost_seed_is_not_trimmed_away_with_the_tail():
    x = np.arange(8.0)
    assert iqm(x) == 3.5 and np.isnan(iqm(np.where(x == 7, np.nan, x)))
    two = iqm(np.stack([x, np.where(x == 0, np.nan, x)]), axis=1)
    assert two[0] == 3.5 and np.isnan(two[1])


def test_curves_carry_the_last_value_over_gaps():
    nan = np.nan
    np.testing.assert_array_equal(filled(np.array([[nan, 1, nan, 3, nan]])), [[nan, 1, 1, 3, 3]])
    steps, x = thin(np.arange(1, 7), np.array([[1, 3, nan, 5, nan, nan]]), 3)
    np.testing.assert_array_equal(steps, [2, 4, 6])
    np.testing.assert_array_equal(x, [[2, 5, nan]])


def test_a_slope_is_the_power_that_a_curve_grows_by():
    at = np.array([10, 100, 1000, 10_000])
    got, between = slope(np.stack([3 * at**0.5, 5 * at**0.5]), at)
    np.testing.assert_allclose([got, *between], 0.5, atol=1e-12)
    # of the mean curve: a constant and a line mix to what polyfit says of their mean
    curves = np.stack([np.full(4, 50.0), at * 1.0, at * 2.0])
    got, (low, high) = slope(curves, at)
    np.testing.assert_allclose(got, np.polyfit(np.log(at), np.log(curves.mean(0)), 1)[0])
    assert low < 0.1 and high > 0.98
    assert np.isnan(slope(-curves, at)[0]) and np.isnan(slope(curves[:1], at)[1]).all()


def test_a_slope_s_interval_covers_as_often_as_it_says():
    rng, at = np.random.default_rng(5), np.geomspace(10, 1000, 6)
    hits = 0
    for _ in range(200):
        noise = rng.normal(size=(40, 6)).cumsum(1) * 0.05
        low, high = slope(at**0.5 * (1 + noise), at, draws=200)[1]
        hits += low <= 0.5 <= high
    assert 0.85 < hits / 200 < 0.99
