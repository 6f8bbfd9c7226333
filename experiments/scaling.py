"""Scaling on paper: an iteration on 8 and on 1,024 accelerators, and what a failure costs.

    python experiments/scaling.py measure     what can be measured on this machine, then the tables
    python experiments/scaling.py tables      the tables again, with what other records hold now
    python experiments/scaling.py own --seconds 0.15 --parameters 9155 --updates 64 \
        --steps 65536 --step-bytes 500        your own case, on one line an accelerator count

They write results/scale/scaling.json and the tables in scaling.md, where every constant stands with
where it is from. Seconds, bytes and parameters throughout; a gradient is one all-reduce.
"""

import argparse
import json
import math
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent / "results" / "scale"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
COUNTS = 1, 8, 1024
US = 1e-6


class Cluster(NamedTuple):
    """Nodes of accelerators, as an H100 SXM's: fast links inside a node, slower ones between."""

    node: int = 8  # accelerators of one
    inside: float = 476e9  # bytes/s an all-reduce moves in a node (busbw of nccl-tests)
    between: float = 46e9  # bytes/s of each network card, one an accelerator
    memory: float = 80e9  # bytes of one accelerator
    hbm: float = 3.35e12  # bytes/s from it
    flops: float = 989e12 * 0.40  # reached of dense bfloat16
    rate: float = 419 / (54 * 86_400 * 16_384)  # unexpected interruptions a second, of one


# NCCL's own estimates by (algorithm, protocol): microseconds to begin, of a hop inside a node and
# of one between nodes, and the share of the links' bandwidth that the protocol leaves
NCCL = {
    ("tree", "LL"): (6.8, 0.6, 5.0, 0.92 / 3.8),
    ("tree", "Simple"): (8.4, 4.0, 14.0, 0.92),
    ("ring", "LL"): (6.6, 0.6, 2.7, 0.5),
    ("ring", "Simple"): (8.4, 3.4, 14.0, 1.0),
}
POST = {"LL": 1.0, "Simple": 3.0}  # at least of a ring's hop, where there are several nodes


