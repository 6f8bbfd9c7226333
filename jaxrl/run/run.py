"""The chunked host loop: nothing leaves a program while it runs; the host works between chunks.

One program initialises, one advances (by any number of iterations, so that a run of 8 is bitwise
4 + 4 and 8 x 1): both are traced before the first environment step. One evaluates: it is made
beside the second chunk, or when it is first wanted. Each is compiled once.
"""

import ctypes
import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl import hyper
from jaxrl.core import Algo
from jaxrl.errors import InputError, reason
from jaxrl.rollout import Stage, agents, evaluate, known, objectives
from jaxrl.run import catalogue, ranks
from jaxrl.run.guard import guarded
from jaxrl.run.job import EVERY_DEVICE, Job

MALLOC = {-3: 2**28, -1: 2**31 - 1}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h: bytes
KINDS = ("temp", "argument", "output", "alias")  # of a program's memory
CHUNK_SECONDS = 10.0  # at most, about: so long does a signal wait
CACHED = 2**23  # bytes: with larger arrays seeds are faster in turn than side by side, on a CPU
# XLA prefers half the width of a machine's vectors: an iteration is then 5 to 15 % slower
WIDE = {"xla_cpu_prefer_vector_width": "512"}
# over devices: a part of the rows each; of each row's environments too; whole
ROWS, ENVS, ALL = PartitionSpec("rows"), PartitionSpec("rows", "envs"), PartitionSpec()
QUICK = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}

keys_of = jax.jit(jax.vmap(jax.random.key))  # one for all: another would compile anew each time


class Layout(NamedTuple):
    """How many devices share the rows, as many to each, and how many the environments of each."""

    rows: int
    envs: int = 1

    @property
    def devices(self) -> int:
        return self.rows * self.envs

    @property
    def mesh(self) -> Mesh:
        some = np.array(jax.devices()[: self.devices])
        return Mesh(some.reshape(self.rows, self.envs), ("rows", "envs"))


