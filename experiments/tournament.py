"""Tournaments: a chapter against itself, every method at the same budget and with the same tuning.

    python experiments/tournament.py NAME            on_policy or reasoning: run what has no record
                                                     yet; draw and tabulate
    python experiments/tournament.py NAME --draw     draw and tabulate only

One method differs from another in its file alone: all else is the default of the environment's
class. A unit is a method on a task: its rate chosen on seeds from 1000, its result on fresh ones.
Each is recorded as it ends, so that a broken-off run goes on where it was.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.scores import RANGES
from jaxrl.run import catalogue, evidence, record
from jaxrl.run.arms import EMPTY, Arm, Asked, once
from jaxrl.run.claims import SEEDS, read
from jaxrl.run.files import write_whole
from jaxrl.run.stats import difference, interval, iqm

HERE = Path(__file__).parent / "results" / "tournament"


class Task(NamedTuple):
    """An environment, and how long a seed learns on it."""

    env: str
    steps: int
    params: Mapping = EMPTY


class Metric(NamedTuple):
    """What is compared."""

    title: str
    file: str  # its picture, after the tournament's name; "": none, and nothing over all tasks


class Tournament(NamedTuple):
    """Who plays, and for what."""

    baseline: str
    tasks: dict[str, Task]
    methods: dict[str, Arm]
    metrics: dict[str, Metric]
    by: str = "final_return"  # what a rate is chosen by
    seeds: int = SEEDS


def on_policy() -> Tournament:
    tune = {"lr": [3e-4, 1e-3, 3e-3]}
    names = ("ppo", "spo", "mdpo", "brrl", "d_ppo", "ppo_kl", "a2c", "discovered_po")
    methods = {name: Arm(name, {}, {}, tune) for name in names}
    steps = {
        "CartPole-v1": 100_000,
        "Acrobot-v1": 100_000,
        "Pendulum-v1": 100_000,
        "brax/inverted_pendulum": 100_000,
        "Breakout-MinAtar": 150_000,
    }
    metrics = {
        "final_return": Metric("Final return, acting by the mode", "final"),
        "mean episode_return": Metric(
            "Return while exploring, mean over the run (how fast it learns)", "area"
        ),
    }
    tasks = {env: Task(env, n) for env, n in steps.items()}
    lagless = Arm("taypo", {"lag": 0}, {}, tune)  # no actor lags here
    return Tournament("ppo", tasks, methods | {"taypo": lagless}, metrics)


def reasoning() -> Tournament:
    """Each method as in its own claim, so that on sums of two digits its units are the claim's."""
    names = [  # l1 is not among them: its prompts ask for a length
        *("grpo", "dapo", "dr_grpo", "reinforce_pp", "token_ppo", "rloo", "remax", "gpg", "bnpo"),
        *("nsr", "lite_ppo", "gvpo", "a_star_po", "tbrm", "vc_ppo", "vapo", "t_ppo", "nft"),
        *("difficulty_filtering", "single_stream_po", "prefix_grouper", "disco", "r2vpo"),
        *("regularised_pg", "ce_gppo"),
    ]
    methods = {name: read(name).arms[name] for name in names}
    tune = methods["grpo"].tune
    methods["ce_gppo"] = methods["ce_gppo"]._replace(tune=methods["nft"].tune)  # its claim's is one
    methods |= {
        "start": read("grpo").arms["start"],
        "grpo, 8 steps": read("nft").arms["grpo"],  # of an iteration, as those beside it have them
        "grpo, groups of 2": Arm("grpo", {"prompts": 512, "group": 2}, {}, tune),
    }
    tasks = {
        "sums of two digits": Task("tokens/add", 51_200),
        "sorting five": Task("tokens/sort", 15_360, {"length": 5}),
        "sums of three digits": Task("tokens/add", 25_600, {"digits": 3}),
    }
    metrics = {
        "final sampled": Metric("pass@1", "pass_at_1"),
        "final pass_at_8": Metric("pass@8", "pass_at_8"),
        "final_return": Metric("By the mode", ""),
        "last entropy": Metric("Entropy of a token, in nats", ""),
        "last response_length": Metric("Length of a completion", ""),
    }
    return Tournament("grpo", tasks, methods, metrics, "last episode_return", 10)


TOURNAMENTS = {f.__name__: f for f in (on_policy, reasoning)}


class Played:
    """A tournament with its record: task -> method -> unit."""

    def __init__(self, name: str):
        self.name, self.what = name, TOURNAMENTS[name]()
        self.file = HERE / f"{name}.json"
        self.units = json.loads(self.file.read_text()) if self.file.exists() else {}

    def known(self, task: str, method: str) -> dict | None:
        """A unit's record, if it is of this version of the method's file."""
        found = self.units.get(task, {}).get(method, {})
        now = evidence.sha256(catalogue.find(self.what.methods[method].paper))
        return found if found.get("file_sha256") == now else None

    def run(self, task: str, method: str) -> None:
        """Measure a unit and record it."""
        what, (env, steps, params) = self.what, self.what.tasks[task]
        arm, metrics = what.methods[method], set(what.metrics) | {"final_return"}
        got = once(Asked(arm, env, steps, what.seeds, metrics, what.by, params))
        got["scores"] = {k: got["scores"][k] for k in sorted(metrics)}
        got |= dict(
            seeds=what.seeds,
            file_sha256=evidence.sha256(catalogue.find(arm.paper)),
            versions=record.versions(),
            revision=record.revision(),
        )
        self.units.setdefault(task, {})[method] = got
        write_whole(self.file, json.dumps(self.units, indent=1) + "\n")
        x = np.array(got["scores"][next(iter(what.metrics))], float)
        print(
            f"{method}, {task} {got['tuned']}: {iqm(x):.4g} ({got['wall_seconds']} s)", flush=True
        )

    def scores(self, metric: str) -> dict[str, np.ndarray]:
        """A metric [tasks, seeds] of every method that has played them all."""
        out = {}
        for method in self.what.methods:
            units = [self.known(task, method) for task in self.what.tasks]
            if all(units):
                x = np.array([u["scores"][metric] for u in units if u], float)
                out |= {method: x} if np.isfinite(x).all() else {}
        return out

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Returns [tasks, seeds] on the scale of envs/scores.py; shares are on one already."""
        spans = [RANGES.get(task.env, (0.0, 1.0)) for task in self.what.tasks.values()]
        low, high = np.array(spans).T[:, :, None]
        return (x - low) / (high - low)


def pooled(x: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The interquartile mean over tasks and seeds, with its interval."""
    return difference(x, np.zeros_like(x))


