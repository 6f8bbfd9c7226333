"""Papers against each other: the same budget, environments and seeds for each.

DIR/comparison.json     what was asked, and a row for each paper and environment
DIR/comparison.png      learning curves, and an interval plot over the environments
DIR/report.html, .md    the page
DIR/ENV/PAPER/          the run of each, a folder as any other
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.scores import RANGES
from jaxrl.errors import DIVERGED, InputError, RunError
from jaxrl.run import catalogue, checkpoint, record
from jaxrl.run import job as jobs
from jaxrl.run import queue as queues
from jaxrl.run.files import locked, write_whole
from jaxrl.run.job import Job
from jaxrl.run.sinks import Sinks
from jaxrl.run.stats import difference, finite, improvement, interval, iqm
from jaxrl.run.train import resume, train

RECORD = "comparison.json"
SHARED = ("seeds", "seed", "steps", "evals", "eval_episodes", "on_nan")  # by all runs
Shown = Callable[[Job], AbstractContextManager[tuple]]  # gives see and say for a run


class Unit(NamedTuple):
    """One paper on one environment."""

    method: str
    env: str
    job: Job
    folder: Path


def plan(methods: Sequence[str], envs: Sequence[str], run: dict, folder: Path) -> list[Unit]:
    """The runs of a comparison, each checked. InputError, in one line, for what is not allowed."""
    for kind, names in (("paper", methods), ("env", envs)):
        if twice := [n for i, n in enumerate(names) if n in names[:i]]:
            raise InputError(f"{kind}: {twice[0]} is named twice")
    units = []
    for env in envs:
        for method in methods:
            slug, hyper, network = jobs.method(method)
            tables = dict(env_params={}, network=network, hyper=hyper)
            own = dict(paper=catalogue.absolute(slug), env=env)
            job = jobs.resolve(run=run | own, **tables)
            run = {k: getattr(job, k) for k in SHARED} | run  # unsaid: as the first has it
            name = re.sub(r"[^\w.=,+-]", "_", method)
            units.append(Unit(method, env, job, folder / env.replace(":", "/") / name))
    return units


def opened(folder: Path, asked: dict) -> None:
    """Make a comparison's folder, or find the one that was asked for in it."""
    file = folder / RECORD
    if file.exists():
        was = record.load_json(file).get("asked", {})
        for key, value in asked.items():
            if was.get(key) != value:
                raise InputError(
                    f"run: {folder} holds a comparison of {key} {was.get(key)}, not {value}"
                )
    elif any(p.name != "lock" for p in folder.iterdir()):
        raise InputError(f"run: {folder} exists and is not an empty folder")
    else:
        write_whole(file, json.dumps(dict(asked=asked)))


def run_unit(unit: Unit, see: Any, say: Any, sinks: Sinks) -> dict:
    """The summary of a unit's run, which is begun, gone on with, or there already."""
    begun = checkpoint.points(unit.folder)
    if not any((p / checkpoint.MANIFEST).exists() for p in begun):  # or killed in its first one
        with locked(unit.folder):  # by one who is given up but lives it may be held
            for path in [p for p in unit.folder.iterdir() if p.name != "lock"]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return train(unit.job, unit.folder, see=see, say=say, sinks=sinks)
    loss = lambda line: line.startswith("sink ") and say(line)  # of the rest a row is enough
    return resume(unit.folder, unit.job, see, loss, sinks)


def task(unit: Unit, folder: Path, run: dict, sinks: Sinks) -> queues.Task:
    """A unit as a job of a queue."""
    spec = dict(folder=str(folder), method=unit.method, env=unit.env, run=run)
    spec |= dict(sinks=list(sinks.names), per_seed=sinks.per_seed)
    return queues.Task("unit", f"{unit.method} on {unit.env}", spec)


def perform(spec: dict, named: Sequence[str], say: Callable[[str], Any]) -> dict:
    """Do a unit that a queue asks for: its summary. InputError where no comparison asked for it."""
    folder, method, env = Path(spec["folder"]), spec["method"], spec["env"]
    paper = catalogue.absolute(method.partition(":")[0])
    jobs.refuse_code(dict(run=dict(paper=paper, env=env)), named)
    asked = record.load_json(folder / RECORD).get("asked", {})
    known = method in asked.get("methods", ()) and env in asked.get("envs", ())
    if not known or asked.get("run") != spec["run"]:
        raise InputError(f"run: {folder} holds no comparison with this {method} on {env}")
    (unit,) = plan([method], [env], spec["run"], folder)
    sinks = Sinks(tuple(spec["sinks"]), spec["per_seed"])
    return run_unit(unit, lambda chunk: None, say, sinks)


def from_workers(queue: Path, units: list[Unit], tasks: list[queues.Task], say: Any) -> list[dict]:
    """What workers made of each unit."""
    for unit, asked in zip(units, tasks):
        if not (unit.folder / "summary.json").exists():  # of a folder that was here before
            queues.forget(queue, asked)
    queues.submit(queue, tasks)
    return queues.gather(queue, tasks, say)