class Setting(NamedTuple):
    """What a job needs in memory. A row is a seed, or a seed at one point of a sweep."""

    job: Job
    algo: Algo
    hp: Any  # leaves are float32 arrays: (), shared by all rows, or [rows] where a sweep varies it
    world: Any
    seeds: np.ndarray  # [rows], the number of each one's seed
    varied: tuple[bool, ...] | None = None  # which leaves of hp a sweep varies; None: it may be any
    in_turn: bool = False  # rows train one after the other

    @property
    def layout(self) -> Layout:
        """Rows are shared out first, since they are nothing to each other; the environments of a
        row if more devices are asked for. XLA makes another program for several than for one, by
        the last bits: `map` stays on one unless it is told."""
        rows, there, said = len(self.seeds), len(jax.devices()), self.job.devices
        unsaid = 1 if self.job.seed_mode == "map" else there
        most = there if said == EVERY_DEVICE else said or unsaid
        n = most_of(most, rows)
        shared = said and hasattr(self.hp, "groups")
        return Layout(n, most_of(most // n, self.hp.num_envs) if shared else 1)

    @property
    def keys(self) -> jax.Array:
        """[rows]: a seed's key does not depend on how many there are."""
        return keys_of(self.seeds.astype(np.uint32))

    def among(self, points: list) -> "Setting":
        """The same, whose sweeps share what none of these points changes: then a choice by it is
        still a choice, where under a vmap both sides would be computed."""
        values = np.array([jax.tree.leaves(hp) for hp in points], np.float32)
        return self._replace(varied=tuple((values != values[0]).any(0)))

    def sweep(self, points: list, seeds: np.ndarray) -> "Setting":
        """The same with a point (traced values) and a seed of its own for each row."""
        points = [hyper.cast(hp.replace(horizon=self.hp.horizon)) for hp in points]
        varied = self.varied or [name != "horizon" for name in hyper.leaves(points[0])]
        leaves = zip(varied, *map(jax.tree.leaves, points), strict=True)
        joined = [jnp.stack(x) if own else x[0] for own, *x in leaves]
        return self._replace(
            hp=jax.tree.unflatten(jax.tree.structure(points[0]), joined), seeds=seeds
        )


def most_of(limit: int, n: int) -> int:
    """The largest divisor of n up to a limit."""
    return max(k for k in range(1, limit + 1) if n % k == 0)


def shared_out(job: Job) -> Job:
    """The job with as many groups of environments as devices will share those of one seed, unless
    it says how many.

    Raises:
      InputError: such sharing is asked for where it cannot be.
    """
    all_, there = job.devices == EVERY_DEVICE, len(jax.devices())
    most = there if all_ else job.devices
    if most <= job.seeds or getattr(job.hyper, "groups", 0) != 1:
        return job
    each = most // most_of(most, job.seeds)
    choices = [job.hyper.replace(groups=k) for k in range(each, 0, -1 if all_ else -each)]
    if fits := [hp for hp in choices if not hp.problem()]:
        return dataclasses.replace(job, hyper=fits[0])
    raise InputError(f"devices: {each} for each seed are not possible: {choices[0].problem()}")


def enough(job: Job) -> None:
    """InputError where a job names more devices than there are, or than it can put to use."""
    there, said = len(jax.devices()), job.devices
    if said > there:
        raise InputError(f"devices: {said} are more than the {there} there are")
    if said > job.seeds:
        each, name = said // job.seeds, Path(job.paper).stem
        if not hasattr(job.hyper, "groups"):
            why = f"devices share no environments of {name}"
            raise InputError(f"devices: {said} are more than seeds = {job.seeds}, and {why}")
        if job.hyper.num_envs % each:
            raise InputError(
                f"devices: {each} for each seed do not divide num_envs = {job.hyper.num_envs}"
            )


@cache
def cores_as_devices() -> None:
    """Make each core a device, if jax has not begun and nobody has said how many: rows that are
    shared out over cores take them all, where one program for all rows does not."""
    said = jax.config.values["jax_num_cpu_devices"] > 0
    if said or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(RuntimeError):  # it has begun
        jax.config.update("jax_num_cpu_devices", cores or 1)


def set_up(job: Job, begun: bool = False) -> Setting:
    """Build a job's algorithm and world, and trace one iteration so that whatever does not fit is
    said before anything compiles.

    begun: it goes on, whatever devices there are now: its groups of environments stay.
    """
    import envs

    cores_as_devices()
    enough(job)
    job = job if begun else shared_out(job)
    world = envs.make(job.env, **job.env_params)
    begins = known(world, "starts") or getattr(job.network, "model", "")
    if begins and getattr(job.hyper, "STARTS", False):
        from jaxrl.run.pretrain import started  # a family's, which few runs need

        world = started(world, job.network)
    if envs.kind(job.env) == "custom":
        try_out(job.env, world)
    module, _ = catalogue.load(job.paper)
    algo = guarded(module.make(world, job.network), freeze=job.on_nan == "freeze")
    algo = algo._replace(init=jax.jit(algo.init), step=jax.jit(algo.step))  # traced only once
    hp = hyper.cast(job.hyper.replace(horizon=float(job.iterations)))
    setting = Setting(job, algo, hp, world, np.arange(job.seed, job.seed + job.seeds))
    used, there = setting.layout.devices, len(jax.devices())
    if ranks.several() and used < there:
        why = f"{job.seeds} seeds use {used} of the {there} that the processes have"
        hint = "" if job.devices else "; --devices all shares environments too"
        raise InputError(f"devices: {why}{hint}")
    try:
        step = jax.make_jaxpr(algo.step)(one_state(setting), np.int32(0), hp, world)
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as e:
        if not catalogue.inside(catalogue.find(job.paper)):
            raise  # the traceback is of use to who wrote it
        raise InputError(f"env: {job.env} does not suit {job.paper}: {reason(e)}") from e
    unread(setting)
    auto = getattr(job.hyper, "IN_TURN", False) or largest(step.jaxpr) > CACHED
    auto &= jax.default_backend() == "cpu"
    return setting._replace(in_turn=dict(auto=auto, vmap=False, map=True)[job.seed_mode])


def unread(s: Setting) -> None:
    """InputError for what was said of memory to a method that does not look at it."""

    def step(**said):
        hp = s.hp.replace(**said)
        made = str(jax.make_jaxpr(s.algo.step)(one_state(s), np.int32(0), hp, s.world))
        return re.sub("0x[0-9a-f]+", "", made)  # where functions lie

    if not hasattr(s.job.hyper, "storage"):
        return
    # under either a rollout takes little memory: it is to look at storage, an update at pieces
    for name, plain, other in (
        ("storage", "float32", dict(accumulate=1)),
        ("accumulate", 1, dict(storage="bfloat16")),
    ):
        said = getattr(s.job.hyper, name)
        if said != plain and step(**other, **{name: said}) == step(**other, **{name: plain}):
            paper = Path(s.job.paper).stem
            raise InputError(f"{name}: {said}: {paper} does not look at it; use {plain}")


def equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a traced program, and of the programs inside it."""
    for e in jaxpr.eqns:
        yield e
        for inner in jax.tree.leaves(tuple(e.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def largest(jaxpr: Any) -> int:
    """Bytes of the largest array that a traced program makes."""
    arrays = (x.aval for e in equations(jaxpr) for x in e.outvars)
    return max((a.size * a.dtype.itemsize for a in arrays), default=0)


def try_out(name: str, world: Any) -> None:
    """Trace a step of a person's own environment; what is wrong with it is an InputError."""
    n, K = 2 * agents(world), len(objectives(world))

    def once(key):
        state, _ = world.reset(key, 2)
        action = jax.vmap(world.action_space.sample)(jax.random.split(key, n))
        return world.step(key, state, action)[1].reward

    try:
        reward = jax.eval_shape(once, jax.random.key(0))
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"env: {name}: {reason(e)}; jaxrl check-env {name} tells more") from e
    if reward.shape != ((n, K) if K else (n,)):
        allowed = f"({K},), as many as objectives" if K else "(); several need objectives"
        shape = f"a reward has shape {reward.shape[1:]}"
        raise InputError(f"env: {name}: {shape}, allowed is {allowed}")


def one_state(s: Setting) -> Any:
    """The shapes of one seed's state."""
    return jax.eval_shape(lambda *rest: s.algo.init(jax.random.key(0), *rest), s.hp, s.world)


def over_rows(f: Callable, s: Setting) -> Callable:
    """f(x, ..., hp, world) over the leading axis of x, and of what a sweep varies; the rest is
    shared. Each device has a part of the rows: they are nothing to each other. Where devices share
    a row's environments, `places` says so and XLA does the rest."""
    layout = s.layout
    apart = layout.rows > 1 and layout.envs == 1

    def mapped(x, *rest):
        *shared, hp, world = rest
        if not apart:
            return part(x, *rest)
        own = jax.tree.map(lambda y: ROWS if y.ndim else ALL, hp)
        specs = (ROWS, *[ALL for _ in shared], own, ALL)
        out = jax.shard_map(part, mesh=layout.mesh, in_specs=specs, out_specs=ROWS, check_vma=False)
        return out(x, *rest)

    def part(x, *rest):
        *shared, hp, world = rest
        leaves, tree = jax.tree.flatten(hp)

        def one(row):
            own = iter(row[1])
            mine = tree.unflatten([next(own) if y.ndim else y for y in leaves])
            return f(row[0], *shared, mine, world)

        rows = x, [y for y in leaves if y.ndim]
        if s.in_turn:
            return jax.lax.map(one, rows)
        if len(s.seeds) > (layout.rows if apart else 1):
            return jax.vmap(one)(rows)
        # an axis of length 1 costs a small program a tenth of its speed
        alone = one(jax.tree.map(lambda y: y[0], rows))
        return jax.tree.map(lambda y: y[None], alone)

    return mapped


def places(s: Setting, x: Any) -> Any:
    """Where a pytree of rows lies when devices share the environments of each: n of a stage's
    arrays [rows, n, ...] with the environments, the rest with every device of its row."""
    layout, rows = s.layout, len(s.seeds)
    on = lambda spec: NamedSharding(layout.mesh, spec)

    def place(node):
        n = node.start.shape[1] if isinstance(node, Stage) else -1
        spec = lambda y: (
            ENVS if y.shape[:2] == (rows, n) else ROWS if y.shape[:1] == (rows,) else ALL
        )
        return jax.tree.map(lambda y: on(spec(y)), node)

    return jax.tree.map(place, x, is_leaf=lambda node: isinstance(node, Stage))


def traced(f: Callable, *args: Any, donate: tuple[int, ...] = (), s: Setting | None = None) -> Any:
    """f as a program of such arguments, the last of them shared by all rows, to be compiled.

    s: whose layout it has; None: that of f.
    """
    if s is None or s.layout.envs == 1 and not ranks.several():
        return jax.jit(f, donate_argnums=donate).lower(*args)
    shared = jax.tree.map(lambda _: NamedSharding(s.layout.mesh, ALL), args[-1])
    there = (*(places(s, x) for x in args[:-1]), shared)
    out = places(s, jax.eval_shape(f, *args))
    program = jax.jit(f, donate_argnums=donate, in_shardings=there, out_shardings=out)
    return program.lower(*args)


def compiled(program: Any, options: dict[str, Any] = WIDE) -> Callable:
    """A traced program compiled, on a CPU with such options. What it is called with goes to the
    devices that it is for."""
    made = program.compile(compiler_options=options if jax.default_backend() == "cpu" else None)
    placed = made.input_shardings[0]
    if all(len(x.device_set) == 1 for x in jax.tree.leaves(placed)):
        return made
    return Placed(made, placed)


class Placed(NamedTuple):
    """A compiled program of several devices."""

    program: Any
    placed: Any  # the shardings of its arguments

    def __call__(self, *args: Any) -> Any:
        return self.program(*ranks.placed(args, self.placed))


def advance(algo: Algo, size: int, state: Any, t: jax.Array, n: jax.Array, hp: Any, world: Any):
    """n <= size iterations, one program whatever n: (state, metrics [size], n of them filled)."""
    shapes = jax.eval_shape(algo.step, state, t, hp, world)[1]
    metrics = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    def body(i, carry):
        state, metrics = carry
        state, now = algo.step(state, t + i, hp, world)
        put = lambda all, x: jax.lax.dynamic_update_index_in_dim(all, x, i, 0)
        return state, jax.tree.map(put, metrics, now)

    return jax.lax.fori_loop(0, n, body, (state, metrics))


def score(algo: Algo, episodes: int, greedy: bool, x: tuple, hp: Any, world: Any) -> dict:
    """Episodes of one seed's policy, x = (state, key), by its mode or as it explores."""
    state, key = x

    def act(obs, memory, key):
        return algo.act(state, obs, memory, None if greedy else key, hp)

    world = world.examined() if hasattr(world, "examined") else world
    return evaluate(act, algo.memory(episodes * agents(world)), world, key, episodes)


def mean_returns(result: dict, objective: str = "return") -> np.ndarray:
    """The mean return of each row [rows]. An episode that was cut counts with what it had: to
    leave it out would leave out the longest."""
    return np.asarray(ranks.whole(result[objective]), float).mean(-1)


def evaluation_keys(s: Setting, point: int, seed: int = 0) -> jax.Array:
    """Keys of an evaluation [rows], no training run's. On the way (point 0) they are the same for
    every row and every time; at the end (1) and later (2) each seed plays episodes of its own, so
    that an interval over seeds holds the noise of the evaluation."""
    root = jax.random.fold_in(jax.random.fold_in(jax.random.key(0x5EED), point), seed)
    if point == 0:
        return jnp.broadcast_to(root, s.seeds.shape)
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(s.seeds, jnp.uint32))


