"""Pictures of runs. matplotlib is imported where a picture is drawn."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    from matplotlib.ticker import EngFormatter

    steps, x = curve(arrays)
    fig, (ax,) = panels(1)
    fig.set_size_inches(6.4, 4.0)
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
    plain(ax)
    ax.legend(frameon=False)
    fig.savefig(path, dpi=150)


def draw_seeds(ax, steps: np.ndarray, x: np.ndarray) -> None:
    """Curves [seeds, points]: each thin, their interquartile mean, and its interval."""
    ax.plot(steps, x.T, color=BLUE, alpha=0.25, linewidth=0.7)
    ax.plot(steps, iqm(x), color=BLUE, linewidth=2.2, label=f"interquartile mean of {len(x)} seeds")
    if len(x) > 1:
        ax.fill_between(steps, *band(x), color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")


def band(x: np.ndarray) -> np.ndarray:
    """The 95 % interval over seeds at each point of curves [seeds, points]: [2, points]."""
    return np.array([interval(column) for column in x.T]).reshape(-1, 2).T


def plain(ax, along: str = "y") -> None:
    """A panel without a box, with lines of one axis's values."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=along, alpha=0.3)


def panels(count: int, **how: Any):
    """A figure of so many panels, three in a row: (figure, panels [count]). It is none of pyplot's:
    a person's own backend stays what it is."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **how)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, axes.flat[:count]


def wrapped(method: str) -> str:
    """A method and its settings in short lines."""
    return textwrap.fill(method.replace(":", ": ", 1).replace(",", ", "), 24)


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
    from matplotlib.ticker import EngFormatter

    methods = list(dict.fromkeys(m for panel in curves.values() for m in panel))
    look = {
        m: dict(color=PALETTE[i % len(PALETTE)], linestyle=DASHES[i // len(PALETTE) % len(DASHES)])
        for i, m in enumerate(methods)
    }
    fig, axes = panels(len(curves) + 1)
    for ax, (env, panel) in zip(axes, curves.items()):
        for method, (steps, x) in panel.items():
            ax.plot(steps, iqm(x), linewidth=2, label=method, **look[method])
            if len(x) > 1:
                color = look[method]["color"]
                ax.fill_between(steps, *band(x), color=color, alpha=0.15, linewidth=0)
        ax.set(title=env, xlabel="environment steps of one seed", ylabel="episode return")
        ax.xaxis.set_major_formatter(EngFormatter())
        plain(ax)
    ax = axes[-1]
    for i, method in enumerate(shown := [m for m in reversed(methods) if m in bars]):
        mid, ends = bars[method]
        ax.plot(ends, [i, i], linewidth=3, solid_capstyle="butt", color=look[method]["color"])
        ax.plot(mid, i, "o", color=look[method]["color"], markersize=7)
    ax.set_yticks(range(len(shown)), [wrapped(m) for m in shown])
    ax.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    ax.set(title="final return, all environments" if len(curves) > 1 else "final return")
    ax.set_xlabel(scale, fontsize=9, wrap=True)
    plain(ax, "x")
    lines = {line.get_label(): line for a in axes[:-1] for line in a.get_lines()}
    handles = [lines[m] for m in methods]
    names = [wrapped(m) for m in methods]
    longest = max(len(line) for name in names for line in name.splitlines())
    ncols = min(len(names), max(1, int(11 * fig.get_figwidth() / (longest + 6))))
    fig.legend(handles, names, loc="outside lower center", ncols=ncols, frameon=False)
    fig.savefig(path, dpi=150)


def sensitivity(path: Path, rows: list[dict], best: dict) -> None:
    """How the return goes with each parameter of a sweep, and with each two, the others at the best
    point's values.

    Args:
      rows: {point, iqm, ci95} of every point.
      best: the best point.
    """
    values = {k: list(dict.fromkeys(str(r["point"][k]) for r in rows)) for k in best}
    many = [k for k in best if len(values[k]) > 1]
    pairs = [(a, b) for i, a in enumerate(many) for b in many[i + 1 :]]
    fig, axes = panels(max(1, len(many) + len(pairs)))

    def along(*free):
        """The rows that differ from the best point in these alone."""
        fixed = [k for k in best if k not in free]
        return [r for r in rows if all(str(r["point"][k]) == str(best[k]) for k in fixed)]

    for ax, name in zip(axes, many):
        line = along(name)
        at = range(len(line))
        ends = np.array([r["ci95"] for r in line], float)  # None is NaN
        mid = np.array([r["iqm"] for r in line], float)
        ax.fill_between(at, *ends.T, color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(at, mid, "o-", color=BLUE, linewidth=2)
        chosen = values[name].index(str(best[name]))
        ax.plot(chosen, mid[chosen], "o", color="#D55E00", markersize=9)
        ticks(ax.xaxis, [r["point"][name] for r in line])
        ax.set(xlabel=name, ylabel="final return")
        plain(ax)
    lines = axes[: len(many)]
    if many:  # one scale: which parameter matters is seen at a glance
        ends = np.array([ax.get_ylim() for ax in lines])
        for ax in lines:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    for ax, (a, b) in zip(axes[len(many) :], pairs):
        plane = np.full((len(values[b]), len(values[a])), np.nan)
        for r in along(a, b):
            i, j = values[b].index(str(r["point"][b])), values[a].index(str(r["point"][a]))
            plane[i, j] = np.nan if r["iqm"] is None else r["iqm"]
        image = ax.imshow(plane, origin="lower", aspect="auto", cmap="cividis")
        chosen = values[a].index(str(best[a])), values[b].index(str(best[b]))
        ax.plot(*chosen, "o", color="#D55E00", markersize=9)
        ticks(ax.xaxis, values[a])
        ticks(ax.yaxis, values[b])
        ax.set(xlabel=a, ylabel=b)
        fig.colorbar(image, ax=ax, label="final return")
    fig.savefig(path, dpi=150)


def ticks(axis, values: Sequence) -> None:
    """Values along an axis, one after the other; aslant where there are many."""
    tilt = 30 if len(values) > 5 else 0
    axis.set_ticks(range(len(values)), [short(v) for v in values], fontsize=8, rotation=tilt)


def short(x: object) -> str:
    """A value in a few characters."""
    try:
        return f"{float(str(x)):.3g}"
    except ValueError:
        return str(x)


def tune(path: Path, rows: list[dict], best: dict, default: dict, space: dict) -> None:
    """A search: the return of each trial in order, with the best so far, and against each
    parameter.

    Args:
      rows: {number, point, iqm} of every trial; iqm None of one that failed.
      best: the best of them.
      default: the point of the paper's defaults.
      space: name -> "0.1..1:log", "0.1..1:lin" or the list of what was chosen from.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(best["point"])
    fig, (first, *rest) = panels(1 + len(names), sharey=True)
    fine, lost = ([r for r in rows if (r["iqm"] is None) == no] for no in (False, True))
    y = [r["iqm"] for r in fine]
    look = dict(color=BLUE, alpha=0.7, markersize=7, markeredgewidth=0)
    chosen = dict(color=PALETTE[1], markersize=10, zorder=4)

    def panel(ax, x, name):
        """Trials against what x says of each; a failed one is a cross at the foot."""
        ax.plot([x(r) for r in fine], y, "o", label="a trial", **look)
        if lost:
            feet = ax.get_xaxis_transform()
            at = [x(r) for r in lost]
            ax.plot(at, [0.03] * len(lost), "kx", transform=feet, label="failed", clip_on=False)
        ax.plot(x(best), best["iqm"], "o", label="the best", **chosen)
        ax.set_xlabel(name)
        plain(ax)

    panel(first, lambda r: r["number"], "trial")
    so_far = np.maximum.accumulate([*y, -np.inf])  # to the last trial, which may have failed
    order = [*(r["number"] for r in fine), rows[-1]["number"]]
    first.step(order, so_far, where="post", color="black", label="best so far")
    fig.legend(loc="outside lower center", ncols=4, frameon=False)
    for ax, name in zip(rest, names):
        mine = default[name]
        if isinstance(space[name], str):
            panel(ax, lambda r, k=name: r["point"][k], name)
            if space[name].endswith("log"):
                values = [r["point"][name] for r in rows]
                subs = (1, 2, 5) if max(values) < 100 * min(values) else (1,)
                ax.set_xscale("log")
                ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
                ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(lambda x, at: short(x))
        else:
            among = [str(x) for x in space[name]]
            panel(ax, lambda r, k=name, o=among: o.index(str(r["point"][k])), name)
            ax.set_xticks(range(len(among)), [short(x) for x in among])
            ax.set_xlim(-0.5, len(among) - 0.5)
            mine = among.index(str(mine)) if str(mine) in among else None
        if isinstance(mine, int | float):
            ax.axvline(mine, color="black", linestyle=":", linewidth=1.2)
    for ax in (first, *rest)[::3]:
        ax.set_ylabel("final return")
    fig.savefig(path, dpi=150)