def draw(played: Played, scores: dict[str, np.ndarray], title: str, file: str) -> None:
    """A panel for each task and one for all: interquartile means with their intervals."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    what = played.what
    order = sorted(scores, key=lambda m: pooled(played.scaled(scores[m]))[0])
    panels = ["all, normalised" if what.tasks.keys() & RANGES.keys() else "all", *what.tasks]
    rows = -(-len(panels) // 4)
    across = -(-len(panels) // rows)
    size = (3.7 * across, rows * (1.2 + 0.24 * len(order)))
    fig, axes = plt.subplots(rows, across, figsize=size, layout="constrained", sharey=True)
    for k, (ax, name) in enumerate(zip(axes.flat, panels)):
        mids = []
        for i, method in enumerate(order):
            x = scores[method]
            if k == 0:
                mid, (low, high) = pooled(played.scaled(x))
            else:
                mid, (low, high) = float(iqm(x[k - 1])), interval(x[k - 1])
                ax.plot(x[k - 1], np.full(what.seeds, i), "|", color="#999999", markersize=6)
            color = "#D55E00" if method == what.baseline else "#0072B2"
            ax.plot([low, high], [i, i], color=color, linewidth=2.5, solid_capstyle="butt")
            ax.plot(mid, i, "o", color=color, markersize=5)
            mids.append(mid)
        second, span = sorted(mids)[1], max(mids) - sorted(mids)[1]
        if (last := mids.index(min(mids))) == 0 and second - mids[0] > span:  # it is off the scale
            ax.set_xlim(left=second - 0.25 * span)
            ax.text(second - 0.23 * span, last, f"← {mids[0]:.2g}", va="center", fontsize=8)
        steps = f", {what.tasks[name].steps:,} steps" if name in what.tasks else ""
        ax.set_title(f"{name}{steps}", fontsize=10)
        ax.set_yticks(range(len(order)), order)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.3)
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    about = f"interquartile mean of {what.seeds} seeds, 95 % interval, a tick a seed"
    fig.suptitle(f"{title}: {about}", fontsize=10)
    fig.savefig(HERE / file, dpi=130)
    plt.close(fig)


def table(played: Played, scores: dict[str, np.ndarray], over_all: bool) -> str:
    """Markdown: each task, and where it is asked for all together, and against the baseline."""
    what, over = played.what, []
    whole = {m: played.scaled(x) for m, x in scores.items()}
    if over_all:
        over = ["all, normalised", f"less {what.baseline}'s"]
    head = ["method", *what.tasks, *over]
    lines = [head, ["---"] * len(head)]
    for method in sorted(scores, key=lambda m: -pooled(whole[m])[0]):
        cells = []
        for task, row in zip(what.tasks, scores[method]):
            low, high = interval(row)
            tuned = (played.known(task, method) or {})["tuned"]
            point = ", ".join(f"{k} {v:g}" for k, v in tuned.items())
            cells.append(f"{iqm(row):.4g} [{low:.4g}, {high:.4g}]" + f", {point}" * over_all)
        if over_all:
            mid, (low, high) = pooled(whole[method])
            gap, (worst, best) = difference(whole[method], whole[what.baseline])
            less = "" if method == what.baseline else f"{gap:+.3f} [{worst:+.3f}, {best:+.3f}]"
            cells += [f"{mid:.3f} [{low:.3f}, {high:.3f}]", less]
        lines.append([method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(played: Played) -> None:
    """The pictures, and the tables between the marks of the page."""
    parts = []
    for name, metric in played.what.metrics.items():
        scores = played.scores(name)
        parts.append(f"## {metric.title}")
        if metric.file:
            file = f"{played.name}_{metric.file}.png"
            draw(played, scores, metric.title, file)
            parts.append(f"![{metric.title}]({file})")
        parts.append(table(played, scores, bool(metric.file)))
    page, begin, end = HERE / f"{played.name}.md", "<!-- tables: begin -->", "<!-- tables: end -->"
    text = page.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    write_whole(page, f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{end}{after}")


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if a != "--draw"]
    if len(names) != 1 or names[0] not in TOURNAMENTS:
        sys.exit(f"tournament: one of {', '.join(TOURNAMENTS)}, and --draw or not; not {names}")
    played = Played(names[0])
    if "--draw" not in arguments:
        for task in played.what.tasks:
            for method in played.what.methods:
                if played.known(task, method) is None:
                    played.run(task, method)
    write(played)


if __name__ == "__main__":
    main(sys.argv[1:])