def compare(
    methods: Sequence[str],
    envs: Sequence[str],
    run: dict,
    folder: Path,
    shown: Shown,
    say: Callable[[str], Any] = lambda line: None,
    sinks: Sinks = Sinks(),
    queue: str | Path | None = None,
) -> dict:
    """Run what has not been run, and write what came out: {rows, files}.

    Args:
      methods: papers, each a slug or a file, or SLUG:NAME=VALUE,...; the first is the baseline.
      run: of every job: what is in `SHARED`.
      shown: as `jaxrl.cli.progress.shown`.
      sinks: where the curves of each run go besides its folder.
      queue: a folder, from which workers take the runs.

    A method that does not suit an environment or is lost to NaN is a row with its error.
    """
    catalogue.several(methods)
    units = plan(methods, envs, run, folder)
    run = {k: getattr(units[0].job, k) for k in SHARED}
    asked = dict(methods=list(methods), envs=list(envs), run=run)
    place = None if queue is None else queues.opened(queue)
    with locked(folder):
        opened(folder, json.loads(json.dumps(asked)))
        rows, done = [], []
        if place:
            done = from_workers(place, units, [task(u, folder, run, sinks) for u in units], say)
        for i, unit in enumerate(units):
            row: dict[str, Any] = dict(paper=unit.method, env=unit.env)
            try:
                if done:
                    summary = queues.value(done[i])
                else:
                    say(f"{i + 1} of {len(units)}: {unit.method} on {unit.env}")
                    with shown(unit.job) as (see, told):
                        summary = run_unit(unit, see, told, sinks)
            except (InputError, RunError) as e:
                if isinstance(e, RunError) and e.code != DIVERGED:
                    raise
                rows.append(row | dict(error=str(e)))
                say(str(e))
                continue
            kept = ("final_return", "frozen", "compile_seconds", "seconds")
            row |= {k: summary[k] for k in kept} | dict(error=None, folder=str(unit.folder))
            rows.append(row | dict(steps_per_second=summary["env_steps_per_second"]))
        against(rows, methods[0])
        write_whole(folder / RECORD, json.dumps(dict(asked=asked, rows=rows), indent=1))
    from jaxrl.run import pages

    return dict(rows=rows, files=pages.comparison(folder))


def against(rows: list[dict], first: str) -> None:
    """Add to each row how it stands against the first method on the same environment."""
    scores = {(r["paper"], r["env"]): per_seed(r) for r in rows if not r["error"]}
    for r in rows:
        mine, base = scores.get((r["paper"], r["env"])), scores.get((first, r["env"]))
        r["against"] = None
        if mine is not None and base is not None and r["paper"] != first:
            gap, ci = difference(mine, base)
            r["against"] = dict(
                paper=first,
                probability_of_improvement=improvement(mine, base),
                difference=finite(gap),
                ci95=finite(ci),
            )


def per_seed(row: dict) -> np.ndarray:
    return np.array(row["final_return"]["per_seed"], float)


class Scale(NamedTuple):
    """How returns of several environments are put on one scale."""

    ranges: dict[str, tuple[float, float]]
    words: str


def scale(rows: list[dict]) -> Scale:
    """Fixed ranges where every environment has one; else from the worst to the best seed here."""
    envs = list(dict.fromkeys(r["env"] for r in rows if not r["error"]))
    if len(envs) == 1:
        return Scale({envs[0]: (0.0, 1.0)}, f"return on {envs[0]}")
    if all(env in RANGES for env in envs):
        return Scale(
            {env: RANGES[env] for env in envs},
            "normalised return: 0 a random policy, 1 the most or PPO at its best (envs/scores.py)",
        )
    ranges = {}
    for env in envs:
        x = np.concatenate([per_seed(r) for r in rows if r["env"] == env and not r["error"]])
        low, high = np.nanmin(x), np.nanmax(x)
        ranges[env] = float(low), float(high if high > low else low + 1)
    return Scale(ranges, "return, from 0 (the worst seed of all here) to 1 (the best)")


def overall(rows: list[dict], s: Scale) -> dict[str, tuple[float, tuple[float, float]]]:
    """Each method's interquartile mean over environments and seeds with its 95 % interval; only of
    methods that have every environment."""
    out = {}
    for method in dict.fromkeys(r["paper"] for r in rows):
        mine = [r for r in rows if r["paper"] == method and not r["error"]]
        if {r["env"] for r in mine} != set(s.ranges):
            continue
        x = []
        for r in mine:
            low, high = s.ranges[r["env"]]
            x.append((per_seed(r) - low) / (high - low))
        stacked = np.stack(x)
        if len(x) == 1:
            out[method] = float(iqm(stacked[0])), interval(stacked[0])
        else:
            out[method] = difference(stacked, np.zeros_like(stacked))
    return out


def load(folder: Path) -> dict:
    """The record of a finished comparison. InputError if there is none."""
    found = record.load_json(folder / RECORD)
    if not isinstance(found.get("rows"), list):
        raise InputError(f"comparison: {folder} is not the folder of a finished comparison")
    return found
