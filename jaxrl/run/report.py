"""Pictures of runs. matplotlib is imported where a picture is drawn."""

from pathlib import Path

import numpy as np

from jaxrl.run.stats import interval, iqm

BLUE = "#0072B2"  # Okabe and Ito's palette: told apart by everyone


def filled(x: np.ndarray) -> np.ndarray:
    """Curves [seeds, points] without gaps: where nothing finished, the last value that did."""
    last = np.maximum.accumulate(np.where(np.isfinite(x), np.arange(x.shape[1]), 0), 1)
    return np.take_along_axis(x, last, 1)


def thin(steps: np.ndarray, x: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` points of curves [seeds, n], each the mean of what it stands for."""
    groups = np.array_split(np.arange(x.shape[1]), min(points, x.shape[1]))
    with np.errstate(invalid="ignore"):
        means = [
            np.where(np.isfinite(x[:, g]), x[:, g], 0).sum(1) / np.isfinite(x[:, g]).sum(1)
            for g in groups
        ]
    return np.array([steps[g[-1]] for g in groups]), np.stack(means, 1)


def learning_curve(path: Path, arrays: dict[str, np.ndarray], title: str) -> None:
    """Return against steps: interquartile mean, its 95 % band over seeds, a thin line a seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    steps, x = thin(arrays["steps"], arrays["episode_return"], 100)
    x = filled(x)
    known = np.isfinite(x).all(0)
    steps, x = steps[known], x[:, known]
    fig, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    if known.any():
        draw_seeds(ax, steps, x)
    mode = arrays["eval_return"]
    ax.plot(
        arrays["eval_steps"],
        iqm(mode),
        "o",
        color="#D55E00",
        markersize=4,
        label="acting by its mode",
    )
    ax.set(title=title, xlabel="environment steps of one seed", ylabel="episode return")
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def draw_seeds(ax, steps: np.ndarray, x: np.ndarray) -> None:
    """Curves [seeds, points]: each thin, their interquartile mean, and its interval."""
    ax.plot(steps, x.T, color=BLUE, alpha=0.25, linewidth=0.7)
    ax.plot(steps, iqm(x), color=BLUE, linewidth=2.2, label=f"interquartile mean of {len(x)} seeds")
    if len(x) > 1:
        band = np.array([interval(column) for column in x.T]).T
        ax.fill_between(steps, *band, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
