"""How large a run may be on one device, and what the options that make room for it do.

    python experiments/big.py [memory] [speed] [learning] [million] [page]     all, if unsaid

memory    bytes an environment step takes, by XLA's account of the compiled program; nothing is run
speed     what the options cost: environment steps a second
learning  PPO's returns with observations kept in bfloat16 against float32, over seeds
million   `million_envs` with as many environments as there is room for: compiled at each power of
          two, and the largest that fits is run
page      results/scale/big.md from the record, results/scale/big.json
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.run import job as jobs
from jaxrl.run import record, run
from jaxrl.run.bench_startup import memory_of
from jaxrl.run.files import write_whole
from jaxrl.run.stats import difference, summarise
from jaxrl.run.sweep import SHARE, available

HOME = Path(__file__).parent / "results" / "scale"
RECORD = HOME / "big.json"
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bfloat16": dict(storage="bfloat16"),
    "8 pieces": dict(accumulate=8),
    "both": dict(storage="bfloat16", accumulate=8),
}
LARGE: dict[str, dict[str, Any]] = {
    "Breakout-MinAtar": dict(num_envs=2048, num_steps=128, minibatches=4),
    "distract/pendulum": dict(num_envs=2048, num_steps=64, minibatches=4),
    "CartPole-v1": dict(num_envs=16384, num_steps=32, minibatches=4),
}
TIMED = dict(num_envs=4096, num_steps=32, minibatches=4, epochs=2)
LEARNED = {"CartPole-v1": 100_000, "Acrobot-v1": 100_000, "Pendulum-v1": 200_000}
SEEDS = 16
# the recipe's inner loop, but for minibatches that a CPU gets through: one pass, 2**15 rows each
MILLION: dict[str, Any] = dict(num_steps=16, minibatch_size=2**15, epochs=1, lr=5e-3)
ITERATIONS = 3


def setting(paper: str, env: str, iterations: int, seeds: int = 1, **hyper: Any) -> run.Setting:
    """A job of so many iterations, on one device."""
    tables = dict(env_params={}, network={}, hyper=hyper)
    about = dict(paper=paper, env=env, seeds=seeds, evals=1, devices=1, steps=10**12)
    each = jobs.resolve(run=about, **tables).hyper.steps_per_iteration
    return run.set_up(jobs.resolve(run=about | dict(steps=iterations * each), **tables))


def program_of(*args: Any, **hyper: Any) -> tuple[run.Setting, run.Program, int]:
    """A job, its programs, and the environment steps of one iteration."""
    s = setting(*args, **hyper)
    return s, run.build(s), s.job.hyper.steps_per_iteration


def memory() -> dict:
    """Bytes an environment step with each of the options."""
    out = {}
    for env, sizes in LARGE.items():
        rows = {}
        for name, more in OPTIONS.items():
            _, program, steps = program_of("ppo", env, 1, **sizes, **more)
            rows[name] = dict(bytes=program.bytes, each=program.bytes / steps)
            print(env, name, f"{rows[name]['each']:.0f} bytes a step", flush=True)
        out[env] = sizes | dict(options=rows)
    return out


def timed(s: run.Setting, program: run.Program, n: int) -> tuple[list[float], Any]:
    """Seconds of each of n iterations, and the last one's metrics."""
    seconds, metrics = [], {}
    state = program.init(s.keys, s.hp, s.world)
    for t in range(n):
        began = time.perf_counter()
        at = jax.numpy.int32(t), jax.numpy.int32(1)
        state, metrics = program.advance(state, *at, s.hp, s.world)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    return seconds, jax.device_get(metrics)


def speed() -> dict:
    """Environment steps a second with each of the options: the best of rounds that take turns, as
    other work may go on beside it."""
    made = {k: program_of("ppo", "CartPole-v1", 4, **TIMED, **more) for k, more in OPTIONS.items()}
    best = dict.fromkeys(made, np.inf)
    for _ in range(3):
        for name, (s, program, _) in made.items():
            best[name] = min(best[name], *timed(s, program, 4)[0][1:])
    return TIMED | dict(options={k: made[k][2] / x for k, x in best.items()})


