"""A grid of hyperparameters: one compiled program for each static choice, all else vmapped.

DIR/sweep.json           what was asked, and the return of every seed at every point
DIR/sweep.png            how the return goes with each parameter, and with each two
DIR/report.html, .md     the page
"""

import dataclasses
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl import hyper
from jaxrl.errors import DIVERGED, InputError, RunError, did_you_mean
from jaxrl.run import catalogue, record
from jaxrl.run import job as jobs
from jaxrl.run import queue as queues
from jaxrl.run.files import locked, write_whole
from jaxrl.run.job import Job
from jaxrl.run.run import Program, Setting, build, evaluation_keys, execute, mean_returns, set_up
from jaxrl.run.stats import finite, summarise
from jaxrl.run.train import Say

RECORD = "sweep.json"
FRESH = 1_000_000  # the first of the seeds on which the best point is tried again
MOST = 10_000  # values of a range
SHARE = 0.5  # of the memory there is, that a program may take
RANGE = re.compile(r"(?P<low>[-+.\de]+?)\.\.(?P<high>[-+.\de]+):(?P<how>log|lin)(?P<n>\d*)")


class Range(NamedTuple):
    """All that is between two numbers, for a search."""

    low: float
    high: float
    log: bool

    def __str__(self):
        return f"{self.low:g}..{self.high:g}:{'log' if self.log else 'lin'}"


def values(slug: str, text: str, ranges: bool = False) -> tuple[str, list | Range]:
    """NAME=0.1,0.2 or NAME=1e-4..1e-2:log8 (or lin8): the name and its values.

    A schedule's start alone is lr.start. ranges: without a count, it is a `Range`.
    """
    name, equals, said = text.partition("=")
    if not equals or not said:
        raise InputError(f"vary: {text!r} is not NAME=VALUES")
    name, dot, leaf = name.partition(".")
    _, name, kind = jobs.setting(slug, name)
    if dot:
        name, kind = f"{name}.{leaf}", float
    if ".." not in said:
        return name, [jobs.typed(name, x, kind) for x in said.split(",")]
    how = ":log, :lin, :logN" if ranges else ":logN"
    wrong = InputError(f"vary: {text!r} is not NAME=LOW..HIGH{how} or :linN with LOW < HIGH")
    if not (found := RANGE.fullmatch(said)):
        raise wrong
    whole = ranges and not found["n"]
    try:
        low, high, n = float(found["low"]), float(found["high"]), 2 if whole else int(found["n"])
    except ValueError as e:
        raise wrong from e
    log = found["how"] == "log"
    if not 2 <= n <= MOST or not low < high < math.inf or (log and low <= 0):
        raise wrong
    if whole:
        return name, Range(low, high, log)
    space = np.geomspace if log else np.linspace
    return name, [float(f"{x:.6g}") for x in space(low, high, n)]


class Plan(NamedTuple):
    """A sweep, checked."""

    method: str
    job: Job  # without what is varied
    vary: dict[str, Any]  # lists; in a search a `Range` too
    static: dict[str, list]

    @property
    def choices(self) -> list[dict]:
        """What is static, a program each."""
        return [dict(zip(self.static, v)) for v in itertools.product(*self.static.values())]

    @property
    def points(self) -> list[dict]:
        """What is varied within a program."""
        return [dict(zip(self.vary, v)) for v in itertools.product(*self.vary.values())]

    def at(self, point: dict) -> Job:
        """The job of one point, checked."""
        nets = {k: v for k, v in point.items() if not hasattr(self.job.hyper, k.split(".")[0])}
        inner = {k: v for k, v in point.items() if "." in k}
        rest = {k: v for k, v in point.items() if k not in nets | inner}
        network = hyper.replace(self.job.network, **nets)
        hp = hyper.replace(self.job.hyper, **rest)
        for name, x in inner.items():
            hp = hyper.with_leaf(hp, name, x)
        return hyper.check(dataclasses.replace(self.job, network=network, hyper=hp))


def plan(method: str, run: dict, vary: Sequence[str], static: Sequence[str]) -> Plan:
    """Check a sweep whole, before anything compiles. InputError, in one line.

    method: a paper, or SLUG:NAME=VALUE,... for what stays.
    """
    if not (vary or static):
        raise InputError("vary: nothing is varied; --vary lr=1e-4..1e-2:log8")
    out = read(method, run, vary, static)
    for choice, point in itertools.product(out.choices, out.points):
        out.at(choice | point)
    return out


