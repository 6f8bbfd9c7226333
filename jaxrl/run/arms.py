"""Measurements of claims: a method tuned on an environment, then run on fresh seeds.

What was measured is kept under a name of all that it depends on, so that claims with the same
baseline measure it once, and one that was broken off goes on; a queue's workers keep theirs alike.
"""

import dataclasses
import datetime
import hashlib
import itertools
import json
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import cache, hyper
from jaxrl.errors import InputError, did_you_mean
from jaxrl.run import catalogue, record
from jaxrl.run import job as jobs
from jaxrl.run import queue as queues
from jaxrl.run.files import write_whole
from jaxrl.run.run import (
    Program,
    Setting,
    build,
    evaluation_keys,
    execute,
    mean_returns,
    one_state,
    set_up,
)
from jaxrl.run.stats import finite

FIRST_TUNING_SEED = 1000
EMPTY: Mapping[str, Any] = MappingProxyType({})
REDUCE = {
    "max": lambda x: np.nanmax(x, 1),
    "mean": lambda x: np.nanmean(x, 1),
    "last": lambda x: np.nanmean(x[:, -max(1, x.shape[1] // 10) :], 1),
}


class Arm(NamedTuple):
    """One method of a comparison."""

    paper: str
    hyper: dict
    network: dict
    tune: dict
    steps: int = 0  # where they are not the environment's


class Asked(NamedTuple):
    """A measurement: an arm on an environment."""

    arm: Arm
    env: str
    steps: int
    seeds: int
    metrics: set[str]  # that there have to be; all are measured
    by: str = "final_return"  # what its point is chosen by; less is better after a minus
    env_params: Mapping[str, Any] = EMPTY

    @property
    def place(self) -> Path:
        """Where it is kept."""
        asked = self._asdict() | dict(arm=self.arm._asdict(), env_params=dict(self.env_params))
        del asked["metrics"]
        said = [asked, record.code("jaxrl/papers/")]
        digest = hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode())
        digest.update(b"".join(sources(catalogue.path(catalogue.find(self.arm.paper)))))
        name = f"{Path(self.arm.paper).stem}-{digest.hexdigest()[:16]}.json"
        return cache.home() / "jaxrl" / "arms" / name


def sources(path: Path) -> Iterator[bytes]:
    """A paper's file, and those of the papers that it takes pieces from."""
    yield (text := path.read_bytes())
    for name in re.findall(rb"^from (jaxrl\.papers\.\w+\.\w+) import", text, re.M):
        yield from sources(catalogue.ROOT / (name.decode().replace(".", "/") + ".py"))


def points(job: jobs.Job, tune: dict[str, list]) -> list:
    """The grid's hyperparameters: every combination, checked."""
    out = [
        hyper.check(hyper.replace(job.hyper, **dict(zip(tune, values))))
        for values in itertools.product(*tune.values())
    ]
    static = [k for k in tune if not any(n.split(".")[0] == k for n in hyper.leaves(out[0]))]
    if static:
        raise InputError(f"tune: {static[0]} is static: each value is another program")
    return out


def measure(x: Asked) -> dict:
    """Tune an arm on an environment, then run it on fresh seeds: its point, and its scores of all
    metrics."""
    arm, seeds = x.arm, x.seeds
    began = time.time()
    run = dict(paper=arm.paper, env=x.env, steps=x.steps, seeds=seeds, evals=1)
    params = dict(x.env_params)
    job = jobs.resolve(run=run, env_params=params, network=arm.network, hyper=arm.hyper)
    grid = points(job, arm.tune)
    s = set_up(job).among(grid)
    goal = x.by.removeprefix("-")
    there(x.metrics | {goal}, named(s), arm)  # said before anything compiles
    each = max(1, seeds // len(grid))
    order = np.minimum(np.arange(max(seeds, len(grid))) // each, len(grid) - 1)
    turn = np.arange(len(order)) % each  # the last rows repeat what is there already
    tuning = s.sweep([grid[i] for i in order], FIRST_TUNING_SEED + turn)
    program, chosen, tried = None, 0, []
    if len(grid) > 1:
        program = build(tuning)
        reached = scores(tuning, program, goal)[goal]
        tried = [float(reached[order == i][:each].mean()) for i in range(len(grid))]
        chosen = choose(tried, x.by)
    final = s.sweep([grid[chosen]] * seeds, np.arange(seeds))
    program = program if program and len(order) == seeds else build(final)
    table = jobs.to_tables(dataclasses.replace(job, hyper=grid[chosen]))
    tuned = lambda hp: {k: plain(jobs.to_toml(getattr(hp, k))) for k in arm.tune}
    return dict(
        paper=Path(arm.paper).stem,
        hyper={k: plain(v) for k, v in table["hyper"].items()},
        network=table["network"],
        steps=job.iterations * job.hyper.steps_per_iteration,
        tuned=tuned(grid[chosen]),
        tuning=[dict(tuned(p), **{goal: finite(r)}) for p, r in zip(grid, tried)],
        scores={k: finite(v) for k, v in scores(final, program).items()},
        wall_seconds=round(time.time() - began, 1),
    )


def named(s: Setting) -> list[str]:
    """The metrics that a run has, of training and of the method's own examination."""
    state = one_state(s)
    kinds = jax.eval_shape(s.algo.step, state, jnp.int32(0), s.hp, s.world)[1]
    out = ["final_return"] + [f"{reduce} {name}" for name in kinds for reduce in REDUCE]
    if s.algo.examine:
        seen = jax.eval_shape(s.algo.examine, state, jax.random.key(0), s.hp, s.world)
        out += [f"final {name}" for name in seen]
    return out


def there(metrics: set[str], known: Collection[str], arm: Arm) -> None:
    """InputError for a metric that a run does not have."""
    for metric in sorted(metrics - set(known)):
        words = [name.split()[-1] for name in known]
        raise did_you_mean(f"claim: {Path(arm.paper).stem}: metric", metric.split()[-1], words)


def once(x: Asked) -> dict:
    """`measure`, but never twice with the same code."""
    place = x.place  # of the code as it is now: a file may be edited meanwhile
    if place.exists():
        got = json.loads(place.read_text())
        there(x.metrics, got["scores"], x.arm)
        return got
    got = measure(x)
    got |= dict(measured=datetime.date.today().isoformat(), machine=record.machine())
    keep(place, got)
    return got


def keep(place: Path, got: dict) -> None:
    """Keep what was measured."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, json.dumps(got))


def choose(tried: list[float], by: str) -> int:
    """The best of the points by what each reached; one that was lost to NaN is the worst."""
    better = np.array(tried) * (-1 if by.startswith("-") else 1)
    return int(np.argmax(np.nan_to_num(better, nan=-np.inf)))


def plain(x: Any) -> Any:
    """A field as JSON can hold it, and `jobs.from_toml` read it."""
    return "inf" if isinstance(x, float) and x == np.inf else x


def scores(s: Setting, program: Program, only: str = "") -> dict[str, np.ndarray]:
    """A run's numbers [rows] by metric: all, or at least the one that is asked for."""
    chunks: list[dict[str, np.ndarray]] = []
    state = execute(s, program, lambda chunk: chunks.append(chunk.metrics))
    last = (state, evaluation_keys(s, 1))
    out = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric that never was is NaN
        for name in chunks[0]:
            x = np.concatenate([c[name] for c in chunks], 1).astype(float)
            out |= {f"{reduce} {name}": f(x) for reduce, f in REDUCE.items()}
    if only in ("", "final_return"):
        out["final_return"] = mean_returns(program.greedy(last, s.hp, s.world))
    if program.examined and (not only or only.startswith("final ")):
        seen = program.examined(last, s.hp, s.world)
        out |= {f"final {k}": np.asarray(x, float) for k, x in seen.items()}
    return out


def task(x: Asked, quick: bool) -> queues.Task:
    """A measurement as a job of a queue."""
    table = lambda values: {k: plain(jobs.to_toml(v)) for k, v in values.items()}
    tune = {k: [plain(jobs.to_toml(v)) for v in among] for k, among in x.arm.tune.items()}
    arm = x.arm._asdict() | dict(hyper=table(x.arm.hyper), network=table(x.arm.network), tune=tune)
    params = table(x.env_params)
    spec = x._asdict() | dict(arm=arm, metrics=sorted(x.metrics), env_params=params, quick=quick)
    return queues.Task("arm", f"{Path(x.arm.paper).stem} on {x.env}", spec)


def perform(spec: dict, named: Collection[str], say: Callable[[str], Any]) -> dict:
    """Do a measurement that a queue asks for."""
    paper, env = spec["arm"]["paper"], spec["env"]
    jobs.refuse_code(dict(run=dict(paper=catalogue.absolute(paper), env=env)), named)
    table = lambda values: {k: jobs.from_toml(k, v) for k, v in values.items()}
    lists = lambda values: {k: [jobs.from_toml(k, v) for v in xs] for k, xs in values.items()}
    said = {k: table(spec["arm"][k]) for k in ("hyper", "network")}
    arm = Arm(**spec["arm"] | said | dict(tune=lists(spec["arm"]["tune"])))
    x = Asked(**{k: spec[k] for k in Asked._fields})
    x = x._replace(arm=arm, metrics=set(x.metrics), env_params=table(x.env_params))
    say(f"{Path(paper).stem} on {env}: {x.seeds} seeds, {x.steps} steps")
    return measure(x) if spec["quick"] else once(x)
