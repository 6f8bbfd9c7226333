"""The battery: what every paper must pass, on the smallest problem of its family.

    problems = examine("ppo")        # [] if all is well

A row is one small run. One vmapped program holds them all: two seeds, every traced value of the
hyperparameters times 0.1 and times 10, rewards of nothing, of one and of a million. It shows that

- an iteration is one XLA program, and nothing in it calls back to the host;
- it vmaps over seeds and over every float of the hyperparameters;
- no float is dead: each changes the learned parameters within four iterations, or is declared inert
  in `PAPER["inert"]` with a reason, and then it changes none;
- four iterations are two and two, bit for bit;
- no reward makes a NaN;
- the file keeps to its length.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import envs
from envs.base import Wrapper
from jaxrl import hyper
from jaxrl.run import catalogue
from jaxrl.run.run import advance

ITERATIONS = 4
LINES, WIDTH = 120, 100
TIMES = 0.1, 10.0
OFF = {0.0: (0.1, 1.0), np.inf: (1e-3, 1.0)}  # what stands for them where off is the default
REWARDS = {"reward 0": (0.0, 0.0), "reward 1": (0.0, 1.0), "reward 1e6": (1e6, 0.0)}
QUICK = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}


@struct.dataclass
class Rewarded(Wrapper):
    """A world whose rewards are scaled and shifted."""

    scale: Any = 1.0
    shift: Any = 0.0

    def reset(self, key, n):
        return self.env.reset(key, n)

    def step(self, key, state, action):
        state, s = self.env.step(key, state, action)
        return state, s._replace(reward=self.scale * s.reward + self.shift)


def floats(hp: Any) -> list[str]:
    """The traced values that a person sets."""
    return [name for name in hyper.leaves(hp) if name != "horizon"]


def variants(hp: Any, name: str) -> Iterator[float]:
    """A traced value times 0.1 and times 10, within its bounds."""
    x = float(np.ravel(hyper.leaves(hp)[name])[0])
    bounds = hyper.bounds_of(hp, name)
    low, high = hyper.ends(bounds) if isinstance(bounds, str) else (-np.inf, np.inf)
    for y in OFF.get(x, [times * x for times in TIMES]):
        inside = min(max(y, low), high)
        if not isinstance(bounds, str) or hyper.allowed(inside, bounds):
            yield inside
        else:  # an open end: halfway there
            yield (x + inside) / 2


def rows(hp: Any) -> dict[str, tuple[int, Any, tuple[float, float]]]:
    """(seed, hyperparameters, reward's scale and shift) of each row, by what it is for."""
    plain = (1.0, 0.0)
    out = {"base": (0, hp, plain), "seed": (1, hp, plain)}
    for name in floats(hp):
        for times, x in zip(TIMES, variants(hp, name)):
            value = jnp.full_like(hyper.leaves(hp)[name], x)
            out[f"{name} x {times}"] = (0, hyper.with_leaf(hp, name, value), plain)
    out |= {name: (0, hp, change) for name, change in REWARDS.items()}
    return out | {"again": (0, hp, plain)}  # its distance from the first is the noise of a row


def primitives(jaxpr: Any) -> Iterator[str]:
    """The name of every primitive in a program."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from primitives(getattr(inner, "jaxpr", inner))


def is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def bits(tree: Any) -> list[np.ndarray]:
    """Every leaf as NumPy, keys as their data."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def distance(params: list[np.ndarray], i: int, j: int) -> float:
    """How far two rows' parameters are apart, against their size."""
    gaps = [
        np.max(np.abs(x[i] - x[j]), initial=0.0) / (1e-3 + np.max(np.abs(x[i]), initial=0.0))
        for x in params
        if np.issubdtype(x.dtype, np.floating)
    ]
    return max(gaps, default=0.0)


def file_problems(paper: dict, path: Path) -> Iterator[str]:
    """What is wrong with the length of a paper's file."""
    lines = path.read_text().splitlines()
    if len(lines) > LINES:
        yield f"file: {len(lines)} lines, allowed are {LINES}"
    if wide := [i for i, line in enumerate(lines, 1) if len(line) > WIDTH]:
        yield f"file: line {wide[0]} is wider than {WIDTH}"


def examine(slug: str, *, optimise: bool = False) -> list[str]:
    """What is wrong with a paper (a slug, or a file's path), a line each.

    optimise: compile as a run does; otherwise without XLA's slow passes, in a third of the time.
    """
    paper = catalogue.find(slug)
    module, cls = catalogue.load(slug)
    problems = list(file_problems(paper, catalogue.path(paper)))
    small = cls.smallest()
    small |= {k: small.get(k, {}) | v for k, v in paper.get("battery", {}).items()}
    world = envs.make(small["run"]["env"], **small["env_params"])
    network = hyper.replace(cls.network_for(""), **small["network"])
    hp = hyper.cast(hyper.check(hyper.replace(cls(), **small["hyper"])))
    hp = hp.replace(horizon=jnp.float32(ITERATIONS))
    algo = module.make(world, network)

    cases = rows(hp)
    seeds, hps, rewards = zip(*cases.values())
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    hps = jax.tree.map(lambda *x: jnp.stack(x), *hps)
    scale, shift = jnp.array(rewards).T

    def init(key, hp, scale, shift):
        return algo.init(key, hp, Rewarded(world, scale, shift))

    def go(state, t, n, hp, scale, shift):
        world_ = Rewarded(world, scale, shift)
        return advance(algo, ITERATIONS, state, t, n, hp, world_)

    def program(f, *args):
        traced = jax.jit(f).trace(*args)
        called = {p for p in primitives(traced.jaxpr.jaxpr) if "callback" in p}
        problems.extend(f"program: it calls back to the host ({p})" for p in sorted(called))
        return traced.lower().compile(compiler_options={} if optimise else QUICK)

    start = program(jax.vmap(init), keys, hps, scale, shift)(keys, hps, scale, shift)
    at = jnp.int32
    over = jax.vmap(go, (0, None, None, 0, 0, 0))
    run = program(over, start, at(0), at(0), hps, scale, shift)
    whole, metrics = run(start, at(0), at(4), hps, scale, shift)
    half, _ = run(start, at(0), at(2), hps, scale, shift)
    half, _ = run(half, at(2), at(2), hps, scale, shift)

    if any(x.tobytes() != y.tobytes() for x, y in zip(bits(whole), bits(half))):
        problems.append("resume: 4 iterations are not 2 and 2, bit for bit")
    names = list(cases)
    params = bits(getattr(whole, "params", whole))
    noise = 10 * distance(params, 0, names.index("again")) + 1e-6
    if distance(params, 0, names.index("seed")) <= noise:
        problems.append("seed: another one learns the same parameters")
    inert = paper.get("inert", {})
    for name in floats(hp):
        moved = max(distance(params, 0, names.index(f"{name} x {x}")) for x in TIMES)
        if name not in inert and moved <= noise:
            problems.append(f"{name}: dead: times 0.1 and times 10 learn the same parameters")
        if name in inert and moved > noise:
            problems.append(f"{name}: declared inert ({inert[name]}), but it is not")
    for name in inert:
        if name not in hyper.leaves(hp):
            problems.append(f"{name}: declared inert, but there is no such float")
        elif not inert[name]:
            problems.append(f"{name}: declared inert without a reason")
    for name in ("base", "seed", *REWARDS):
        i = names.index(name)
        lost = any(np.isnan(x[i]).any() for x in bits(whole) if np.issubdtype(x.dtype, np.floating))
        known = {k: v for k, v in metrics.items() if not k.startswith("episode")}
        lost_metrics = [k for k, v in known.items() if np.isnan(np.asarray(v)[i]).any()]
        if lost or lost_metrics:
            where = ", ".join([*(["the state"] if lost else []), *lost_metrics])
            problems.append(f"{name}: NaN in {where}")
    return problems
