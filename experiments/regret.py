"""Regret over thousands of runs at once: the curves, and the powers of T that they grow by.

    python experiments/regret.py [NAME ...]    run these (all), record them, draw them

A study's methods run on one environment, each with the setting that its claim chose on other seeds
(`experiments/results/claims/`); all runs of a method are one vmapped program. A record has the mean
regret at points evenly spaced in log T, its 95 % interval over seeds, and the slope of its
logarithm over the second half of these points (`jaxrl.run.stats.slope`): 1 is linear, 1/2 is √T, 0
stands still. A regret that may fall (under an adversary) is drawn as the largest so far. A rate
that is fixed by the run's T makes a curve of that run: its power is not the one by which regret
grows with T.
"""

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import envs
from jaxrl.hyper import cast, replace
from jaxrl.run import catalogue, evidence, record
from jaxrl.run.run import WIDE
from jaxrl.run.stats import finite, interval, slope

HERE = Path(__file__).parent / "results" / "regret"
SEEDS, POINTS = 1024, 25


class Study(NamedTuple):
    env: str
    steps: int  # of one run
    methods: dict[str, tuple[str, dict]]  # name: slug, and what differs from its defaults
    largest: bool = False  # so far, where regret may fall


FIXED = dict(regulariser="shannon", rate="fixed")
BOTH = {
    "Tsallis": ("best_of_both_worlds_po", dict(lr=8.0)),
    "Shannon": ("best_of_both_worlds_po", dict(lr=8.0, regulariser="shannon")),
    "exponential weights, fixed rate": ("best_of_both_worlds_po", dict(lr=8.0) | FIXED),
}
STUDIES = {
    "stochastic": Study("tabular/steady", 20_000, BOTH),
    "adversarial": Study("tabular/switching", 20_000, BOTH, largest=True),
    "riverswim": Study(
        "tabular/riverswim",
        50_000,
        {
            "RAVI-UCB": ("ravi_ucb", dict(beta=0.3)),
            "optimistic value iteration": ("ravi_ucb", dict(beta=0.3, eta=float("inf"))),
            "ε-greedy": ("ravi_ucb", dict(beta=0.0, eta=float("inf"), epsilon=0.03)),
        },
    ),
}


def curves(slug: str, changes: dict, env: str, steps: int, seeds: int) -> tuple:
    """Regrets [seeds, points] of one method, and the steps [points] where they were read."""
    module, cls = catalogue.load(slug)
    world = envs.make(env)
    hp = replace(cls.for_env("tabular"), **changes)
    n = steps // hp.steps_per_iteration
    algo, hp = module.make(world, cls.network_for("tabular")), cast(hp.replace(horizon=float(n)))
    at = np.unique(np.geomspace(n / 200, n, POINTS).astype(int))

    def run(key):
        def on(carry, bounds):
            """To the next point; the largest on the way, and the last."""

            def one(t, carry):
                s, most, _ = carry
                s, m = algo.step(s, t, hp, world)
                return s, jnp.maximum(most, m["regret"]), m["regret"]

            carry = jax.lax.fori_loop(*bounds, one, carry)
            return carry, carry[1:]

        begin = (algo.init(key, hp, world), jnp.float32(-jnp.inf), jnp.float32(0.0))
        return jax.lax.scan(on, begin, (jnp.array([0, *at[:-1]]), jnp.array(at)))[1]

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    options = WIDE if jax.default_backend() == "cpu" else None
    program = jax.jit(jax.vmap(run), compiler_options=options)
    most, last = jax.device_get(program(keys))
    return most, last, at * hp.steps_per_iteration


def measure(study: Study, seeds: int = SEEDS) -> dict:
    """A study's record."""
    methods: dict[str, dict] = {}
    for name, (slug, changes) in study.methods.items():
        began = time.time()
        most, last, at = curves(slug, changes, study.env, study.steps, seeds)
        x, half = most if study.largest else last, len(at) // 2
        power, between = slope(x[:, half:], at[half:])
        methods[name] = dict(
            paper=slug,
            hyper={k: "inf" if v == np.inf else v for k, v in changes.items()},
            file_sha256=evidence.sha256(catalogue.find(slug)),
            at=at.tolist(),
            regret=finite(x.mean(0)),
            ci95=[interval(y, np.mean) for y in x.T],
            slope=power,
            slope_ci95=between,
            slope_from=int(at[half]),
            wall_seconds=round(time.time() - began, 1),
        )
        print(f"{study.env} {name}: {x[:, -1].mean():.1f}, slope {power:.2f} {between}", flush=True)
    kind = "the largest regret so far" if study.largest else "regret"
    about = dict(versions=record.versions(), revision=record.revision(), machine=record.machine())
    what = f"{kind}: mean over seeds, 95 % bootstrap interval"
    out = dict(env=study.env, steps=study.steps, seeds=seeds, first_seed=0, what=what)
    return out | about | dict(methods=methods)


def draw(name: str, study: dict, file: Path) -> None:
    """The curves of a record, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for label, m in study["methods"].items():
        low, high = np.array(m["ci95"]).T
        (line,) = axes.loglog(m["at"], m["regret"], label=f"{label}: T^{m['slope']:.2f}")
        axes.fill_between(m["at"], low, high, alpha=0.2, color=line.get_color())
    axes.set(xlabel="T", ylabel=study["what"].split(":")[0])
    axes.set_title(f"{study['env']}, {study['seeds']} runs each")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(names: list[str]) -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    for name in names or STUDIES:
        study = measure(STUDIES[name])
        (HERE / f"{name}.json").write_text(json.dumps(study, indent=1) + "\n")
        draw(name, study, HERE / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
