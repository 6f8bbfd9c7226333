"""The battery: what every paper must pass, on the smallest problem of its family.

    problems = examine("ppo")        # [] if all is well

A row is one small run. One vmapped program holds them all: two seeds, every traced value of the
hyperparameters times 0.1 and times 10, rewards of nothing, of one and of a million. It shows that

- an iteration is one XLA program, and nothing in it calls back to the host;
- it vmaps over seeds and over every float of the hyperparameters;
- no float is dead: each changes the learned parameters within four iterations, or is declared inert
  in `PAPER["inert"]` with a reason, and then it changes none;
- four iterations are two and two, with a checkpoint between, bit for bit;
- no reward makes a NaN;
- the file keeps to its length.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import envs
from envs.base import Wrapper
from jaxrl import hyper
from jaxrl.rollout import known
from jaxrl.run import catalogue, checkpoint
from jaxrl.run.run import QUICK, advance, equations

ITERATIONS = 4
LINES, WIDTH = 120, 100
TIMES = 0.1, 10.0
OFF = 1e-3, 1.0  # what stands for them where the default is 0 or inf, "off"
# a run's, whatever XLA_FLAGS say
WHOLE = {"xla_backend_optimization_level": "3", "xla_llvm_disable_expensive_passes": False}
REWARDS = {"reward 0": (0.0, 0.0), "reward 1": (0.0, 1.0), "reward 1e6": (1e6, 0.0)}


@struct.dataclass
class Rewarded(Wrapper):
    """A world whose rewards are scaled and shifted."""

    scale: Any = 1.0
    shift: Any = 0.0

    @property
    def tables(self):
        mdp = self.env.tables
        return mdp.replace(r=jnp.where(mdp.end[:, None], 0.0, self.scale * mdp.r + self.shift))

    def score(self, state):
        return self.scale * known(self.env, "score")(state) + self.shift

    def reset(self, key, n):
        return self.env.reset(key, n)

    def step(self, key, state, action):
        state, s = self.env.step(key, state, action)
        return state, s._replace(reward=self.scale * s.reward + self.shift)


def floats(hp: Any) -> list[str]:
    """The traced values that a person sets."""
    return [name for name in hyper.leaves(hp) if name != "horizon"]


def variants(hp: Any, name: str) -> Iterator[np.ndarray]:
    """A traced value times 0.1 and times 10, within its bounds."""
    x = np.asarray(hyper.leaves(hp)[name], float)
    interval = hyper.bounds_of(hp, name) or "(-inf, inf)"
    low, high = hyper.ends(interval)
    for times, instead in zip(TIMES, OFF):
        y = np.clip(np.where((x == 0) | np.isinf(x), instead, times * x), low, high)
        outside = (interval[0] == "(") & (y == low) | (interval[-1] == ")") & (y == high)
        yield np.where(outside, (x + y) / 2, y)  # an open end: halfway there


def rows(hp: Any) -> dict[str, tuple[int, Any, tuple[float, float]]]:
    """(seed, hyperparameters, reward's scale and shift) of each row, by what it is for."""
    plain = (1.0, 0.0)
    out = {"base": (0, hp, plain), "seed": (1, hp, plain)}
    for name in floats(hp):
        for times, x in zip(TIMES, variants(hp, name)):
            changed = hyper.with_leaf(hp, name, jnp.asarray(x, jnp.float32))
            out[f"{name} x {times}"] = (0, changed, plain)
    out |= {name: (0, hp, change) for name, change in REWARDS.items()}
    return out | {"again": (0, hp, plain)}  # its distance from the first is the noise of a row


def primitives(jaxpr: Any) -> Iterator[str]:
    """The name of every primitive in a program."""
    return (e.primitive.name for e in equations(jaxpr))


def bits(tree: Any) -> list[np.ndarray]:
    """Every leaf as NumPy, keys as their data."""
    return list(checkpoint.plain(tree).values())


def stored(state: Any) -> Any:
    """A state as it comes back from the disk."""
    about = dict(iteration=2, seconds=0.0, score=None, tables={}, versions={})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.write(Path(folder) / "2", checkpoint.plain(state), {}, about)
        return checkpoint.read(Path(folder) / "2", state).state


def floating(tree: Any) -> list[np.ndarray]:
    return [x for x in bits(tree) if np.issubdtype(x.dtype, np.floating)]


def distance(params: list[np.ndarray], i: int, j: int) -> float:
    """How far two rows' parameters are apart, against their size; inf where one is lost."""
    gaps = [
        np.abs(x[i] - x[j]).max(initial=0) / (1e-3 + np.abs(x[i]).max(initial=0)) for x in params
    ]
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0))


class Trial(NamedTuple):
    """What the rows of a paper did."""

    names: list[str]
    whole: Any  # the state after four iterations, [rows, ...]
    halves: Any  # the same after two and two
    metrics: dict[str, np.ndarray]  # [rows, 4]
    callbacks: set[str]