class Later:
    """A program that is made, in a thread, when it is first called or `soon`."""

    def __init__(self, make: Callable[[], Callable]):
        self.soon = cache(partial(ThreadPoolExecutor(1).submit, make))

    def __call__(self, *args: Any) -> Any:
        return self.soon().result()(*args)


class Program(NamedTuple):
    """The programs of a job, the first two compiled."""

    init: Callable
    advance: Callable
    greedy: Later
    sampled: Later
    examined: Later | None  # what the algorithm's own `examine` says; None where it has none
    chunk: int
    compile_seconds: float
    each: int  # bytes of a device's memory that advancing takes, the state with it
    bytes: int  # of one memory: cores share theirs


@cache
def keep_memory() -> None:
    """Let the C library keep what a program frees. It would give large arrays back to the system
    between two chunks, and the next would fault them in page by page: a fifth of MinAtar's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, size in MALLOC.items():
            mallopt(option, size)


def build(s: Setting) -> Program:
    """What a run calls: what begins and advances it, compiled side by side, and what scores it."""
    keep_memory()
    job, algo, began = s.job, s.algo, time.perf_counter()
    chunk = max(1, job.iterations // max(50, job.evals))
    rest, i = (s.hp, s.world), np.int32(0)
    start, step = over_rows(algo.init, s), over_rows(partial(advance, algo, chunk), s)
    state = jax.eval_shape(start, s.keys, *rest)

    def later(f: Callable) -> Later:
        return Later(lambda: compiled(traced(over_rows(f, s), (state, s.keys), *rest, s=s)))

    examine = algo.examine
    scorers = (
        later(partial(score, algo, job.eval_episodes, True)),
        later(partial(score, algo, job.eval_episodes, False)),
        later(lambda x, *rest: examine(*x, *rest)) if examine else None,
    )
    with ThreadPoolExecutor(2) as pool:
        loop = pool.submit(compiled, traced(step, state, i, i, *rest, donate=(0,), s=s))
        init = pool.submit(compiled, traced(start, s.keys, *rest, s=s), QUICK)
    init, loop = init.result(), loop.result()
    seconds = time.perf_counter() - began
    return Program(init, loop, *scorers, chunk, seconds, of_device(loop), memory(loop))


def memory(program: Any) -> int:
    """Bytes that a compiled program takes of one memory: cores share theirs."""
    shared = isinstance(program, Placed) and jax.default_backend() == "cpu"
    here = len(jax.tree.leaves(program.placed)[0].addressable_devices) if shared else 1
    return of_device(program) * here


def of_device(program: Any) -> int:
    """Bytes that a compiled program takes of a device, what is donated to it counted once."""
    need = (program.program if isinstance(program, Placed) else program).memory_analysis()
    size = {k: getattr(need, f"{k}_size_in_bytes", 0) for k in KINDS}
    return size["temp"] + size["argument"] + size["output"] - size["alias"]


def described(s: Setting, program: Program) -> str:
    """How the rows lie on devices, and the memory they take, in one line."""
    rows, layout, per = len(s.seeds), s.layout, s.job.hyper.steps_per_iteration
    many = lambda n, word: f"{n} {word}{'s' if n > 1 else ''}"
    where = f"{many(rows, 'seed')} on {many(layout.devices, 'device')}"
    if layout.envs > 1:
        shared = s.job.hyper.num_envs // layout.envs
        where += f", {shared} of {s.job.hyper.num_envs} environments on each"
    elif layout.rows > 1:
        where += f", {rows // layout.rows} on each"
    steps = per * rows / layout.devices
    step = f"{amount(program.each / steps)} an environment step"
    return f"{where}: {amount(program.each)} of memory each, {step} of an iteration"


def amount(x: float) -> str:
    """Bytes in a few characters."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.0f} B"


