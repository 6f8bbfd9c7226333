"""The on-policy chapter against itself: every surrogate, the same budget, the same tuning.

    python experiments/tournament.py            run what has no record yet; draw and tabulate
    python experiments/tournament.py --draw     draw and tabulate only

One method differs from another in its file alone: network, rollouts, epochs and the grid of
learning rates are those of the environment's class. A unit is a method on an environment: its rate
chosen on seeds from 1000, its result on 16 fresh ones. Each is recorded as it ends, so that a
broken-off run goes on where it was.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from envs.scores import RANGES
from jaxrl.run import catalogue, evidence, record
from jaxrl.run.claims import SEEDS, Arm, measure
from jaxrl.run.stats import difference, interval, iqm

HERE = Path(__file__).parent / "results" / "tournament"
BUDGET = {
    "CartPole-v1": 100_000,
    "Acrobot-v1": 100_000,
    "Pendulum-v1": 100_000,
    "brax/inverted_pendulum": 100_000,
    "Breakout-MinAtar": 150_000,
}
TUNE = {"lr": [3e-4, 1e-3, 3e-3]}
FINAL, AREA = "final_return", "mean episode_return"
METHODS: dict[str, dict] = {  # and what differs from its defaults: no actor lags here
    name: {}
    for name in (
        "ppo",
        "spo",
        "mdpo",
        "brrl",
        "d_ppo",
        "ppo_kl",
        "a2c",
        "discovered_po",
    )
} | {"taypo": {"lag": 0}}


RECORD = HERE / "on_policy.json"  # environment -> method -> unit


def records() -> dict[str, dict[str, dict]]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def known(method: str, env: str) -> dict | None:
    """A unit's record, if it is of this version of the method's file."""
    found = records().get(env, {}).get(method, {})
    now = evidence.sha256(catalogue.find(method))
    return found if found.get("file_sha256") == now else None


def run(method: str, env: str) -> None:
    """Measure a unit and record it."""
    began = time.time()
    arm = Arm(method, METHODS[method], {}, TUNE)
    got = measure(arm, env, BUDGET[env], SEEDS, {FINAL, AREA})
    got |= dict(
        seeds=SEEDS,
        file_sha256=evidence.sha256(catalogue.find(method)),
        wall_seconds=round(time.time() - began, 1),
        versions=record.versions(),
        revision=record.revision(),
        machine=record.machine(),
    )
    everything = records()
    everything.setdefault(env, {})[method] = got
    RECORD.write_text(json.dumps(everything, indent=1) + "\n")
    x = np.array(got["scores"]["final_return"], float)
    print(f"{method} on {env} {got['tuned']}: {iqm(x):.1f} ({got['wall_seconds']} s)", flush=True)


def scores_of(method: str, metric: str) -> np.ndarray:
    """A metric [environments, seeds]; NaN where a unit is missing."""
    units = [known(method, env) for env in BUDGET]
    missing = [np.nan] * SEEDS
    return np.array([u["scores"][metric] if u else missing for u in units], float)


def normalised(x: np.ndarray) -> np.ndarray:
    """Returns [environments, seeds] on the fixed scale of envs/scores.py."""
    low, high = np.array([RANGES[env] for env in BUDGET]).T[:, :, None]
    return (x - low) / (high - low)


def pooled(x: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The interquartile mean over environments and seeds, with its interval."""
    return difference(x, np.zeros_like(x))


def draw(scores: dict[str, np.ndarray], title: str, file: str) -> None:
    """A panel for each environment and one for all: interquartile means with their intervals."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    order = sorted(scores, key=lambda m: pooled(normalised(scores[m]))[0])
    fig, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained", sharey=True)
    panels = ["all, normalised", *BUDGET]
    for k, (ax, name) in enumerate(zip(axes.flat, panels)):
        for i, method in enumerate(order):
            x = scores[method]
            if k == 0:
                mid, (low, high) = pooled(normalised(x))
            else:
                mid, (low, high) = float(iqm(x[k - 1])), interval(x[k - 1])
                ax.plot(x[k - 1], np.full(SEEDS, i), "|", color="#999999", markersize=6)
            color = "#D55E00" if method == "ppo" else "#0072B2"
            ax.plot([low, high], [i, i], color=color, linewidth=2.5, solid_capstyle="butt")
            ax.plot(mid, i, "o", color=color, markersize=5)
        steps = f", {BUDGET[name]:,} steps" if name in BUDGET else ""
        ax.set_title(f"{name}{steps}", fontsize=10)
        ax.set_yticks(range(len(order)), order)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.3)
    about = f"interquartile mean of {SEEDS} seeds, 95 % interval, a tick a seed"
    fig.suptitle(f"{title}: {about}", fontsize=10)
    fig.savefig(HERE / file, dpi=130)
    plt.close(fig)


def table(scores: dict[str, np.ndarray]) -> str:
    """Markdown: each environment, all together, and against PPO."""
    head = ["method", *BUDGET, "all, normalised", "less PPO's"]
    lines = [head, ["---"] * len(head)]
    ppo = normalised(scores["ppo"])
    for method in sorted(scores, key=lambda m: -pooled(normalised(scores[m]))[0]):
        x = scores[method]
        cells = []
        for env, row in zip(BUDGET, x):
            low, high = interval(row)
            unit = known(method, env)
            cells.append(f"{iqm(row):.4g} [{low:.4g}, {high:.4g}], lr {unit['tuned']['lr']:g}")
        mid, (low, high) = pooled(normalised(x))
        gap, (worst, best) = difference(normalised(x), ppo)
        less = "" if method == "ppo" else f"{gap:+.3f} [{worst:+.3f}, {best:+.3f}]"
        lines.append([method, *cells, f"{mid:.3f} [{low:.3f}, {high:.3f}]", less])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TITLES = {
    FINAL: "Final return, acting by the mode",
    AREA: "Return while exploring, mean over the run (how fast it learns)",
}


def write() -> None:
    """The pictures, and the tables between the marks of the page."""
    parts = []
    for metric, title in TITLES.items():
        scores = {m: scores_of(m, metric) for m in METHODS}
        scores = {m: x for m, x in scores.items() if np.isfinite(x).all()}
        file = f"on_policy_{'final' if metric == FINAL else 'area'}.png"
        draw(scores, title, file)
        parts += [f"## {title}", f"![{title}]({file})", table(scores)]
    page, begin, end = HERE / "README.md", "<!-- tables: begin -->", "<!-- tables: end -->"
    text = page.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{end}{after}")


def main(arguments: list[str]) -> None:
    if extra := [a for a in arguments if a != "--draw"]:
        sys.exit(f"tournament: no {extra[0]!r}; there is --draw")
    if not arguments:
        for env in BUDGET:
            for method in METHODS:
                if known(method, env) is None:
                    run(method, env)
    write()


if __name__ == "__main__":
    main(sys.argv[1:])