def nodes(p: int, c: Cluster) -> int:
    """How many nodes p accelerators are. ValueError where they fill none."""
    if p > c.node and p % c.node:
        raise ValueError(f"accelerators: {p} is above {c.node} and no multiple of it")
    return max(1, p // c.node)


def latency(how: tuple[str, str], p: int, c: Cluster) -> float:
    """Seconds of an all-reduce of nothing over p accelerators."""
    begin, inside, between, _ = NCCL[how]
    n = nodes(p, c)
    if how[0] == "tree":
        return US * (begin + 2 * ((p // n - 1) * inside + int(math.log2(n)) * between))
    inside = max(inside, POST[how[1]]) if n > 1 else inside
    across = 2 * (n - 1)
    return US * (begin + (2 * (p - 1) - across) * inside + across * between)


def bandwidth(p: int, c: Cluster) -> float:
    """Bytes/s at which each accelerator sends and receives during an all-reduce."""
    return c.inside if nodes(p, c) == 1 else min(c.inside, c.node * c.between)


def all_reduce(size: float, p: int, c: Cluster = Cluster()) -> float:
    """Seconds to add up `size` bytes of each of p accelerators on all of them: the best of NCCL's
    ways, each its latency and 2 (p - 1) / p * size / bandwidth."""
    if p == 1:
        return 0.0
    moved = 2 * (p - 1) / p * size / bandwidth(p, c)
    return min(latency(how, p, c) + moved / share for how, (*_, share) in NCCL.items())


class Run(NamedTuple):
    """A run whose environments are shared out, and what one accelerator takes for an iteration."""

    name: str
    parameters: int
    updates: int  # of an iteration, each with a gradient of all: epochs x minibatches
    steps: int  # environment steps of an iteration, or tokens
    step_bytes: float  # of memory an environment step
    divisible: float  # seconds that more accelerators share
    fixed: float = 0.0  # seconds that each of them takes all the same
    replicated: float = 0.0  # bytes on every accelerator; 0: float32 weights, gradient, Adam
    small: int = 4  # all-reduces of a few numbers: metrics, the spread of advantages, moments
    envs: int = 2**31  # that can be shared out at most
    whose: str = "H100, by its data"  # seconds they are

    @property
    def kept(self) -> float:
        return self.replicated or 16.0 * self.parameters


def communication(run: Run, p: int, c: Cluster = Cluster()) -> float:
    """Seconds of an iteration, none of it hidden behind computing."""
    return run.updates * all_reduce(4.0 * run.parameters, p, c) + run.small * all_reduce(64, p, c)


def spread(run: Run, p: int, c: Cluster = Cluster()) -> dict:
    """One run over p accelerators: {seconds, communication, share, efficiency, grown, memory}.

    efficiency: time of one accelerator over p times the time of p. grown: the same where the run
    has p times the environments.
    """
    if p > run.envs:
        raise ValueError(f"accelerators: {p} are more than {run.envs} environments")
    one, talk = run.fixed + run.divisible, communication(run, p, c)
    seconds = run.fixed + run.divisible / p + talk
    return dict(
        accelerators=p,
        seconds=seconds,
        communication=talk,
        share=talk / seconds,
        efficiency=one / (p * seconds),
        grown=one / (one + talk),
        memory=run.kept + run.step_bytes * run.steps / p,
    )


def pays(run: Run, p: int, efficiency: float = 0.5, c: Cluster = Cluster()) -> float:
    """Seconds that an iteration must take on one accelerator, all of it divisible, for p of them
    to be so efficient: from e = w / (w + p C)."""
    return p * communication(run, p, c) * efficiency / (1 - efficiency)


def daly(save: float, between: float) -> float:
    """The best seconds of computing between checkpoints that take `save` seconds each, where
    failures are `between` seconds apart on average: Daly 2006; the root alone is Young 1974."""
    if save >= 2 * between:
        return between
    x = math.sqrt(save / (2 * between))
    return math.sqrt(2 * save * between) * (1 + x / 3 + x * x / 9) - save


def lost(interval: float, save: float, restart: float, between: float) -> float:
    """The share of time that failures cost: saving, computing half an interval again, restarting.
    First order: intervals are short beside the time between failures."""
    return save / (interval + save) + (interval / 2 + restart) / between


# ---- what is measured here ----------------------------------------------------------------------


def of_ppo(env: str, hyper: dict, network: dict, sizes: tuple[int, int]) -> dict:
    """Bytes an environment step and parameters of PPO, from compiled iterations of two sizes."""
    import jax
    import jax.numpy as jnp

    from jaxrl.run import job as jobs
    from jaxrl.run.run import memory, one_state, set_up

    found = []
    for n in sizes:
        hp = hyper | dict(num_envs=n)
        run = dict(paper="ppo", env=env, seeds=1, steps=n * hp["num_steps"])
        s = set_up(jobs.resolve(run=run, env_params={}, network=network, hyper=hp))
        state = one_state(s)
        step = jax.jit(s.algo.step, donate_argnums=0).lower(state, jnp.int32(0), s.hp, s.world)
        found.append((n * hp["num_steps"], memory(step.compile())))
        count = sum(x.size for x in jax.tree.leaves(state.inner.params))
    (a, x), (b, y) = found
    return dict(env=env, steps=[a, b], bytes=[x, y], step_bytes=(y - x) / (b - a), parameters=count)


def rank(i: int, port: int, rounds: int = 200) -> None:
    """One of two processes that add up arrays; the first prints the seconds of each size."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, i)
    mesh = Mesh(jax.devices(), "p")
    out = {}
    for size in (64, 4 * 9155, 2**22):
        own = NamedSharding(mesh, PartitionSpec("p"))
        mine = lambda _, n=size // 4: jnp.ones((1, n))
        x = jax.make_array_from_callback((2, size // 4), own, mine)
        add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
        spent = []
        for _ in range(rounds):
            began = time.perf_counter()
            add(x).block_until_ready()
            spent.append(time.perf_counter() - began)
        out[size] = dict(median=statistics.median(spent[10:]), least=min(spent[10:]))
    if i == 0:
        print(json.dumps(out))


def loopback() -> dict:
    """Seconds of an all-reduce between two CPU processes on this machine, by bytes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    call = [sys.executable, __file__, "rank", "--port", str(port), "--rank"]
    both = [subprocess.Popen([*call, str(i)], stdout=subprocess.PIPE, text=True) for i in (0, 1)]
    said = [p.communicate(timeout=300)[0] for p in both]
    return json.loads(next(line for line in said[0].splitlines() if line.startswith("{")))


CNN = dict(torso="cnn", hidden=(128,), shared=True)


def measure() -> dict:
    import os

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxrl.run.record import machine, revision, versions

    cartpole = dict(num_steps=32, minibatches=16, epochs=4)
    minatar = dict(num_steps=128, minibatches=16, epochs=4)
    return dict(
        machine=machine(),
        versions=versions(),
        revision=revision(),
        mlp=of_ppo("CartPole-v1", cartpole, {}, (1024, 2048)),
        cnn=of_ppo("Breakout-MinAtar", minatar, CNN, (64, 128)),
        loopback=loopback(),
    )


def record_of(name: str, key: str, *more: str) -> float:
    """A number of a record of this repository."""
    x = json.loads((HERE.parent / name).read_text())
    for k in (key, *more):
        x = x[k]
    return float(x)


def of_records() -> dict:
    """What other records hold: steps a second of the small runs, a language model's bytes."""
    model = ("models/memory.json", "found", "0.5B", "all, bfloat16")
    return dict(
        mlp=record_of("bench/bench.json", "b/1", "steps_per_second"),
        cnn=record_of("learning/breakout_cnn.json", "summary", "env_steps_per_second"),
        model={k: record_of(*model, k) for k in ("parameters", "cache_per_token", "state")},
    )


# ---- the cases and their tables -----------------------------------------------------------------


def cases(found: dict) -> list[Run]:
    """The runs of the tables. Of the small ones the seconds are a CPU's; see the page."""
    mlp, cnn, recorded, c = found["mlp"], found["cnn"], found["records"], Cluster()
    small, steps = 2048 * 32, 8192 * 128
    n, cache, state = (recorded["model"][k] for k in ("parameters", "cache_per_token", "state"))
    rows, length = 1024, 2000  # completions of an iteration, and their tokens
    read = length * 4 * n / c.hbm  # each step of writing reads the weights, on every accelerator
    cached = rows * length**2 / 2 * cache / c.hbm
    learn = 10 * n * rows * length / c.flops
    of, cores = lambda x: (x["parameters"], 64), "2 CPU cores, measured"
    return [
        Run(
            "MLP 64x64, CartPole",
            *of(mlp),
            small,
            mlp["step_bytes"],
            small / recorded["mlp"],
            envs=2048,
            whose=cores,
        ),
        Run(
            "CNN, MinAtar",
            *of(cnn),
            steps,
            cnn["step_bytes"],
            steps / recorded["cnn"],
            envs=8192,
            whose=cores,
        ),
        Run(
            "0.5B policy, tokens",
            int(n),
            4,
            rows * length,
            cache,
            cached + learn,
            read,
            state + 4 * n + 4 * n,  # beside it a gradient and the model it began with
            envs=rows,
        ),
    ]


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(head: list[str], rows: list) -> list[str]:
    return [line(*head), line(*["---"] * len(head)), *(line(*r) for r in rows), ""]


def ms(x: float) -> str:
    return f"{1000 * x:,.3g}" if x < 10 else f"{1000 * x:,.0f}"


def percent(x: float) -> str:
    return f"{100 * x:.3g} %" if x < 0.9995 else "100 %"


def size(x: float) -> str:
    if x >= 1e9:
        return f"{x / 1e9:,.1f} GB"
    return f"{x / 1e6:,.0f} MB" if x >= 1e7 else f"{x / 1e6:,.2g} MB"


def tables(found: dict) -> list[str]:
    """The page's tables from what was measured."""
    runs, c = cases(found), Cluster()
    out = ["One all-reduce of the gradient, and all communication of an iteration:", ""]
    out += table(
        ["run", "parameters", "gradient", "all-reduces", "on 8: one, us", "all, ms"]
        + ["on 1,024: one, us", "all, ms"],
        [
            [r.name, f"{r.parameters:,}", size(4 * r.parameters), f"{r.updates} + {r.small}"]
            + [
                x
                for p in (8, 1024)
                for x in (f"{all_reduce(4 * r.parameters, p) / US:,.0f}", ms(communication(r, p)))
            ]
            for r in runs
        ],
    )
    out += [
        "Seconds of an iteration on one accelerator at which so many are half efficient:",
        "",
    ]
    out += table(
        ["run", "8", "64", "1,024"],
        [[r.name, *(f"{pays(r, p):,.2g} s" for p in (8, 64, 1024))] for r in runs],
    )
    times = (0.01, 0.1, 1.0, 10.0, 100.0)
    out += [
        "Efficiency (8 / 1,024) by the seconds of an iteration on one accelerator:",
        "",
    ]
    out += table(
        ["run", *(f"{t:g} s" for t in times)],
        [
            [r.name]
            + [
                " / ".join(
                    percent(spread(r._replace(divisible=t, fixed=0.0), p)["efficiency"])
                    for p in (8, 1024)
                )
                for t in times
            ]
            for r in runs
        ],
    )
    out += ["The runs, each spread over so many accelerators:", ""]
    rows = []
    for r in runs:
        for p in COUNTS:
            x = spread(r, p)
            fits = "" if x["memory"] < c.memory else ", does not fit"
            rows.append(
                [r.name, r.whose, f"{p:,}", f"{x['seconds']:.3g}", percent(x["share"])]
                + [percent(x["efficiency"]), percent(x["grown"]), size(x["memory"]) + fits]
            )
    head = ["run", "one is", "accelerators", "iteration, s", "communication", "efficiency", "grown"]
    out += table([*head, "memory of one"], rows)
    out += [f"Failures, where a checkpoint holds a run up for {SAVE:g} s:", ""]
    rows = []
    for p in (8, 1024, 16_384):
        apart = 1 / (p * c.rate)
        best = daly(SAVE, apart)
        rows.append([f"{p:,}", f"{apart / 3600:,.1f} h", f"{best / 60:,.0f} min"])
        rows[-1] += [percent(lost(t, SAVE, RESTART, apart)) for t in (best, 300.0, 3600.0)]
    head = ["accelerators", "between failures", "best interval"]
    return out + table([*head, "then lost", "lost at 5 min", "lost at an hour"], rows)


SAVE = 1.0  # seconds that a checkpoint holds a run up: it is written beside the training
RESTART = 240.0  # seconds: JAX's heartbeat of 100, a start, compiling


def write_tables(found: dict) -> None:
    """Put the tables between the marks of the page, and the model's numbers beside it."""
    runs = cases(found)
    model = dict(
        cluster=Cluster()._asdict(),
        nccl={" ".join(k): v for k, v in NCCL.items()},
        runs=[r._asdict() | dict(spread=[spread(r, p) for p in COUNTS]) for r in runs],
    )
    (HERE / "scaling.json").write_text(
        json.dumps(dict(measured=found, model=model), indent=1) + "\n"
    )
    page = HERE / "scaling.md"
    text = "\n".join([BEGIN, "", *tables(found), END])
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: text, page.read_text(), flags=re.S))


def own(said: argparse.Namespace) -> None:
    """A reader's case."""
    run = Run(
        "own",
        said.parameters,
        said.updates,
        said.steps,
        said.step_bytes,
        said.seconds - said.fixed,
        said.fixed,
    )
    for p in said.accelerators:
        x = spread(run, p)
        print(
            f"{p:>6,} accelerators: {x['seconds']:.4g} s an iteration, communication "
            f"{percent(x['share'])}, efficiency {percent(x['efficiency'])} "
            f"({percent(x['grown'])} with {p:,} times the environments), {size(x['memory'])} each"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("what", choices=["measure", "tables", "own", "rank"])
    options.add_argument("--rank", type=int)
    options.add_argument("--port", type=int)
    options.add_argument("--seconds", type=float, help="of an iteration on one accelerator")
    options.add_argument("--fixed", type=float, default=0.0, help="of these, what does not divide")
    options.add_argument("--parameters", type=int)
    options.add_argument("--updates", type=int, default=64, help="epochs x minibatches")
    options.add_argument("--steps", type=int, default=0, help="environment steps of an iteration")
    options.add_argument("--step-bytes", type=float, default=0.0, help="bytes of memory each takes")
    options.add_argument("--accelerators", type=int, nargs="+", default=COUNTS)
    said = options.parse_args()
    if said.what == "rank":
        return rank(said.rank, said.port)
    if said.what == "own":
        if not said.seconds or not said.parameters:
            options.error("own needs --seconds and --parameters")
        return own(said)
    found = (
        measure()
        if said.what == "measure"
        else json.loads((HERE / "scaling.json").read_text())["measured"]
    )
    write_tables(found | dict(records=of_records()))


if __name__ == "__main__":
    main()
