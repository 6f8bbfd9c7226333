"""A search for hyperparameters with Optuna: trials in batches, each batch rows of one program.

DIR/journal.log          Optuna's record of every trial: a stopped search goes on from it
DIR/tune.json            what was asked, every trial, and the best against the paper's defaults
DIR/tune.png             the return of each trial, and how it goes with each parameter
DIR/report.html, .md     the page
"""

import dataclasses
import importlib.util
import json
import math
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl import hyper
from jaxrl.errors import DIVERGED, InputError, RunError
from jaxrl.hyper import Linear
from jaxrl.run import catalogue, record
from jaxrl.run import job as jobs
from jaxrl.run.files import locked, write_whole
from jaxrl.run.job import Job
from jaxrl.run.run import set_up
from jaxrl.run.stats import difference, finite, improvement, iqm, summarise
from jaxrl.run.sweep import FRESH, Plan, Range, fitted, merit, named, opened, read, through
from jaxrl.run.train import Say

RECORD, JOURNAL = "tune.json", "journal.log"
BATCH, FRESH_SEEDS = 8, 8
STARTUP = 8  # trials at random before TPE models anything: the first batch, as it is by default


def plan(method: str, run: dict, vary: Sequence[str] = (), static: Sequence[str] = ()) -> Plan:
    """Check a search before anything compiles: each static choice, with each end of each range and
    each value of each list by itself. InputError, in one line. Nothing said: the `usual` space."""
    if not importlib.util.find_spec("optuna"):
        raise InputError("tune: needs optuna: pip install 'jaxrl[tune]'")
    asked = read(method, run, vary, static, ranges=True)
    if not (vary or static):
        asked = asked._replace(vary=usual(asked.job, jobs.method(method)[1]))
    for choice in asked.choices:
        asked.at(choice)
        for name, among in asked.vary.items():
            for x in among[:2] if isinstance(among, Range) else among:
                asked.at(choice | {name: x})
    return asked


def check_sizes(trials: int, batch: int, rows: int) -> None:
    """InputError, in one line, for what is not a number of them."""
    for name, x, least in (("trials", trials, 1), ("batch", batch, 1), ("rows", rows, 0)):
        if not isinstance(x, int) or x < least:
            raise InputError(f"{name}: {x} is not a whole number in [{least}, inf)")


def usual(job: Job, said: dict) -> dict[str, Range]:
    """The space where none is said: lr, or where it is a schedule its start, from a tenth to ten
    times its value; the floats that the paper adds to its family, from a third to three times.
    What the person has set (`said`) stays."""
    cls = catalogue.load(job.paper)[1]
    above = cls.__mro__[1]
    known = [f.name for f in dataclasses.fields(above)] if dataclasses.is_dataclass(above) else []
    out = {}
    for f in dataclasses.fields(cls):
        name, x, bounds = f.name, getattr(job.hyper, f.name), f.metadata.get("bounds")
        factor = 10 if name == "lr" else 3
        if name == "lr" and isinstance(x, Linear):
            name, x = "lr.start", x.start
        mine = f.name not in (*known, "horizon") and hyper.traced(f.type)
        if f.name in said or not (mine or f.name == "lr") or not isinstance(x, int | float):
            continue
        if 0 < x < math.inf:
            low, high = inside(x / factor, x, bounds), inside(x * factor, x, bounds)
            out |= {name: Range(low, high, True)} if low < high else {}
    if not out:
        raise InputError("vary: nothing to search by itself; --vary NAME=LOW..HIGH:log")
    return out


def inside(end: float, x: float, bounds: Any) -> float:
    """An end of a range around x, moved to where the bounds of its field end; just short of an end
    that they leave out."""
    if isinstance(bounds, str):
        for edge, bracket in zip(hyper.ends(bounds), (bounds[0], bounds[-1])):
            if min(end, x) <= edge <= max(end, x):
                end = edge if bracket in "[]" else x + 0.99 * (edge - x)
    return float(f"{end:.6g}")


def label(x: Any) -> Any:
    """A choice as Optuna's journal can hold it."""
    return x if isinstance(x, bool | int | float) else jobs.text([x])


def own(job: Job, name: str) -> Any:
    """The job's own value of what is searched."""
    root = name.partition(".")[0]
    if not hasattr(job.hyper, root):
        return getattr(job.network, name)
    return hyper.leaves(job.hyper)[name] if "." in name else getattr(job.hyper, name)


def space(asked: Plan) -> dict[str, Range | list]:
    return asked.static | asked.vary


def described(asked: Plan) -> str:
    """The space in words, as the flags take it."""
    words = {k: str(v) if isinstance(v, Range) else jobs.text(v) for k, v in space(asked).items()}
    return ", ".join(f"{name}={x}" for name, x in words.items())


def defaults(asked: Plan) -> dict[str, Any]:
    """The paper's own values, as Optuna has them, of what they lie in the space of."""
    out = {}
    for name, among in space(asked).items():
        x = own(asked.job, name)
        if isinstance(among, Range):
            fits = isinstance(x, int | float) and among.low <= x <= among.high
        else:
            fits = label(x) in map(label, among)
        out |= {name: label(x)} if fits else {}
    return out