def read(
    method: str, run: dict, vary: Sequence[str], static: Sequence[str], ranges: bool = False
) -> Plan:
    """What is varied and what is static, by name; the points are not looked at yet."""
    slug, hp, network = jobs.method(method)
    run = run | dict(paper=catalogue.absolute(slug))
    job = jobs.resolve(run=run, env_params={}, network=network, hyper=hp)
    if job.seed + job.seeds > FRESH:
        last = job.seed + job.seeds - 1
        raise InputError(f"seed: {last} is one of the fresh seeds, which begin at {FRESH}")
    said: list[tuple[str, Any]] = [values(slug, text, ranges) for text in (*vary, *static)]
    roots = [name.split(".")[0] for name, _ in said]
    inner = list(hyper.leaves(job.hyper))
    traced = {*inner, *(n.split(".")[0] for n in inner)}
    for i, (name, among) in enumerate(said):
        if roots[i] in roots[:i]:
            raise InputError(f"vary: {roots[i]} is given twice")
        if "." in name and name not in inner:
            raise did_you_mean(slug, name, inner, f"{roots[i]} is no schedule here")
        if (name in traced) != (i < len(vary)):
            why = "vmapped: --vary" if name in traced else "static, a program each: --static"
            raise InputError(f"vary: {name} is {why} {name}=...")
        if isinstance(among, Range):
            if name not in traced:
                raise InputError(f"vary: {name} is static: {name}=V,V,... and no range")
            continue
        if len(set(map(str, among))) < len(among):
            raise InputError(f"{name}: a value is given twice")
        if name in traced and len({jax.tree.structure(x) for x in among}) > 1:
            raise InputError(f"{name}: a number and a schedule do not go in one program")
    return Plan(method, job, dict(said[: len(vary)]), dict(said[len(vary) :]))


