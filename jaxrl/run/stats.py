"""Honest statistics over seeds: the seed is the unit of replication, never the episode."""

import numpy as np
import scipy.stats


def iqm(x, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264)."""
    return scipy.stats.trim_mean(x, 0.25, axis=axis)


def interval(x, statistic=iqm, draws: int = 2000) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval over seeds, x [seeds]. One seed has none: (nan, nan)."""
    x = np.asarray(x, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    index = np.random.default_rng(0).integers(0, len(x), (draws, len(x)))
    low, high = np.percentile(statistic(x[index], axis=1), [2.5, 97.5])
    return float(low), float(high)


def summarise(per_seed) -> dict:
    """{iqm, mean, min, ci95, per_seed} of one number a seed."""
    x = np.asarray(per_seed, float)
    return dict(
        iqm=float(iqm(x)), mean=float(x.mean()), min=float(x.min()), ci95=list(interval(x)), per_seed=x.tolist()
    )