def study_of(folder: Path):
    """The search of a folder as an Optuna study. What a killed process left undone is settled: a
    batch whose returns are all kept is told, any other has failed and will be done again."""
    with warnings.catch_warnings():  # of tqdm, which misses a widget in a notebook
        warnings.simplefilter("ignore")
        import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = folder / JOURNAL
    if file.exists() and not (text := file.read_bytes()).endswith(b"\n"):
        file.write_bytes(text[: text.rfind(b"\n") + 1])  # a line that was not finished spoils all
    storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", load_if_exists=True
    )
    left = [t for t in study.trials if not t.state.is_finished()]
    whole = all("per_seed" in t.user_attrs for t in left)
    if not whole:  # some of them may have theirs
        killed = study.user_attrs.get("killed", [])
        study.set_user_attr("killed", [*killed, *(t.number for t in left)])
    for t in left:
        tell(study, t.number, t.user_attrs if whole else dict(why="killed"))
    return study


def counted(study) -> list:
    """The trials that came to an end, in order."""
    killed = study.user_attrs.get("killed", [])
    return [t for t in study.trials if t.state.is_finished() and t.number not in killed]


def tell(study, number: int, kept: dict) -> None:
    """Tell Optuna what came out of a trial."""
    from optuna.trial import TrialState

    if "why" in kept:
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, float(iqm(np.array(kept["per_seed"]))))


def ask(study, asked: Plan, count: int, n: int) -> list:
    """The next n trials after `count`, all of one static choice: one that was not tried yet, or
    what the first of them is free to choose.

    The sampler is made anew from the seed and the count, so that a search that was stopped asks
    what it would have asked. The very first trial has the paper's own values where they may be.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler, TPESampler

    kinds = {
        name: FloatDistribution(among.low, among.high, log=among.log)
        if isinstance(among, Range)
        else CategoricalDistribution([label(x) for x in among])
        for name, among in space(asked).items()
    }
    seed = int(np.random.SeedSequence([asked.job.seed, count]).generate_state(1)[0])
    sampler = TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
    tried = [{k: t.params[k] for k in asked.static} for t in counted(study)]
    choices = [{k: label(x) for k, x in choice.items()} for choice in asked.choices]
    fixed = next((c for c in choices if c not in tried), {}) if count else defaults(asked)
    out = []
    for _ in range(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.sampler = PartialFixedSampler(fixed, sampler)
        out.append(study.ask(kinds))
        fixed = {name: out[0].params[name] for name in asked.static}
    return out


def point_of(asked: Plan, params: dict) -> dict[str, Any]:
    """A trial's point, as `Plan.at` takes it."""
    return {
        name: params[name]
        if isinstance(among, Range)
        else next(x for x in among if label(x) == params[name])
        for name, among in space(asked).items()
    }


class Programs:
    """Programs of so many rows, each compiled when it is first wanted.

    limit: rows at most; 0: as memory allows.
    """

    def __init__(self, rows: int, limit: int, say: Say):
        self.rows, self.limit, self.say = rows, limit, say
        self.known: dict[Any, tuple] = {}

    def __call__(self, these: list[Job], seeds: np.ndarray) -> np.ndarray:
        """The final returns [jobs, seeds]."""
        out = np.zeros((len(these), len(seeds)))
        kinds = [(jax.tree.structure(job.hyper), job.network) for job in these]
        for kind in dict.fromkeys(kinds):
            at = [i for i, k in enumerate(kinds) if k == kind]
            hps = [these[i].hyper for i in at for _ in seeds]
            if kind not in self.known:
                s = set_up(these[at[0]])
                rows = np.resize(seeds, self.rows)
                program, size = fitted(s, [s.job.hyper] * self.rows, rows, self.limit, self.say)
                self.known[kind] = program, size, s
            x = through(*self.known[kind], hps, np.tile(seeds, len(at)))
            out[at] = x.reshape(len(at), len(seeds))
        return out


def batch_of(study, asked: Plan, count: int, n: int, programs: Programs) -> None:
    """Ask for n trials, train them and tell what came out. Everything is kept before the first is
    told, so that a batch is done whole or not at all."""
    numbers = np.arange(asked.job.seed, asked.job.seed + asked.job.seeds)
    trials, good, why = ask(study, asked, count, n), {}, {}
    for i, t in enumerate(trials):
        try:
            good[i] = asked.at(point_of(asked, t.params))
        except InputError as e:  # values that do not go together
            why[i] = str(e)
    x = np.full((n, len(numbers)), np.nan)
    if good:
        x[list(good)] = programs(list(good.values()), numbers)
    for i, t in enumerate(trials):
        if lost := numbers[~np.isfinite(x[i])].tolist():
            why.setdefault(i, f"lost to NaN: seed {', '.join(map(str, lost))}")
        if i in why:
            t.set_user_attr("why", why[i])
        t.set_user_attr("per_seed", finite(x[i]))
    for t in trials:
        tell(study, t.number, t.user_attrs)