class Chunk(NamedTuple):
    """What the host sees between two chunks."""

    iteration: int  # iterations done
    state: Any  # every row's; its buffers are the next chunk's, so copy what is to stay
    metrics: dict[str, np.ndarray]  # [rows, iterations of this chunk, ...]
    evaluation: np.ndarray | None  # [rows] mean greedy return, where this chunk ends in one
    seconds: float  # that the iterations took, without the evaluation


def execute(
    s: Setting,
    program: Program,
    see: Callable[[Chunk], None] = lambda c: None,
    state: Any = None,
    done: int = 0,
) -> Any:
    """Run a job and return the final state of every row; `see` is called after each chunk.

    state, done: go on from there, bit for bit as if it had not stopped.
    """
    if state is None:
        state = program.init(s.keys, s.hp, s.world)
    keys = cache(partial(evaluation_keys, s, 0))  # made once, after the first update
    job, size = s.job, program.chunk
    total = job.iterations
    evals = min(job.evals, total)
    stops = {round(total * (i + 1) / evals) for i in range(evals)}
    while done < total:
        ahead = [stop - done for stop in stops if stop > done]
        if every := job.save_iterations:
            ahead.append(every - done % every)
        n = min([size, total - done, *ahead])
        began = time.perf_counter()
        state, metrics = program.advance(state, np.int32(done), np.int32(n), s.hp, s.world)
        done += n
        metrics = ranks.whole(metrics)
        seconds = ranks.agreed(time.perf_counter() - began)
        size = min(program.chunk, max(1, int(CHUNK_SECONDS * n / seconds)))
        metrics = {k: v[:, :n] for k, v in metrics.items()}
        evaluation = None
        if done in stops:
            evaluation = mean_returns(program.greedy((state, keys()), s.hp, s.world))
        see(Chunk(done, state, metrics, evaluation, seconds))
        program.greedy.soon()
    return state
