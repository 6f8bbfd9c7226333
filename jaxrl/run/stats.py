"""Honest statistics over seeds: the seed is the unit of replication, never the episode."""

from typing import Any

import numpy as np
import scipy.stats


def iqm(x, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264)."""
    return scipy.stats.trim_mean(x, 0.25, axis=axis)


def interval(x, statistic=iqm, draws: int = 2000) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval over seeds, x [seeds]; (nan, nan) of one seed."""
    x = np.asarray(x, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    index = np.random.default_rng(0).integers(0, len(x), (draws, len(x)))
    low, high = np.percentile(statistic(x[index], axis=1), [2.5, 97.5])
    return float(low), float(high)


def finite(x) -> Any:
    """Numbers as JSON holds them: Python floats, and null for NaN and the infinities."""
    x = np.asarray(x, float).astype(object)
    x[~np.isfinite(x.astype(float))] = None
    return x.tolist()


def summarise(per_seed) -> dict:
    """{iqm, mean, min, ci95, per_seed} of one number a seed, for JSON."""
    x = np.asarray(per_seed, float)
    numbers = dict(iqm=iqm(x), mean=x.mean(), min=x.min(), ci95=interval(x), per_seed=x)
    return {k: finite(v) for k, v in numbers.items()}


def describe(result: dict) -> str:
    """A summary in words: 500.0 (95 % [498.1, 500.0] over 16 seeds, worst 497.2)."""
    n, (low, high) = len(result["per_seed"]), result["ci95"]
    if lost := [str(i) for i, x in enumerate(result["per_seed"]) if x is None]:
        return f"unknown: {len(lost)} of {n} seeds diverged to NaN (number {', '.join(lost)})"
    if low is None:
        return f"{result['iqm']:.1f} (1 seed: no interval)"
    worst = result["min"]
    return f"{result['iqm']:.1f} (95 % [{low:.1f}, {high:.1f}] over {n} seeds, worst {worst:.1f})"
