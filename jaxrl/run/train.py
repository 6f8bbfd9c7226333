"""A training run from a job to a finished folder: what `jaxrl train` and `jaxrl resume` do."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxrl.errors import DIVERGED, STORAGE, InputError, RunError
from jaxrl.run import checkpoint, guard, ranks, record, report
from jaxrl.run import job as jobs
from jaxrl.run.files import locked, write_whole
from jaxrl.run.job import Job
from jaxrl.run.run import (
    Chunk,
    Program,
    Setting,
    build,
    described,
    evaluation_keys,
    execute,
    mean_returns,
    over_rows,
    set_up,
)
from jaxrl.run.sinks import Sinks, open_sinks
from jaxrl.run.stats import finite, iqm, score, summarise

PLAYED = ("return", "length", "complete")  # what every evaluation says of its episodes
See: TypeAlias = Callable[[Chunk], None]
Say: TypeAlias = Callable[[str], Any]


def final(result: dict, world: Any = None) -> dict:
    """The statistics of a final evaluation, those of further objectives by their names, how many of
    its episodes were complete, and in a dataset's world the normalised score."""
    complete = result["complete"]
    counts = dict(
        episodes=int(complete.shape[1]), complete_episodes=[int(n) for n in complete.sum(1)]
    )
    others = {k: summarise(mean_returns(result, k)) for k in result if k not in PLAYED}
    out = summarise(mean_returns(result)) | counts | (dict(objectives=others) if others else {})
    known = getattr(world, "references", None)
    return out | (dict(score=score(mean_returns(result), known)) if known else {})


def train(
    job: Job,
    folder: Path,
    setting: Setting | None = None,
    see: See = lambda chunk: None,
    say: Say = lambda line: None,
    sinks: Sinks = Sinks(),
) -> dict:
    """Run a job, write its folder, return its summary.

    Args:
      see: called after each chunk, for a progress bar.
      say: called with a line at each stage.
      sinks: where its curves go besides the folder.

    Raises:
      RunError: it stopped before its end (a signal, a NaN, a full disk); see `resume`.
    """
    s = setting or set_up(job)
    job = s.job
    say(f"compiling {job.title}: {job.seeds} seeds, {job.iterations} iterations")
    program = build(s)
    with owned(folder) as place:
        return work(s, program, record.Recorder(place, job), None, see, say, sinks)


def reopen(
    folder: Path,
    steps: int | None = None,
    named: Iterable[str] = (),
    devices: int | str | None = 0,
) -> Job:
    """The job of a run's folder, with more steps if they are said.

    Args:
      devices: instead of those that it was run on, which need not be here; None: just those.
      named: code of one's own that may be run: the path of a paper's file, my_module:make.

    Raises:
      InputError: it is no run's folder, or its config.toml is not one, or names other code.
    """
    if not (folder / "config.toml").is_file():
        raise InputError(f"run: {folder} is not the folder of a run")
    tables = jobs.refuse_code(jobs.read(folder / "config.toml"), named)
    said = dict(steps=steps, devices=devices)
    tables["run"] |= {name: x for name, x in said.items() if x is not None}
    return jobs.resolve(**tables)


def restore(s: Setting, folder: Path, say: Say, best: bool = False) -> checkpoint.Point:
    """The newest checkpoint of a run, or the best, that is as it was written; others are named.

    Raises:
      RunError: there is none.
      InputError: config.toml is not what the run began with.
    """
    where, about = (checkpoint.best if best else checkpoint.newest)(folder, say)
    if (chosen := ranks.agreed(about["iteration"])) != about["iteration"]:
        where = where.with_name(str(chosen))  # the first process saw further
        about = checkpoint.verify(where)
    if different := jobs.changed(jobs.to_tables(s.job), about["tables"]):
        raise InputError(f"{different}; {folder} cannot go on")
    if (then := about.get("dataset", "")) != (now := getattr(s.world, "sha256", "")):
        raise InputError(f"dataset: {s.job.env} is {now[:12]}, but the run began with {then[:12]}")
    like = jax.eval_shape(over_rows(s.algo.init, s), s.keys, s.hp, s.world)
    point = checkpoint.load(where, about, like)
    if not record.whole(point):
        raise InputError(f"checkpoint: {where / checkpoint.METRICS} is not of its run")
    return point