def tune(
    asked: Plan,
    folder: Path,
    trials: int,
    batch: int = BATCH,
    limit: int = 0,
    say: Say = lambda line: None,
) -> dict:
    """Search until there are so many trials, and write what came out: {trials, best, default,
    against, files}.

    Every trial trains on the same seeds, and its value is the interquartile mean over them. The
    best and the paper's defaults are then trained on seeds that were used for nothing else: that is
    the result to quote.

    Raises:
      RunError: every trial failed.
    """
    words = {k: str(v) if isinstance(v, Range) else v for k, v in asked.vary.items()}
    check_sizes(trials, batch, limit)
    question = dict(method=asked.method, vary=words, static=asked.static, batch=batch)
    question |= dict(tables=jobs.to_tables(asked.job))
    question = json.loads(json.dumps(question, default=jobs.to_toml))
    with locked(folder):
        file = folder / RECORD
        found = opened(file, question, "search")
        write_whole(file, json.dumps(found, indent=1))
        study = study_of(folder)
        programs = Programs(batch * asked.job.seeds, limit, say)
        while (count := len(counted(study))) < trials:
            n = min(batch, trials - count)
            batch_of(study, asked, count, n, programs)
            say(f"{count + n} of {trials} trials; {so_far(table(asked, study))}")
        rows = table(asked, study)
        if (best := max(rows, key=merit))["state"] == "fail":
            raise RunError(f"tune: all {len(rows)} trials failed: {rows[0]['why']}", DIVERGED)
        kept = json.loads(json.dumps(best["point"], default=jobs.to_toml))
        if found.get("best", {}).get("point") != kept:
            found |= on_fresh_seeds(asked, best["point"], programs, say)
        out = dict(trials=rows, best=best | dict(fresh=found["best"]["fresh"]))
        out |= dict(command=training(asked.at(best["point"])))
        about = dict(versions=record.versions(), revision=record.revision(), argv=sys.argv)
        write_whole(file, json.dumps(found | out | about, indent=1, default=jobs.to_toml))
    from jaxrl.run import pages

    return record.load_json(file) | dict(files=pages.tune(folder))


def load(folder: Path) -> dict[str, Any]:
    """The record of a finished search. InputError if there is none."""
    found = record.load_json(folder / RECORD)
    if "best" not in found:
        raise InputError(f"tune: {folder} is not the folder of a finished search")
    return found


def so_far(rows: list[dict]) -> str:
    """The best of the trials in words."""
    if (best := max(rows, key=merit))["state"] == "fail":
        return "all have failed"
    short = {k: f"{x:.4g}" if isinstance(x, float) else x for k, x in best["point"].items()}
    return f"the best {best['iqm']:.1f}: {named(short)}"


def table(asked: Plan, study) -> list[dict]:
    """A row for each trial: {number, point, iqm, mean, min, ci95, per_seed, state}, and `why` of
    one that failed. Numbers count what came to an end: Optuna's own also what was killed."""
    return [
        dict(number=i, point=point_of(asked, t.params))
        | summarise(np.array(t.user_attrs["per_seed"], float))
        | dict(state=t.state.name.lower())
        | {k: v for k, v in t.user_attrs.items() if k == "why"}
        for i, t in enumerate(counted(study))
    ]


def training(job: Job) -> str:
    """The command that trains a job's point."""
    import envs

    kind, cls = envs.kind(job.env), catalogue.load(job.paper)[1]
    words = ["jaxrl", "train", job.paper, "--env", job.env, "--steps", str(job.steps)]
    for now, plain in ((job.network, cls.network_for(kind)), (job.hyper, cls.for_env(kind))):
        for f in dataclasses.fields(plain):
            if (x := getattr(now, f.name)) != getattr(plain, f.name):
                flag = f.name.replace("_", "-")
                if isinstance(x, bool):
                    words += [f"--{flag}" if x else f"--no-{flag}"]
                else:
                    said = ",".join(map(str, x)) if isinstance(x, tuple) else jobs.to_toml(x)
                    words += [f"--{flag}", str(said)]
    return shlex.join(words)


def on_fresh_seeds(asked: Plan, point: dict, programs: Programs, say: Say) -> dict:
    """The best point and the paper's defaults, trained where nothing was chosen."""
    n = max(asked.job.seeds, FRESH_SEEDS)
    say(f"the best, and the defaults, on {n} fresh seeds")
    x, y = programs([asked.at(point), asked.job], np.arange(FRESH, FRESH + n))
    against = None
    if np.isfinite([x, y]).all():
        gap, ends = difference(x, y)
        against = dict(probability_of_improvement=improvement(x, y), difference=gap, ci95=ends)
    mine = {name: own(asked.job, name) for name in space(asked)}
    default = dict(point=mine, fresh=summarise(y))
    return dict(best=dict(fresh=summarise(x)), default=default, against=against)
