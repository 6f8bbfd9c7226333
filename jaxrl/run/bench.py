"""How fast it is: against other libraries, and against what no implementation can do without.

An entrant trains an item whole, from the start; ours by the engine that `jaxrl train` uses, chunk
by chunk, with its metrics fetched. Entrants and floors take turns, so that a ratio is of
neighbours in time, and what is quoted is the median over rounds. The floors are in `bench_floors`:

    of_floor = (rollout + gradient) / the whole iteration

Compiling is measured with the cache off, after one tracing. Memory is what XLA says the training
program takes, state included; with `startup`, the peak resident memory of a process too.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxrl.completions import task
from jaxrl.errors import InputError, did_you_mean, reason
from jaxrl.hyper import Linear
from jaxrl.run import bench_peers, record
from jaxrl.run import job as jobs
from jaxrl.run.bench_floors import floors
from jaxrl.run.run import (
    WIDE,
    Later,
    Setting,
    advance,
    build,
    compiled,
    cores_as_devices,
    evaluation_keys,
    execute,
    mean_returns,
    memory,
    over_rows,
    set_up,
    traced,
)
from jaxrl.run.train import Say


class Item(NamedTuple):
    """A piece of work: PPO with 64 x 64 tanh for actor and critic each."""

    env: str
    num_envs: int
    num_steps: int
    minibatches: int
    epochs: int
    updates: int
    lr: float
    annealed: bool  # to 0 at the end
    gamma: float = 0.99
    ent_coef: float = 0.0
    normalise: bool = False  # observations, and rewards by the deviation of the return
    memory: int = 0  # units of a GRU after the 64 x 64

    @property
    def steps(self) -> int:
        """Environment steps of one seed."""
        return self.updates * self.num_envs * self.num_steps

    def job(self, seeds: int) -> jobs.Job:
        hp = {k: getattr(self, k) for k in ("num_envs", "num_steps", "minibatches", "epochs")}
        hp |= dict(gamma=self.gamma, lam=0.95, eps=0.2, vf_clip=0.2, vf_coef=0.5)
        hp |= dict(ent_coef=self.ent_coef, max_grad_norm=0.5, normalise_advantage=True)
        hp |= dict(normalise_obs=self.normalise, normalise_reward=self.normalise)
        hp |= dict(lr=Linear(self.lr, 0.0) if self.annealed else self.lr)
        net = dict(torso="mlp", hidden=(64, 64), activation="tanh", memory=self.memory)
        run = dict(paper="ppo", env=self.env, seeds=seeds, steps=self.steps, evals=1)
        return jobs.resolve(run=run, env_params={}, network=net, hyper=hp)


class Soft(NamedTuple):
    """A piece of work: SAC with 64 x 64 relu for the actor and each of two critics."""

    env: str
    updates: int  # iterations: a step of every environment, then gradient steps
    num_envs: int = 1
    gradient_steps: int = 1
    batch_size: int = 256
    buffer_size: int = 100_000
    learning_starts: int = 1000
    lr: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    memory: int = 0

    @property
    def steps(self) -> int:
        """Environment steps of one seed."""
        return self.updates * self.num_envs

    def job(self, seeds: int) -> jobs.Job:
        same = ("num_envs", "batch_size", "buffer_size", "learning_starts", "lr", "gamma", "tau")
        hp = {k: getattr(self, k) for k in same} | dict(updates=self.gradient_steps, num_steps=1)
        net = dict(torso="mlp", hidden=(64, 64), activation="relu")
        run = dict(paper="sac", env=self.env, seeds=seeds, steps=self.steps, evals=1)
        return jobs.resolve(run=run, env_params={}, network=net, hyper=hp)


class Words(NamedTuple):
    """A piece of work: GRPO with a transformer of two layers of 64, one epoch, one minibatch."""

    env: str
    updates: int
    prompts: int = 128
    group: int = 8
    memory: int = 0

    @property
    def steps(self) -> int:
        """Completions of one seed."""
        return self.updates * self.prompts * self.group

    def job(self, seeds: int) -> jobs.Job:
        hp = dict(prompts=self.prompts, group=self.group, epochs=1, minibatches=1)
        run = dict(paper="grpo", env=self.env, seeds=seeds, steps=self.steps, evals=1)
        return jobs.resolve(run=run, env_params={}, network=dict(hidden=(64, 64)), hyper=hp)


ITEMS: dict[str, Item | Soft | Words] = {
    "a": Item("CartPole-v1", 4, 128, 4, 4, 976, 2.5e-4, True, ent_coef=0.01),
    "b": Item("CartPole-v1", 2048, 32, 16, 4, 24, 1e-3, True, ent_coef=0.01),
    "c": Item("Breakout-MinAtar", 64, 128, 8, 4, 40, 2.5e-3, True, ent_coef=0.01),
    "d": Item("brax/hopper", 2048, 10, 32, 4, 8, 3e-4, False, normalise=True),
    "e": Item("Pendulum-v1", 64, 128, 32, 4, 60, 1e-3, False, gamma=0.95),
    "f": Item("CartPole-v1", 16, 128, 4, 4, 60, 1e-3, True, ent_coef=0.01, memory=64),
    "g": Soft("Pendulum-v1", 20_000),
    "h": Words("tokens/add", 30),
}


class Entrant(NamedTuple):
    """Whoever trains an item."""

    run: Callable[[], float]  # train from the start: seconds, without compiling or evaluating
    compile_seconds: float
    final_return: list[float]  # a seed, by the entrant's own evaluation
    program_mib: float | None = None  # None: it does not show its program
    parameters: int | None = None  # of one seed's networks


# ---- measuring -------------------------------------------------------------------------------


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compile for real, whatever cache there is."""

    def use(cache: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", cache)
        compilation_cache.reset_cache()  # else what was found at the first compilation stays

    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    use(False)
    try:
        yield
    finally:
        use(before)


def measured(
    f: Callable, *args: Any, options: dict[str, Any] = WIDE, donate: tuple = ()
) -> tuple[Callable, float, float]:
    """f for such arguments, the seconds it took, and the MiB that it takes."""
    jax.eval_shape(f, *args)  # so that nobody pays for what others have traced before
    with uncached():
        began = time.perf_counter()
        program = compiled(traced(f, *args, donate=donate), options)
        seconds = time.perf_counter() - began
    return program, seconds, memory(program) / 2**20


def timed(f: Callable, *args: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.perf_counter() - began


def interleaved(runs: dict[str, Callable[[], float]], rounds: int, say: Say) -> dict:
    """Seconds [rounds] of each."""
    turns = []
    for i in range(rounds):
        turns.append({name: run() for name, run in runs.items()})
        say(f"  round {i + 1}: " + ", ".join(f"{k} {x:.3g} s" for k, x in turns[-1].items()))
    return {name: np.array([t[name] for t in turns]) for name in runs}


# ---- entrants --------------------------------------------------------------------------------


def ours(s: Setting) -> Entrant:
    """The engine. What its run evaluates on the way is left out, and done once."""
    program, seeds = build(s), len(s.seeds)
    state = program.init(s.keys, s.hp, s.world)
    args = (state, jnp.int32(0), jnp.int32(0), s.hp, s.world)
    step = over_rows(partial(advance, s.algo, program.chunk), s)
    _, seconds, mib = measured(step, *args, donate=(0,))
    silent = program._replace(greedy=Later(lambda: lambda *_: {"return": np.zeros((seeds, 1))}))

    def run() -> float:
        spent = []
        execute(s, silent, lambda chunk: spent.append(chunk.seconds))
        return sum(spent)

    last = execute(s, silent)
    score = mean_returns(program.greedy((last, evaluation_keys(s, 1)), s.hp, s.world))
    return Entrant(run, seconds, score.tolist(), mib, size(last.inner.params) // seeds)


def size(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def rejax(item: Any, s: Setting) -> Entrant:
    """One program for all updates. One seed is not vmapped: that is how rejax is fastest."""
    trainer, rows = bench_peers.rejax(item), len(s.seeds)
    over = jax.vmap if rows > 1 else lambda f: f
    keys = s.keys if rows > 1 else s.keys[0]
    state = jax.jit(over(trainer.init))(keys)
    train, seconds, mib = measured(over(trainer.train), state, options={})
    last = train(state)
    fresh = jax.random.fold_in if rows == 1 else jax.vmap(jax.random.fold_in, (0, None))
    score = jax.jit(over(trainer.evaluate))(last, fresh(keys, 1))
    count = size(trainer.parameters(last)) // rows
    return Entrant(partial(timed, train, state), seconds, np.ravel(score).tolist(), mib, count)


def brax(item: Any) -> Entrant:
    with uncached():
        _, seconds, score = bench_peers.brax_ppo(item, evaluate=True)
    return Entrant(lambda: bench_peers.brax_ppo(item)[0], seconds, [score])


def has_rejax(item: Item | Soft | Words) -> bool:
    return not (item.memory or isinstance(item, Words) or bench_peers.missing())


def peers_of(item: Item | Soft | Words, s: Setting, say: Say) -> dict[str, Entrant]:
    """Those that are installed and can do this item; one that fails is named and left out."""
    able: dict[str, Callable[[], Entrant]] = {}
    if has_rejax(item):
        able["rejax"] = lambda: rejax(item, s)
    if item.env.startswith("brax/") and len(s.seeds) == 1:
        able["brax.training"] = lambda: brax(item)
    out = {}
    for name, make in able.items():
        try:
            out[name] = make()
        except Exception as e:  # another's code, of any version
            say(f"  {name} fails: {reason(e)}")
    return out


# ---- rows ------------------------------------------------------------------------------------


def check(items: Sequence[str], seeds: Sequence[int], rounds: int) -> None:
    """InputError, in one line, for anything that is not allowed."""
    for name in items:
        if name not in ITEMS:
            raise did_you_mean("items", name, ITEMS, f"there are {', '.join(ITEMS)}")
    for n in seeds:
        if n < 1:
            raise InputError(f"seeds: {n} is outside [1, 65536]")
    if rounds < 1:
        raise InputError(f"rounds: {rounds} is outside [1, inf)")
    for name, n in ((name, n) for name in items for n in seeds):
        ITEMS[name].job(n)


def row(name: str, seeds: int, rounds: int, peers: bool, say: Say = lambda line: None) -> dict:
    """One item with so many seeds: rates, ratios (above 1 ours is faster), floors, returns."""
    item = ITEMS[name]
    s = set_up(item.job(seeds))
    say(f"{name}: {item.env}, {seeds} seed{'s' * (seeds > 1)} of {item.steps:,} steps")
    us, others, base = ours(s), peers_of(item, s, say) if peers else {}, floors(s)
    for floor in base.values():  # the others have trained once by now
        jax.block_until_ready(floor())
    runs = {"jaxrl": us.run} | {k: p.run for k, p in others.items()}
    took = interleaved(runs | {k: partial(timed, f) for k, f in base.items()}, rounds, say)
    whole = took["jaxrl"]

    def shown(e: Entrant, seconds: np.ndarray) -> dict:
        rest = {k: v for k, v in e._asdict().items() if k != "run"}
        return spread("steps_per_second", seeds * item.steps / seconds, 1) | rest

    ratios = {k: spread(k, took[k] / whole) for k in others}
    return (
        dict(item=name, env=item.env, seeds=seeds, steps=item.steps, rounds=rounds)
        | shown(us, whole)
        | dict(ratio_to={k: x[k] for k, x in ratios.items()})
        | dict(ratio_range={k: x[f"{k}_range"] for k, x in ratios.items()})
        | spread("of_floor", (took["rollout"] + took["gradient"]) / whole)
        | dict(floors={k: float(np.median(took[k])) / item.updates for k in base})
        | tokens_a_second(s, took)
        | dict(peers={k: shown(e, took[k]) for k, e in others.items()})
        | dict(seconds={k: np.round(x, 6).tolist() for k, x in took.items()})
    )


def tokens_a_second(s: Setting, took: dict[str, np.ndarray]) -> dict:
    """Of a token run, from the floors' times: those that are generated, those that an update goes
    over, and as many in a plain forward and backward pass over whole windows."""
    if "plain" not in took:
        return {}
    game, rows = task(s.world), len(s.seeds) * s.job.iterations * s.job.hyper.steps_per_iteration
    whole = rows * (game.window - 1)
    many = dict(rollout=rows * game.L, gradient=whole, plain=whole)
    return dict(tokens_per_second={k: round(n / np.median(took[k])) for k, n in many.items()})


def spread(name: str, x: np.ndarray, digits: int = 3) -> dict:
    """The median over rounds, and the least and the most."""
    least, mid, most = (round(float(f(x)), digits) for f in (np.min, np.median, np.max))
    return {name: mid, f"{name}_range": [least, most]}


def about() -> dict[str, Any]:
    """What measured: machine, devices, versions."""
    cores_as_devices()
    versions = record.versions()
    if not bench_peers.missing():
        versions["rejax"] = metadata.version("rejax")
    return dict(
        machine=record.machine(),
        devices=record.devices(),
        versions=versions,
        revision=record.revision(),
    )


PASSES = "rollout", "gradient"
HEAD = (
    "item environment seeds steps/s rejax brax.training of_floor environment rollout gradient "
    "compile_s return peers'"
).split()


def lines(rows: Sequence[dict]) -> list[list[str]]:
    """Rows as text, for HEAD: ratios to peers with their range, floors in ms an iteration."""

    def ratio(r: dict, name: str) -> str:
        if name not in r["ratio_to"]:
            return ""
        low, high = r["ratio_range"][name]
        return f"{r['ratio_to'][name]:.2f} [{low:.2f}, {high:.2f}]"

    def mean(x: Sequence[float]) -> str:
        return f"{np.mean(x):.4g}"

    def line(r: dict) -> list[str]:
        out = [r["item"], r["env"], str(r["seeds"]), f"{r['steps_per_second']:,.0f}"]
        out += [ratio(r, "rejax"), ratio(r, "brax.training"), f"{r['of_floor']:.0%}"]
        out += [f"{1000 * r['floors'][k]:.3g}" for k in ("environment", *PASSES)]
        out += [f"{r['compile_seconds']:.1f}", mean(r["final_return"])]
        return [*out, ", ".join(f"{k} {mean(p['final_return'])}" for k, p in r["peers"].items())]

    return [line(r) for r in rows]