def resume(
    folder: Path,
    job: Job | None = None,
    see: See = lambda chunk: None,
    say: Say = lambda line: None,
    sinks: Sinks = Sinks(),
) -> dict:
    """Go on with a run from its last checkpoint, bit for bit as if it had never stopped.

    Args:
      job: `reopen`'s; one with more steps extends the run, and its schedules end where it does.

    Raises:
      InputError: the folder is in use, or of another run.
      RunError: no checkpoint is whole; or as `train`.
    """
    job = job or reopen(folder, devices=None)
    with owned(folder) as place:
        s = set_up(job, begun=True)
        point = restore(s, folder, say)
        done = point.iteration
        if done > job.iterations:
            each = job.hyper.steps_per_iteration
            raise InputError(f"steps: {job.steps} is less than the {done * each} done already")
        ended = record.load_json(folder / "summary.json").get("iterations")
        if ranks.agreed(int(done == job.iterations == ended)):
            say(f"{folder} is finished; --steps N makes it longer")
            return record.load_summary(folder)
        if (then := point.about["versions"]) != (now := record.versions()):
            moved = [f"{k} {then.get(k)} is now {v}" for k, v in now.items() if then.get(k) != v]
            say(f"{', '.join(moved)}: the same bits are not promised")
        if ranks.first():
            checkpoint.set_aside(folder, done)
        say(f"resuming {job.title} after {done} of {job.iterations} iterations")
        return work(s, build(s), record.Recorder(place, job, point), point, see, say, sinks)


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """Hold a run's folder; give the place to write at. A failing disk, or a process that is lost,
    ends the run in one line."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.together(lambda: way_on(folder)))
        if ranks.first():
            stack.enter_context(locked(folder))
        stack.enter_context(storage(folder))
        yield stack.enter_context(ranks.written(folder))


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[None]:
    """A disk that fails ends a run in one line."""
    try:
        yield
    except OSError as e:
        why = (e.strerror or e) if (folder / "config.toml").exists() else "the folder is gone"
        raise RunError(f"run: {folder}: {why}; {way_on(folder)}", STORAGE) from e


def way_on(folder: Path) -> str:
    """How a run that stopped goes on."""
    if whole := [p for p in checkpoint.points(folder) if (p / checkpoint.MANIFEST).exists()]:
        return f"jaxrl resume {folder} goes on from {whole[0].name} iterations"
    return "there is no checkpoint"


class Watch:
    """What the host does after each chunk: record, look for what is lost, save, stop."""

    def __init__(self, s: Setting, recorder: record.Recorder, saver: checkpoint.Saver, say: Say):
        self.s, self.recorder, self.saver, self.say = s, recorder, saver, say
        self.frozen = {loss.row for loss in self.lost()}
        self.saved = time.monotonic()

    def lost(self) -> list[guard.Loss]:
        """Every seed that was lost so far."""
        arrays = self.recorder.arrays()
        metrics = {k: v for k, v in arrays.items() if k not in record.POINTS}
        return guard.losses(metrics) if metrics else []

    def save(self, iteration: int, state: Any, score: float | None = None) -> None:
        about = dict(
            score=score,
            seconds=self.recorder.seconds,
            tables=jobs.to_tables(self.s.job),
            versions=record.versions(),
            dataset=getattr(self.s.world, "sha256", ""),
        )
        self.saver.save(iteration, state, self.recorder.arrays(), about)
        self.saved = time.monotonic()

    def __call__(self, chunk: Chunk, caught: list[int]) -> None:
        job = self.s.job
        self.recorder.see(chunk)
        self.look(chunk)
        score = None if chunk.evaluation is None else finite(iqm(chunk.evaluation))
        every, stop = job.save_iterations, ranks.most(caught[0] if caught else 0)
        due = (
            bool(stop)
            or chunk.iteration == job.iterations
            or (every and chunk.iteration % every == 0)
            or (score is not None and score > self.saver.best)
            or time.monotonic() - self.saved >= 60 * job.save_minutes
        )
        if ranks.agreed(int(due)):
            self.save(chunk.iteration, chunk.state, score)
        if stop and chunk.iteration < job.iterations:
            self.saver.wait()
            raise RunError(f"stopped by {signal.Signals(stop).name}; {self.way_on()}", 128 + stop)

    def way_on(self) -> str:
        """How the run goes on; the folder is the first process's."""
        return way_on(self.recorder.folder) if ranks.first() else "the first process says how"

    def look(self, chunk: Chunk) -> None:
        """Stop at what is not finite, or say who is frozen."""
        size = chunk.metrics["finite"].shape[1]
        found = guard.losses(chunk.metrics, chunk.iteration - size)
        if chunk.evaluation is not None:
            rows = np.flatnonzero(~np.isfinite(chunk.evaluation))
            found += [guard.Loss(int(row), chunk.iteration, "eval_return") for row in rows]
        for loss in found:
            if loss.row in self.frozen:
                continue
            seed = self.s.seeds[loss.row]
            what = f"seed {seed}: {loss.metric} is not finite at iteration {loss.iteration}"
            if self.s.job.on_nan == "stop":
                self.saver.wait()
                way = f"{self.way_on()}, to the same end"
                raise RunError(f"{what}; --on-nan freeze runs the other seeds on; {way}", DIVERGED)
            if loss.metric == "eval_return":  # training goes well: there is nothing to freeze
                self.say(what)
            else:
                self.say(f"{what}: frozen as it was before")
                self.frozen.add(loss.row)


