"""A training run from a job to a finished folder: what `jaxrl train` does, for scripts too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrl.run import checkpoint, record, report
from jaxrl.run.job import Job
from jaxrl.run.run import (
    Chunk,
    Setting,
    build,
    evaluation_keys,
    execute,
    mean_returns,
    set_up,
)
from jaxrl.run.stats import summarise


def final(result: dict) -> dict:
    """The statistics of a final evaluation, and how many of its episodes were complete."""
    complete = result["complete"]
    return summarise(mean_returns(result)) | dict(
        episodes=int(complete.shape[1]), complete_episodes=[int(n) for n in complete.sum(1)]
    )


def train(
    job: Job,
    folder: Path,
    setting: Setting | None = None,
    see: Callable[[Chunk], None] = lambda chunk: None,
    say: Callable[[str], Any] = lambda line: None,
) -> dict:
    """Run a job, write its folder, return its summary.

    Args:
      see: called after each chunk, for a progress bar.
      say: called with a line at each stage.
    """
    s = setting or set_up(job)
    say(f"compiling {job.paper} on {job.env}: {job.seeds} seeds, {job.iterations} iterations")
    recorder = record.Recorder(folder, job)
    program = build(s)
    seconds = []

    def watch(chunk):
        seconds.append(chunk.seconds)
        recorder.see(chunk)
        see(chunk)

    state = execute(s, program, watch)
    last = (state, evaluation_keys(s, 1))
    steps = job.iterations * job.hyper.steps_per_iteration
    summary = dict(
        paper=job.paper,
        env=job.env,
        seeds=job.seeds,
        seed=job.seed,
        steps=steps,
        iterations=job.iterations,
        final_return=final(program.greedy(last, s.hp, s.world)),
        final_return_stochastic=final(program.sampled(last, s.hp, s.world)),
        env_steps_per_second=steps * job.seeds / sum(seconds),
        seconds=sum(seconds),
        compile_seconds=program.compile_seconds,
        seed_mode=job.seed_mode,
        versions=record.versions(),
    )
    checkpoint.save(folder / "ckpt" / str(job.iterations), state)
    arrays = recorder.finish(summary)
    report.learning_curve(folder / "curve.png", arrays, f"{job.paper} on {job.env}")
    return summary
