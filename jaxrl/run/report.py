"""Pictures of runs. matplotlib is imported where a picture is drawn."""

from pathlib import Path

import numpy as np

from jaxrl.run.stats import interval, iqm

BLUE = "#0072B2"  # Okabe and Ito's palette: told apart by everyone
PALETTE = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # beyond seven methods a colour comes again, dashed


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


def curve(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A run's return while exploring: steps [points], and a curve a seed [seeds, points]."""
    steps, x = thin(arrays["steps"], arrays["episode_return"], 100)
    x = filled(x)
    known = np.isfinite(x).all(0)
    return steps[known], x[:, known]


def learning_curve(path: Path, arrays: dict[str, np.ndarray], title: str) -> None:
    """Return against steps: interquartile mean, its 95 % band over seeds, a thin line a seed."""
    plt = pyplot()
    from matplotlib.ticker import EngFormatter

    steps, x = curve(arrays)
    fig, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    if len(steps):
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


def pyplot():
    """matplotlib, drawing to files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    return plt


def comparison(
    path: Path,
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]],
    bars: dict[str, tuple[float, tuple[float, float]]],
    scale: str,
) -> None:
    """A panel of learning curves for each environment, and one of intervals over all of them.

    Args:
      curves: environment -> method -> (steps [points], return [seeds, points]).
      bars: method -> (interquartile mean, its interval), on one scale.
      scale: what that scale is.
    """
    plt = pyplot()
    from matplotlib.ticker import EngFormatter

    methods = list(dict.fromkeys(m for panel in curves.values() for m in panel))
    look = {
        m: dict(color=PALETTE[i % len(PALETTE)], linestyle=DASHES[i // len(PALETTE) % len(DASHES)])
        for i, m in enumerate(methods)
    }
    count = len(curves) + 1
    columns = min(3, count)
    rows = -(-count // columns)
    size = (4.2 * columns, 3.3 * rows + 0.4)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[count:]:
        ax.axis("off")
    for ax, (env, panel) in zip(axes.flat, curves.items()):
        for method, (steps, x) in panel.items():
            ax.plot(steps, iqm(x), linewidth=2, label=method, **look[method])
            if len(x) > 1:
                band = np.array([interval(column) for column in x.T]).T
                color = look[method]["color"]
                ax.fill_between(steps, *band, color=color, alpha=0.15, linewidth=0)
        ax.set(title=env, xlabel="environment steps of one seed", ylabel="episode return")
        ax.xaxis.set_major_formatter(EngFormatter())
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    ax = axes.flat[count - 1]
    for i, method in enumerate(shown := [m for m in reversed(methods) if m in bars]):
        mid, ends = bars[method]
        ax.plot(ends, [i, i], linewidth=3, solid_capstyle="butt", color=look[method]["color"])
        ax.plot(mid, i, "o", color=look[method]["color"], markersize=7)
    ax.set_yticks(range(len(shown)), shown)
    ax.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    ax.set(title="final return, all environments" if len(curves) > 1 else "final return")
    ax.set_xlabel(scale, fontsize=9, wrap=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.3)
    lines = {line.get_label(): line for a in axes.flat[: count - 1] for line in a.get_lines()}
    handles = [lines[m] for m in methods]
    fig.legend(
        handles, methods, loc="outside lower center", ncols=min(len(methods), 5), frameon=False
    )
    fig.savefig(path, dpi=150)
    plt.close(fig)


def sensitivity(path: Path, rows: list[dict], best: dict) -> None:
    """How the return goes with each parameter of a sweep, and with each two, the others at the best
    point's values.

    Args:
      rows: {point, iqm, ci95} of every point.
      best: the best point.
    """
    plt = pyplot()
    values = {k: list(dict.fromkeys(str(r["point"][k]) for r in rows)) for k in best}
    many = [k for k in best if len(values[k]) > 1]
    pairs = [(a, b) for i, a in enumerate(many) for b in many[i + 1 :]]
    count = max(1, len(many) + len(pairs))
    columns = min(3, count)
    rows_of = -(-count // columns)
    size = (4.2 * columns, 3.4 * rows_of)
    fig, axes = plt.subplots(rows_of, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[count:]:
        ax.axis("off")

    def along(*free):
        """The rows that differ from the best point in these alone."""
        fixed = [k for k in best if k not in free]
        return [r for r in rows if all(str(r["point"][k]) == str(best[k]) for k in fixed)]

    def number(x):
        return np.nan if x is None else x

    for ax, name in zip(axes.flat, many):
        line = along(name)
        at = range(len(line))
        ends = np.array([[number(e) for e in r["ci95"]] for r in line])
        ax.fill_between(at, *ends.T, color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(at, [number(r["iqm"]) for r in line], "o-", color=BLUE, linewidth=2)
        chosen = values[name].index(str(best[name]))
        ax.plot(chosen, number(line[chosen]["iqm"]), "o", color="#D55E00", markersize=9)
        ax.set_xticks(at, [short(r["point"][name]) for r in line], fontsize=8)
        ax.set(xlabel=name, ylabel="final return")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    lines = axes.flat[: len(many)]
    if many:  # one scale: which parameter matters is seen at a glance
        ends = np.array([ax.get_ylim() for ax in lines])
        for ax in lines:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    for ax, (a, b) in zip(axes.flat[len(many) :], pairs):
        plane = np.full((len(values[b]), len(values[a])), np.nan)
        for r in along(a, b):
            i, j = values[b].index(str(r["point"][b])), values[a].index(str(r["point"][a]))
            plane[i, j] = number(r["iqm"])
        image = ax.imshow(plane, origin="lower", aspect="auto", cmap="cividis")
        chosen = values[a].index(str(best[a])), values[b].index(str(best[b]))
        ax.plot(*chosen, "o", color="#D55E00", markersize=9)
        ax.set_xticks(range(len(values[a])), [short(v) for v in values[a]], fontsize=8)
        ax.set_yticks(range(len(values[b])), [short(v) for v in values[b]], fontsize=8)
        ax.set(xlabel=a, ylabel=b)
        fig.colorbar(image, ax=ax, label="final return")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def short(x: object) -> str:
    """A value in a few characters."""
    try:
        return f"{float(str(x)):.3g}"
    except ValueError:
        return str(x)
