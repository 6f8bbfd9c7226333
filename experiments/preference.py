"""Preference methods against what is known exactly.

    python experiments/preference.py exact     every method with a closed form on twenty problems
    python experiments/preference.py games     duality gaps of self-play, last policy and average
    python experiments/preference.py gold      gold reward against KL: over-optimisation

They write results/preference/*.json and their pictures; the page beside them says what they mean.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from jaxrl import core
from jaxrl.completions import counted, everything, model, task
from jaxrl.hyper import cast, check, replace
from jaxrl.rewards import RewardModel, predicted
from jaxrl.run import catalogue, evidence, record
from jaxrl.run.files import write_whole
from jaxrl.run.stats import finite, interval

HERE = Path(__file__).parent / "results" / "preference"
TWENTY = 20


# ---- exact runs, shared with the tests


def problems(name: str = "preference/gibbs", n: int = TWENTY, **params: Any) -> Any:
    """As many worlds, each of another seed, in one: a prompt each."""
    own = dict(prompts=1) | params
    worlds = [envs.make(name, seed=i, **own) for i in range(n)]
    return jax.tree.map(lambda *x: jnp.stack(x), *worlds)


def exactly(cls: Any, **changes: Any) -> Any:
    """Hyperparameters of the expected loss, a gradient step an iteration unless said."""
    return cast(check(replace(cls.for_env("preference"), **dict(sets=0, updates=1) | changes)))


def over_problems(run: Callable, module: Any, cls: Any, worlds: Any, *each: Any) -> Any:
    """run(algo, key, world, ...) of every problem, in one program."""
    world = jax.tree.map(lambda x: x[0], worlds)
    algo = module.make(world, cls.network_for("preference"))
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(worlds)[0]))
    return jax.jit(jax.vmap(lambda *args: run(algo, *args)))(keys, worlds, *each)


def train(module: Any, cls: Any, worlds: Any, n: int, **changes: Any) -> tuple:
    """The last states, and metrics [problems, n], of n iterations."""
    hp = exactly(cls, **changes)
    run = lambda algo, key, world: core.train(algo, key, hp, world, n)
    state, metrics = over_problems(run, module, cls, worlds)
    return state, {k: np.asarray(v) for k, v in metrics.items()}


def optima(module: Any, cls: Any, worlds: Any, **changes: Any) -> jax.Array:
    """What a method says that it comes to [problems, X, N]."""
    hp = exactly(cls, **changes)
    run = lambda algo, key, world: algo.init(key, hp, world).optimum
    return over_problems(run, module, cls, worlds)


def steps_from(
    module: Any, cls: Any, log_p: jax.Array, worlds: Any, n: int = 1, **changes: Any
) -> tuple:
    """The same as `train` gives, of iterations that begin at policies [problems, X, N]."""
    hp = exactly(cls, **changes)

    def run(algo, key, world, log_p):
        s = algo.init(key, hp, world)
        s = s.replace(params=dict(params={**s.params["params"], "table": log_p}))
        return core.resume(algo, s, 0, hp, world, n)

    state, metrics = over_problems(run, module, cls, worlds, log_p)
    return state, {k: np.asarray(v) for k, v in metrics.items()}


# ---- exact


FIXED = dict(updates=10)  # of a fixed set the policy may go on for a while
CLOSED = {  # slug, what differs from its defaults, environment, β and its gradient steps
    "dpo": ("dpo", FIXED, "gibbs", {0.5: 1000, 0.1: 5000}),
    "psipo": ("psipo", FIXED, "gibbs", {0.5: 1000, 0.1: 5000}),
    "copg": ("copg", FIXED, "gibbs", {0.5: 1000, 0.1: 5000}),
    "exo": ("exo", FIXED, "gibbs", {0.5: 1000, 0.1: 5000}),
    "f_dpo, reverse KL": ("f_dpo", FIXED | dict(divergence="reverse_kl"), "gibbs", {0.5: 1000}),
    "f_dpo, forward KL": ("f_dpo", FIXED | dict(divergence="forward_kl"), "gibbs", {2.0: 2000}),
    "f_dpo, JS": ("f_dpo", FIXED | dict(divergence="js", lr=0.1), "gibbs", {2.0: 8000}),
    "f_dpo, α": ("f_dpo", FIXED | dict(divergence="alpha"), "gibbs", {2.0: 2000}),
    "kl_bayes, reverse": ("kl_bayes", {}, "gibbs", {0.5: 1500}),
    "kl_bayes, forward": ("kl_bayes", dict(objective="forward_kl"), "gibbs", {0.5: 1500}),
    "rebel, after 30 steps of mirror descent": ("rebel", dict(updates=50), "gibbs", {0.5: 1500}),
    "xpo, α = 0": ("xpo", dict(alpha=0.0, remember=1, updates=10), "gibbs", {0.5: 1500}),
    "sft": ("sft", FIXED, "gibbs", {0.5: 1000}),
    "best_of_n, n = 2": ("best_of_n", FIXED | dict(responses=2), "gibbs", {0.5: 1000}),
    "online_ipo": ("online_ipo", {}, "game", {0.5: 1500}),
    "egpo": ("egpo", dict(lr=2.5), "game", {0.5: 1000, 0.1: 4000}),
    "nash_mp": ("nash_mp", dict(updates=20), "game", {0.5: 2000}),
    "inpo": ("inpo", dict(updates=20), "game", {0.5: 2000}),
}


def close(name: str) -> dict:
    """How near a method comes to its optimum on twenty problems of 64 responses, and its gradient
    there."""
    slug, changes, env, steps = CLOSED[name]
    module, cls = catalogue.load(slug)
    worlds, out = problems(f"preference/{env}"), {}
    for beta, n in steps.items():
        began, own = time.time(), dict(changes, beta=beta)
        updates = own.get("updates", 1)
        _, m = train(module, cls, worlds, n // updates, **own)
        best = optima(module, cls, worlds, **own)
        there = steps_from(module, cls, best, worlds, **own | dict(updates=1))[1]["grad_norm"]
        tv = m["tv"][:, -1]
        out[f"β = {beta}"] = dict(
            gradient_steps=n,
            tv_largest=finite(tv.max()),
            tv_median=finite(np.median(tv)),
            tv_first=finite(m["tv"][:, 0].max()),
            gradient_at_optimum=finite(there[:, 0].max()),
            gradient_at_start=finite(m["grad_norm"][:, 0].max()),
            wall_seconds=round(time.time() - began, 1),
        )
        print(name, f"β {beta}", out[f"β = {beta}"], flush=True)
    sha = evidence.sha256(catalogue.find(slug))
    return out | dict(paper=slug, env=env, changes=changes, file_sha256=sha)


def exact() -> dict:
    return dict(problems=TWENTY, responses=64, methods={name: close(name) for name in CLOSED})


# ---- games


PLAY = {  # slug and what differs from its defaults
    "online IPO": ("online_ipo", {}),
    "EGPO": ("egpo", {}),
    "Nash-MP": ("nash_mp", dict(updates=20)),
    "INPO": ("inpo", {}),
    "DNO": ("dno", {}),
    "SPO": ("self_play_po", dict(responses=2, candidates=0)),
    "DPO, fixed pairs": ("dpo", FIXED),
}
BETAS = 0.0, 0.01, 0.1
LEAST = 1e-3  # of what divides by β, where it is to be 0


def played(env: str, beta: float, iterations: int) -> dict:
    """Gaps of each method, the mean over twenty games, of the last policy and of the average."""
    out = {}
    for name, (slug, changes) in PLAY.items():
        module, cls = catalogue.load(slug)
        worlds = problems(env, length=2) if env == "preference/game" else only(env)
        own = dict(changes, beta=max(beta, LEAST))
        if slug == "egpo":  # a step of 0.16 on the logits, however many responses there are
            own["lr"] = 0.04 * task(worlds).preferences.shape[-1]
        if slug == "nash_mp":  # its theorem's step
            own["eta"] = max(2 * beta, 0.02)
        _, m = train(module, cls, worlds, iterations, **own)
        out[name] = dict(paper=slug, changes=own, **gaps(m, "" if beta else "_plain"))
        print(env, beta, name, out[name]["last"][-1], out[name]["average"][-1], flush=True)
    return out


def gaps(m: dict[str, np.ndarray], tail: str) -> dict:
    """Mean gaps of the last policy and of the average, at points evenly spaced in log t."""
    n = m["gap"].shape[1]
    at = np.unique(np.geomspace(1, n, 60).astype(int))
    curve = lambda k: finite(np.maximum(m[k + tail], 0.0).mean(0)[at - 1])
    return dict(at=at.tolist(), last=curve("gap"), average=curve("gap_average"))


def only(env: str) -> Any:
    """The one problem of its name, as twenty are."""
    return jax.tree.map(lambda x: x[None], envs.make(env))


def games() -> dict:
    out = {}
    for env in ("preference/cycle", "preference/game"):
        for beta in BETAS:
            out[f"{env}, β = {beta:g}"] = played(env, beta, 1000)
    return dict(games=out)


# ---- gold


PPO = dict(lr=5e-4, beta=0.0, prompts=32)
DPO = dict(lr=5e-4, beta=0.03, minibatch=64, updates=5)
KINDS = {  # a method and what differs from its defaults
    "RLHF, 256 pairs": ("rlhf", PPO | dict(reward_pairs=256)),
    "RLHF, 1,024 pairs": ("rlhf", PPO | dict(reward_pairs=1024)),
    "RLHF, 1,024 pairs, four models": ("rlhf", PPO | dict(reward_pairs=1024, reward_models=4)),
    "DPO, 256 pairs": ("dpo", DPO | dict(sets=256)),
    "DPO, 1,024 pairs": ("dpo", DPO | dict(sets=1024)),
}
ITERATIONS = 144
SIZE = dict(prompts=16, length=3)
POINTS, SEEDS = 24, 10


def over_optimised(slug: str, changes: dict, iterations: int) -> dict[str, np.ndarray]:
    """Gold and proxy rewards and the KL, all exact, at points of a run [seeds, points]."""
    module, cls = catalogue.load(slug)
    world = envs.make("preference/gold", **SIZE)
    network = replace(cls.network_for("tokens"), hidden=(32, 32))
    algo, net, game = module.make(world, network), model(world, network), task(world)
    hp = cast(check(replace(cls.for_env("tokens"), **changes)))
    hp = hp.replace(horizon=jnp.float32(iterations))
    each = iterations // POINTS

    def told(s, first):
        log_p, R = everything(net, s.params, game)
        ref, p = everything(net, first, game)[0], jnp.exp(log_p)
        out = dict(gold=(p * R).sum(-1).mean(), kl=(p * (log_p - ref)).sum(-1).mean())
        if s.reward != ():
            said = predicted(RewardModel(game.vocabulary), s.reward, counted(game).tokens)
            said = said.reshape(R.shape)
            level = (jnp.exp(ref) * (said - R)).sum(-1, keepdims=True)  # no preference tells it
            out["proxy"] = (p * (said - level)).sum(-1).mean()
        return out

    def run(key):
        s = algo.init(key, hp, world)
        first = s.params

        def on(s, i):
            s, _ = core.resume(algo, s, i * each, hp, world, each)
            return s, told(s, first)

        start = told(s, first)
        _, rest = jax.lax.scan(on, s, jnp.arange(POINTS))
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), start, rest)

    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    return jax.tree.map(np.asarray, jax.jit(lambda k: jax.lax.map(run, k))(keys))


def gold() -> dict:
    methods = {}
    for name, (slug, changes) in KINDS.items():
        began = time.time()
        x = over_optimised(slug, changes, ITERATIONS)
        peak = x["gold"].max(1) - np.maximum(x["gold"][:, 0], x["gold"][:, -1])
        methods[name] = dict(
            paper=slug,
            changes=changes,
            iterations=ITERATIONS,
            **{k: finite(v.mean(0)) for k, v in x.items()},
            gold_ci95=[interval(v, np.mean) for v in x["gold"].T],
            kl_at_peak=finite(x["kl"].mean(0)[x["gold"].mean(0).argmax()]),
            peak_above_both_ends=finite(peak.mean()),
            peak_ci95=interval(peak, np.mean),
            mean_curve_peak_above_end=finite(x["gold"].mean(0).max() - x["gold"].mean(0)[-1]),
            wall_seconds=round(time.time() - began, 1),
        )
        shown = ("kl", "gold", "proxy", "kl_at_peak", "peak_above_both_ends", "peak_ci95")
        print(name, {k: methods[name].get(k) for k in shown}, flush=True)
    return dict(
        env="preference/gold", env_params=SIZE, hidden=[32, 32], seeds=SEEDS, methods=methods
    )


# ---- pictures


def draw_games(out: dict, file: Path, plt: Any) -> None:
    """A row a game, a column a β; whole lines are the last policy, dashed ones the average."""
    games = list(dict.fromkeys(name.split(",")[0] for name in out["games"]))
    figure, axes = plt.subplots(len(games), len(BETAS), figsize=(13, 7), squeeze=False)
    for ax, (title, methods) in zip(axes.ravel(), out["games"].items()):
        for i, (name, m) in enumerate(methods.items()):
            floor = lambda x: np.maximum(np.array(x, float), 1e-7)
            ax.loglog(m["at"], floor(m["last"]), color=f"C{i}", label=name)
            ax.loglog(m["at"], floor(m["average"]), color=f"C{i}", ls="--", lw=1)
        ax.set(title=title.removeprefix("preference/"), ylim=(1e-7, 2))
    for ax in axes[:, 0]:
        ax.set_ylabel("duality gap")
    for ax in axes[-1]:
        ax.set_xlabel("iteration")
    axes[0, 0].legend(fontsize=7, title="last; dashed: average", title_fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def draw_gold(out: dict, file: Path, plt: Any) -> None:
    figure, ax = plt.subplots(figsize=(9, 4))
    for i, (name, m) in enumerate(out["methods"].items()):
        low, high = np.array(m["gold_ci95"]).T
        ax.plot(m["kl"], m["gold"], color=f"C{i}", marker=".", label=name)
        ax.fill_between(m["kl"], low, high, color=f"C{i}", alpha=0.2)
        if "proxy" in m:
            ax.plot(m["kl"], m["proxy"], color=f"C{i}", ls=":", label=f"{name}: by its model")
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="E[reward]", title=f"gold, {SEEDS} seeds")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main(name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    HERE.mkdir(parents=True, exist_ok=True)
    about = dict(versions=record.versions(), revision=record.revision(), machine=record.machine())
    out = dict(exact=exact, games=games, gold=gold)[name]() | about
    write_whole(HERE / f"{name}.json", json.dumps(out, indent=1, ensure_ascii=False) + "\n")
    if drawing := dict(games=draw_games, gold=draw_gold).get(name):
        drawing(out, HERE / f"{name}.png", plt)


if __name__ == "__main__":
    main(sys.argv[1])
