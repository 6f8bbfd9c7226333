"""The statistics against their definitions."""

import numpy as np
import scipy.stats

from jaxrl.run.report import filled, thin
from jaxrl.run.stats import interval, iqm, summarise


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


def test_one_seed_has_no_interval():
    got = summarise([3.0])
    assert got["iqm"] == got["mean"] == got["min"] == 3.0
    assert got["ci95"] == [None, None]


def test_curves_carry_the_last_value_over_gaps():
    nan = np.nan
    np.testing.assert_array_equal(filled(np.array([[nan, 1, nan, 3, nan]])), [[nan, 1, 1, 3, 3]])
    steps, x = thin(np.arange(1, 7), np.array([[1, 3, nan, 5, nan, nan]]), 3)
    np.testing.assert_array_equal(steps, [2, 4, 6])
    np.testing.assert_array_equal(x, [[2, 5, nan]])