def attempt(paper: dict, cls: type, make: Any, optimise: bool) -> tuple[Any, Trial]:
    """Run every row of a paper's battery: its hyperparameters, and what came out."""
    small = cls.smallest()
    small |= {k: small.get(k, {}) | v for k, v in paper.get("battery", {}).items()}
    world = envs.make(small["run"]["env"], **small["env_params"])
    algo = make(world, hyper.replace(cls.network_for(""), **small["network"]))
    hp = hyper.cast(hyper.check(hyper.replace(cls(), **small["hyper"])))
    hp = hp.replace(horizon=jnp.float32(ITERATIONS))

    cases = rows(hp)
    seeds, hps, rewards = zip(*cases.values())
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    hps = jax.tree.map(lambda *x: jnp.stack(x), *hps)
    scale, shift = jnp.array(rewards).T
    callbacks = set()

    def init(key, hp, scale, shift):
        return algo.init(key, hp, Rewarded(world, scale, shift))

    def go(state, t, n, hp, scale, shift):
        return advance(algo, ITERATIONS, state, t, n, hp, Rewarded(world, scale, shift))

    def program(f, *args):
        traced = jax.jit(f).trace(*args)
        callbacks.update(p for p in primitives(traced.jaxpr.jaxpr) if "callback" in p)
        return traced.lower().compile(compiler_options=WHOLE if optimise else QUICK)

    start = program(jax.vmap(init), keys, hps, scale, shift)(keys, hps, scale, shift)
    zero, two, four = jnp.int32(0), jnp.int32(2), jnp.int32(4)
    over = jax.vmap(go, (0, None, None, 0, 0, 0))
    call = program(over, start, zero, four, hps, scale, shift)
    whole, metrics = call(start, zero, four, hps, scale, shift)
    half, _ = call(start, zero, two, hps, scale, shift)
    halves, _ = call(stored(half), two, two, hps, scale, shift)
    metrics = {k: np.asarray(v) for k, v in metrics.items()}
    return hp, Trial(list(cases), whole, halves, metrics, callbacks)


def file_problems(path: Path) -> Iterator[str]:
    """What is wrong with the length of a paper's file."""
    lines = path.read_text().splitlines()
    if len(lines) > LINES:
        yield f"file: {len(lines)} lines, allowed are {LINES}"
    if wide := [i for i, line in enumerate(lines, 1) if len(line) > WIDTH]:
        yield f"file: line {wide[0]} is wider than {WIDTH}"


def program_problems(r: Trial) -> Iterator[str]:
    """Callbacks, a resumption that shows, seeds that are all alike."""
    for name in sorted(r.callbacks):
        yield f"program: it calls back to the host ({name})"
    if any(x.tobytes() != y.tobytes() for x, y in zip(bits(r.whole), bits(r.halves))):
        yield "resume: 4 iterations are not 2, a checkpoint and 2, bit for bit"


def dead_floats(r: Trial, hp: Any, inert: dict[str, str]) -> Iterator[str]:
    """Floats that change nothing; seeds, too; and what is wrongly declared inert."""
    params = floating(getattr(r.whole, "params", r.whole))
    apart = lambda row: distance(params, 0, r.names.index(row))
    noise = 10 * apart("again") + 1e-6
    if apart("seed") <= noise:
        yield "seed: another one learns the same parameters"
    for name in floats(hp):
        moved = max(apart(f"{name} x {times}") for times in TIMES) > noise
        if not moved and name not in inert:
            yield f"{name}: dead: times 0.1 and times 10 learn the same parameters"
        if moved and name in inert:
            yield f"{name}: declared inert ({inert[name]}), but it is not"
    for name, reason in inert.items():
        if name not in floats(hp):
            yield f"{name}: declared inert, but there is no such float"
        elif not reason:
            yield f"{name}: declared inert without a reason"


def lost_rows(r: Trial) -> Iterator[str]:
    """Where NaN came up. (That no episode finished is NaN by right.)"""
    for name in ("base", "seed", *REWARDS):
        i = r.names.index(name)
        lost = [k for k, v in r.metrics.items() if np.isnan(v[i]).any() and "episode" not in k]
        if any(np.isnan(x[i]).any() for x in floating(r.whole)):
            lost = ["the state", *lost]
        if lost:
            yield f"{name}: NaN in {', '.join(lost)}"


def examine(slug: str, *, optimise: bool = False) -> list[str]:
    """What is wrong with a paper (a slug, or a file's path), a line each.

    optimise: compile as a run does; otherwise without XLA's slow passes, in a third of the time.
    """
    paper = catalogue.find(slug)
    module, cls = catalogue.load(slug)
    hp, trial = attempt(paper, cls, module.make, optimise)
    return [
        *file_problems(catalogue.path(paper)),
        *program_problems(trial),
        *dead_floats(trial, hp, paper.get("inert", {})),
        *lost_rows(trial),
    ]