def work(
    s: Setting,
    program: Program,
    recorder: record.Recorder,
    point: checkpoint.Point | None,
    see: See,
    say: Say,
    sinks: Sinks,
) -> dict:
    """Train to the end with checkpoints on the way, and write what came out."""
    job, folder = s.job, recorder.folder
    say(described(s, program))
    saver = checkpoint.Saver(folder, job.keep)
    before = point.iteration if point else None
    opened = open_sinks(sinks if ranks.first() else Sinks(), s, folder, before, say)
    with guard.signals() as caught, contextlib.closing(saver), opened as write:
        watch = Watch(s, recorder, saver, say)
        if point:
            state, done = point.state, point.iteration
        else:
            state, done = program.init(s.keys, s.hp, s.world), 0
            watch.save(done, state)

        def both(chunk):
            see(chunk)
            write(chunk)  # before a checkpoint is saved: what is written twice is hidden once
            watch(chunk, caught)
            if chunk.evaluation is not None:
                program.sampled.soon()

        state = execute(s, program, both, state, done)
    last = (state, evaluation_keys(s, 1))
    told = {}
    if program.examined:
        first = program.init(s.keys, s.hp, s.world), evaluation_keys(s, 1)
        for name, x in dict(start=first, final=last).items():
            got = ranks.whole(program.examined(x, s.hp, s.world))
            told[name] = {k: summarise(np.asarray(v, float)) for k, v in got.items()}
    steps = job.iterations * job.hyper.steps_per_iteration
    summary = dict(
        paper=job.paper,
        env=job.env,
        seeds=job.seeds,
        seed=job.seed,
        steps=steps,
        iterations=job.iterations,
        final_return=final(ranks.whole(program.greedy(last, s.hp, s.world)), s.world),
        final_return_stochastic=final(ranks.whole(program.sampled(last, s.hp, s.world)), s.world),
        **told,
        frozen=[
            dict(seed=int(s.seeds[loss.row]), iteration=loss.iteration, metric=loss.metric)
            for loss in watch.lost()
        ],
        state_sha256=checkpoint.digest(checkpoint.plain(state)),
        env_steps_per_second=steps * job.seeds / recorder.seconds,
        seconds=recorder.seconds,
        compile_seconds=program.compile_seconds,
        seed_mode="map" if s.in_turn else "vmap",
        devices=s.layout.devices,
        versions=record.versions(),
    )
    arrays = recorder.finish()
    report.learning_curve(folder / "curve.png", arrays, job.title)
    write_whole(folder / "summary.json", json.dumps(summary, indent=1))  # last: it is finished
    return summary