def returns(env: str, steps: int, storage: str) -> dict[str, np.ndarray]:
    """Of each seed: at the end, over episodes of its own by the mode; and on the way, the mean over
    iterations of the episodes that finished."""
    each = setting("ppo", env, 1).job.hyper.steps_per_iteration
    s = setting("ppo", env, steps // each, SEEDS, storage=storage)
    program, seen = run.build(s), []
    state = run.execute(s, program, lambda chunk: seen.append(chunk.metrics["episode_return"]))
    last = program.greedy((state, run.evaluation_keys(s, 1)), s.hp, s.world)
    return dict(final=run.mean_returns(last), mean=np.nanmean(np.concatenate(seen, 1), 1))


def learning() -> dict:
    """What bfloat16 changes of PPO's returns at the same steps, defaults and seeds."""
    out = {}
    for env, steps in LEARNED.items():
        x = {k: returns(env, steps, k) for k in ("float32", "bfloat16")}
        out[env] = dict(steps=steps, seeds=SEEDS)
        for what in ("final", "mean"):
            gap, interval = difference(x["bfloat16"][what], x["float32"][what])
            told = {k: summarise(v[what]) for k, v in x.items()}
            out[env][what] = dict(difference=gap, interval=interval, **told)
            print(f"{env} {what}: {gap:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]", flush=True)
    return out


def million() -> dict:
    """The largest powers of two of environments that fit, and some iterations at the largest."""
    room = int(SHARE * available())
    out: dict[str, Any] = dict(room=room, hyper=MILLION, env="CartPole-v1", fits={})
    for storage in ("float32", "bfloat16"):
        sizes = {}
        for power in range(16, 31):
            args = dict(num_envs=2**power, storage=storage, **MILLION)
            s, program, steps = program_of("million_envs", "CartPole-v1", ITERATIONS, **args)
            sizes[power] = program.bytes
            print(storage, f"2**{power}: {program.bytes / 2**30:.2f} GiB", flush=True)
            if program.bytes > room:
                break
            best = s, program, steps
        out["fits"][storage] = sizes
    s, program, steps = best
    seconds, metrics = timed(s, program, ITERATIONS)
    return out | dict(
        num_envs=s.job.hyper.num_envs,
        bytes=program.bytes,
        each=program.bytes / steps,
        seconds=seconds,
        steps_per_second=[steps / x for x in seconds],
        peak_mib=memory_of(os.getpid()),
        last={k: float(np.mean(v)) for k, v in metrics.items()},
    )


# ---- the page --------------------------------------------------------------------------------

TEXT = """# How large a run may be on one device, measured

`python experiments/big.py` made [the record](big.json) on {machine},
while other work ran on it. There was no accelerator: what XLA says of memory is of its programs for
a CPU, and other devices lay arrays out otherwise. `OPTIONS` in the script has what the names stand
for: `--storage bfloat16`, `--accumulate 8`, and both.

## Bytes of memory that an environment step of an iteration takes

{memory}

It is the whole of PPO's compiled program of one seed (state, rollout, update; 64 x 64 networks)
over `num_envs x num_steps`. MinAtar's observations are bits, which bfloat16 leaves as they are:
what it gains there is that nothing else as large as the rollout stands beside it. On an accelerator
with M bytes a run of S seeds at once has room for

    num_envs = share x M / (S x num_steps x bytes a step)

A share of a half is what a sweep allows itself (`SHARE` in `jaxrl/run/sweep.py`). The bytes are
best read off a program compiled there with fewer environments
(`jaxrl.run.run.build(setting).bytes`): they grow in proportion.

## What the options cost in time

{speed}

PPO on CartPole-v1 with {sizes}: the best of nine iterations
of each, in turns.

## What bfloat16 does to learning

{learning}

PPO with its defaults, {seeds} seeds, the same for both. Interquartile means; the difference is of
bfloat16 less float32, with its 95 % interval. *On the way* is the mean over iterations of the
episodes that finished in each; *at the end* is over 32 episodes of each seed, by the mode, which
the policy sees unrounded.

## `million_envs` with all the environments there is room for

{million}
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def memory_table(found: dict) -> str:
    rows = []
    for env in LARGE:
        r = found[env]
        size = f"{r['num_envs']:,} x {r['num_steps']}, {r['minibatches']} minibatches"
        rows.append([env, size, *(f"{r['options'][k]['each']:,.0f}" for k in OPTIONS)])
    return table(["environment", "an iteration", *OPTIONS], rows)


def speed_table(found: dict) -> str:
    each = found["options"]
    return table(list(each), [[f"{x:,.0f} steps/s" for x in each.values()]])


def learning_table(found: dict) -> str:
    rows = []
    for env in LEARNED:
        for what, words in dict(mean="on the way", final="at the end").items():
            r = found[env][what]
            low, high = r["interval"]
            means = [f"{r[k]['iqm']:.1f}" for k in ("float32", "bfloat16")]
            gap = f"{r['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
            rows.append([env, f"{found[env]['steps']:,}", words, *means, gap])
    return table(["environment", "steps", "return", "float32", "bfloat16", "difference"], rows)


def million_text(r: dict) -> str:
    most = {k: [p for p, x in v.items() if x <= r["room"]][-1] for k, v in r["fits"].items()}
    sizes = r["fits"]["bfloat16"]
    rows = [
        [f"2^{p}", *(f"{x[p] / 2**30:.2f}" if p in x else "" for x in r["fits"].values())]
        for p in max(r["fits"].values(), key=len)
    ]
    head = ["environments", *(f"{k}, GiB" for k in r["fits"])]
    hyper = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in r["hyper"].items())
    n = len(r["seconds"])
    steps = r["num_envs"] * r["hyper"]["num_steps"]
    command = f"jaxrl train million_envs --env {r['env']} --num-envs {r['num_envs']} {hyper}"
    said = (
        f"By XLA's account, {r['room'] / 2**30:.1f} GiB being half of what was free. With float32 "
        f"2^{most['float32']} environments fit, with bfloat16 2^{most['bfloat16']} "
        f"({r['num_envs']:,}).\nThese were run for {n} iterations of {steps:,} steps each:"
    )
    ran = [
        [str(i + 1), f"{x:.1f}", f"{y:,.0f}"]
        for i, (x, y) in enumerate(zip(r["seconds"], r["steps_per_second"]))
    ]
    end = (
        f"{sizes[most['bfloat16']] / 2**30:.2f} GiB were foreseen ({r['each']:.0f} bytes a step); "
        f"the process had {r['peak_mib'] / 1024:.2f} GiB at\nmost, the compiler's own with it. "
        f"As a command it is\n\n    {command} --storage bfloat16 --steps {n * steps}\n\n"
        "One pass in minibatches of 2^15 rows is not the paper's inner loop, but one that two "
        "cores\nget through. It says that such a run fits and goes, not what it learns."
    )
    tables = table(head, rows), table(["iteration", "seconds", "steps/s"], ran)
    return f"{said}\n\n{tables[1]}\n\n{end}\n\n{tables[0]}"


def write_page(found: dict) -> None:
    """The page of the record."""
    sizes = {k: v for k, v in found["speed"].items() if k in TIMED}
    text = TEXT.format(
        machine=found["million"]["about"]["machine"],
        memory=memory_table(found["memory"]),
        speed=speed_table(found["speed"]),
        sizes=", ".join(f"{k} {v:,}" for k, v in sizes.items()),
        learning=learning_table(found["learning"]),
        seeds=SEEDS,
        million=million_text(found["million"]),
    )
    write_whole(HOME / "big.md", text)


PARTS = dict(memory=memory, speed=speed, learning=learning, million=million)


def main(asked: list[str]) -> None:
    if unknown := [x for x in asked if x not in (*PARTS, "page")]:
        sys.exit(f"part: no {unknown[0]!r}; there is {', '.join((*PARTS, 'page'))}")
    HOME.mkdir(parents=True, exist_ok=True)
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in [x for x in asked or PARTS if x != "page"]:
        about = dict(machine=record.machine(), revision=record.revision())
        found[name] = PARTS[name]() | dict(about=about | dict(versions=record.versions()))
        write_whole(RECORD, json.dumps(found, indent=1) + "\n")
    if not asked or "page" in asked:
        write_page(json.loads(RECORD.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