def available() -> int:
    """Bytes of memory that are free: of the accelerator, or of the machine."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 4 * 2**30


def batches(rows: int, size: int) -> Iterator[np.ndarray]:
    """Rows in batches of one size; the last repeats the last row to fill up."""
    for begin in range(0, rows, size):
        yield np.minimum(np.arange(begin, begin + size), rows - 1)


def fitted(s: Setting, hps: list, seeds: np.ndarray, limit: int, say: Say) -> tuple[Program, int]:
    """A program for so many rows at a time as there is memory for, and that number.

    limit: rows at most; 0: as memory allows.
    """
    rows = min(limit or len(hps), len(hps))
    program = build(s.sweep(hps[:rows], seeds[:rows]))
    room = int(SHARE * available())
    if not limit and program.bytes > room:
        say(
            f"all rows at once want {program.bytes / 2**30:.1f} GiB; {room / 2**30:.1f} may be used"
        )
        rows = max(1, rows * room // program.bytes)
        program = build(s.sweep(hps[:rows], seeds[:rows]))
    count = -(-len(hps) // rows)
    how = "at once" if count == 1 else f"in {count} batches of {rows}"
    say(f"{len(hps)} rows {how}, about {program.bytes / 2**20:,.0f} MiB; --rows N sets it")
    return program, rows


def train_rows(s: Setting, hps: list, seeds: np.ndarray, limit: int, say: Say) -> np.ndarray:
    """The final return of each row."""
    return through(*fitted(s, hps, seeds, limit, say), s, hps, seeds)


def through(program: Program, size: int, s: Setting, hps: list, seeds: np.ndarray) -> np.ndarray:
    """The final return of each row, `size` of them at a time; NaN of one that was lost to NaN,
    whatever its policy then scores."""
    out = np.zeros(len(hps))
    for at in batches(len(hps), size):
        part = s.sweep([hps[i] for i in at], seeds[at])
        state = execute(part, program)
        x = mean_returns(program.greedy((state, evaluation_keys(part, 1)), part.hp, part.world))
        out[at] = np.where(state.finite, x, np.nan)
    return out


def opened(file: Path, question: dict, kind: str = "sweep") -> dict[str, Any]:
    """What a folder has of a sweep, or of another kind; refused where it holds anything else."""
    found = record.load_json(file)
    if found and found.get("asked") != question:
        raise InputError(f"run: {file.parent} holds another {kind}")
    if not found and any(p.name != "lock" for p in file.parent.iterdir()):
        raise InputError(f"run: {file.parent} exists and is not an empty folder")
    return found or dict(asked=question)


def program(asked: Plan, choice: dict, limit: int, say: Say) -> Any:
    """The final returns of all points of a static choice, a list for each."""
    number, points = asked.job.seeds, asked.points
    s = set_up(asked.at(choice | points[0]))
    hps = [hp for p in points for hp in [asked.at(choice | p).hyper] * number]
    x = train_rows(s.among(hps), hps, np.tile(s.seeds, len(points)), limit, say)
    return finite(x.reshape(len(points), number))


def again(asked: Plan, point: dict, limit: int, say: Say) -> dict:
    """The statistics of a point on fresh seeds."""
    s = set_up(dataclasses.replace(asked.at(point), seed=FRESH))
    return summarise(train_rows(s, [s.job.hyper] * asked.job.seeds, s.seeds, limit, say))


def question(asked: Plan) -> dict:
    """What a sweep asks, as JSON holds it."""
    said = dict(method=asked.method, vary=asked.vary, static=asked.static)
    said |= dict(tables=jobs.to_tables(asked.job))
    return json.loads(json.dumps(said, default=jobs.to_toml))


def perform(spec: dict, named: Sequence[str], say: Say) -> Any:
    """Do a part of a sweep that a queue asks for: `program` of a choice, or `again` of a point."""
    tables = jobs.refuse_code(jobs.nothing() | spec["tables"], named)
    typed = lambda table: {k: jobs.from_toml(k, x) for k, x in table.items()}
    tables |= {name: typed(tables[name]) for name in ("network", "hyper")}
    lists = lambda table: {k: [jobs.from_toml(k, x) for x in xs] for k, xs in table.items()}
    vary, static = lists(spec["vary"]), lists(spec["static"])
    asked = Plan(spec["method"], jobs.resolve(**tables), vary, static)
    do = {"choice": program, "point": again}[spec["part"]]
    return do(asked, typed(spec["at"]), spec["rows"], say)


def task(asked: Plan, part: str, at: dict, limit: int) -> queues.Task:
    """A part of a sweep as a job of a queue."""
    at = json.loads(json.dumps(at, default=jobs.to_toml))
    spec = question(asked) | dict(part=part, at=at, rows=limit)
    best = "best on fresh seeds" if part == "point" else ""
    label = " ".join(x for x in (asked.method, named(at), best, "on", asked.job.env) if x)
    return queues.Task("program", label, spec)


def from_workers(queue: Path, tasks: list[queues.Task], say: Say) -> list:
    """What workers made of parts of a sweep. InputError or RunError, as the first that ended so."""
    queues.submit(queue, tasks)
    return [queues.value(out) for out in queues.gather(queue, tasks, say)]


def sweep(
    asked: Plan,
    folder: Path,
    limit: int = 0,
    say: Say = lambda line: None,
    queue: str | Path | None = None,
) -> dict:
    """Run what has not been run of a sweep, and write what came out: {rows, best, files}.

    queue: a folder, from which workers take its programs.

    Each point trains on the same seeds. The best by its interquartile mean over them is tried again
    on as many seeds that were used for nothing else, and that is the result to quote.
    """
    place = None if queue is None else queues.opened(queue)
    with locked(folder):
        file = folder / RECORD
        done: dict[str, Any] = dict(programs={}, fresh=None)
        done |= opened(file, question(asked))
        programs, choices = done["programs"], asked.choices
        if place and (left := [c for c in choices if named(c) not in programs]):
            tasks = [task(asked, "choice", choice, limit) for choice in left]
            programs |= dict(zip(map(named, left), from_workers(place, tasks, say)))
            write_whole(file, json.dumps(done, indent=1))
        for i, choice in enumerate(choices):
            if (name := named(choice)) in programs:
                continue
            say(f"program {i + 1} of {len(choices)}{': ' if choice else ''}{name}")
            programs[name] = program(asked, choice, limit, say)
            write_whole(file, json.dumps(done, indent=1))
        rows = table(asked, done["programs"])
        if (best := max(rows, key=merit))["iqm"] is None:
            raise RunError(f"sweep: each of {len(rows)} points lost a seed to NaN", DIVERGED)
        if done["fresh"] is None:
            say(f"the best of {len(rows)}, {named(best['point'])}, on fresh seeds")
            if place:
                tasks = [task(asked, "point", best["point"], limit)]
                (done["fresh"],) = from_workers(place, tasks, say)
            else:
                done["fresh"] = again(asked, best["point"], limit, say)
        out = dict(rows=rows, best=dict(best, fresh=done["fresh"]))
        about = dict(versions=record.versions(), revision=record.revision(), argv=sys.argv)
        write_whole(file, json.dumps(done | out | about, indent=1, default=jobs.to_toml))
    from jaxrl.run import pages

    return load(folder) | dict(files=pages.sweep(folder))


def load(folder: Path) -> dict[str, Any]:
    """The record of a finished sweep. InputError if there is none."""
    found = record.load_json(folder / RECORD)
    if "best" not in found:
        raise InputError(f"sweep: {folder} is not the folder of a finished sweep")
    return found


def merit(row: dict) -> tuple:
    """What points are ordered by: the interquartile mean, then the mean, then the worst seed; one
    that was lost is below all."""
    return tuple(-np.inf if row[k] is None else row[k] for k in ("iqm", "mean", "min"))


def named(point: dict) -> str:
    """A point in words."""
    return ", ".join(f"{k}={jobs.to_toml(v)}" for k, v in point.items())


def table(asked: Plan, programs: dict[str, list]) -> list[dict]:
    """A row for each point: {point, iqm, mean, min, ci95, per_seed}."""
    return [
        dict(point=choice | point, **summarise(np.array(x, float)))
        for choice in asked.choices
        for point, x in zip(asked.points, programs[named(choice)])
    ]
