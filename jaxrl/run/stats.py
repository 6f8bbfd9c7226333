"""Honest statistics over seeds: the seed is the unit of replication, never the episode."""

from typing import Any

import numpy as np


def iqm(x, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264)."""
    x = np.sort(x, axis)
    tail = x.shape[axis] // 4
    middle = np.take(x, range(tail, x.shape[axis] - tail), axis).mean(axis)
    return np.where(np.isnan(x).any(axis=axis), np.nan, middle)  # not trimmed away with the tail


def interval(x, statistic=iqm, draws: int = 2000) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval over seeds, x [seeds]; (nan, nan) of one seed."""
    x = np.asarray(x, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    index = np.random.default_rng(0).integers(0, len(x), (draws, len(x)))
    low, high = np.percentile(statistic(x[index], axis=1), [2.5, 97.5])
    return float(low), float(high)


def stratified(x: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Bootstrap draws [draws, strata, n] of scores [strata, n]: seeds anew within each stratum."""
    index = np.random.default_rng(seed).integers(0, x.shape[1], (draws, *x.shape))
    return np.take_along_axis(x[None], index, 2)


def difference(x, y, draws: int = 2000) -> tuple[float, tuple[float, float]]:
    """The interquartile mean of x less that of y, with its 95 % interval.

    x, y: [strata, seeds], environments on one scale; (nan, nan) of one seed. Seeds are drawn anew
    within each stratum and each of x and y by itself, since two methods' runs are not pairs.
    """

    def pooled(z):
        return iqm(z.reshape(*z.shape[:-2], -1), axis=-1)

    x, y = np.atleast_2d(np.asarray(x, float)), np.atleast_2d(np.asarray(y, float))
    if min(x.shape[-1], y.shape[-1]) < 2:
        return float(pooled(x) - pooled(y)), (float("nan"), float("nan"))
    gaps = pooled(stratified(x, draws, 0)) - pooled(stratified(y, draws, 1))
    low, high = np.percentile(gaps, [2.5, 97.5])
    return float(pooled(x) - pooled(y)), (float(low), float(high))


def improvement(x, y) -> float:
    """The probability that a run of x scores more than one of y on the same environment, ties half
    (Mann and Whitney's U over n m; the mean over strata). x, y: [strata, seeds]."""
    x, y = np.atleast_2d(np.asarray(x, float)), np.atleast_2d(np.asarray(y, float))
    more, same = x[:, :, None] > y[:, None], x[:, :, None] == y[:, None]
    return float((more + 0.5 * same).mean((1, 2)).mean())


def slope(curves, at, statistic=np.mean, draws: int = 2000) -> tuple[float, tuple[float, float]]:
    """The least-squares slope of log E[curve] over log `at`, with its 95 % interval over seeds.

    curves: [seeds, points], such as a regret so far; at: [points], where it was read. 1/2 is √T, 1
    is linear, and a curve that stops growing comes to 0. What is fitted is the statistic of the
    seeds at each point, and whole curves are drawn anew. (nan, nan) of one seed; NaN where a
    statistic is not above 0.
    """
    curves, x = np.asarray(curves, float), np.log(np.asarray(at, float))
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()

    def fitted(y):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(np.where(y > 0, y, np.nan)) @ weights

    if len(curves) < 2:
        return float(fitted(statistic(curves, axis=0))), (float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = (
        statistic(curves[i], axis=0) for i in rng.integers(0, len(curves), (draws, len(curves)))
    )
    low, high = np.percentile([fitted(y) for y in drawn], [2.5, 97.5])
    return float(fitted(statistic(curves, axis=0))), (float(low), float(high))


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


def score(per_seed, references: dict[str, float]) -> dict:
    """The summary of returns normalised as D4RL's are: 0 as a random policy's, 100 as an expert's
    (Fu et al. 2020, arXiv 2004.07219)."""
    low, high = references["random"], references["expert"]
    return summarise(100 * (np.asarray(per_seed, float) - low) / (high - low))


def describe(result: dict) -> str:
    """A summary in words: 500.0 (95 % [498.1, 500.0] over 16 seeds, worst 497.2)."""
    more = result.get("objectives", {}) | {k: result[k] for k in ("score",) if k in result}
    others = "".join(f"; {k} {describe(x)}" for k, x in more.items())
    n, (low, high) = len(result["per_seed"]), result["ci95"]
    if lost := [str(i) for i, x in enumerate(result["per_seed"]) if x is None]:
        return f"unknown: {len(lost)} of {n} seeds diverged to NaN (number {', '.join(lost)})"
    if low is None:
        return f"{result['iqm']:.1f} (1 seed: no interval){others}"
    between = f"(95 % [{low:.1f}, {high:.1f}] over {n} seeds, worst {result['min']:.1f})"
    return f"{result['iqm']:.1f} {between}{others}"
