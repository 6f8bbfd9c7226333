"""How a run looks while it goes: a bar on a terminal, a line per evaluation elsewhere."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrl.run.job import Job
from jaxrl.run.record import mean_of_finite
from jaxrl.run.stats import iqm


def big(x: float) -> str:
    """A count in a few characters: 1.25M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


@contextlib.contextmanager
def shown(job: Job, quiet: bool) -> Iterator[tuple]:
    """Give (see, say) for a run: what to call after each chunk, and with each line."""
    console = Console(stderr=True)
    if quiet:
        yield (lambda chunk: None), (lambda line: None)
        return
    each = job.hyper.steps_per_iteration
    total = job.iterations * each

    def recent(chunk) -> str:
        x = mean_of_finite(chunk.metrics["episode_return"])
        return f"{iqm(x[np.isfinite(x)]):.1f}" if np.isfinite(x).any() else "none finished yet"

    def line(chunk) -> None:
        if chunk.evaluation is not None:
            steps, x = chunk.iteration * each, chunk.evaluation
            console.print(
                f"{big(steps):>6} of {big(total)} steps  eval_return {iqm(x):.1f} "
                f"(worst seed {x.min():.1f})  episode_return {recent(chunk)}",
                highlight=False,
                soft_wrap=True,
            )

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield line, say
        return
    columns = (
        TextColumn("{task.fields[steps]:>6} of " + big(total) + " steps"),
        BarColumn(),
        TextColumn("{task.fields[rate]} steps/s"),
        TimeRemainingColumn(),
        TextColumn("return {task.fields[now]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, steps="0", rate="-", now="-")

        def bar(chunk) -> None:
            steps = chunk.iteration * each
            speed = progress.tasks[0].speed or 0.0
            fields: dict[str, Any] = dict(steps=big(steps), now=recent(chunk))
            progress.update(task, completed=steps, rate=big(speed * job.seeds), **fields)
            line(chunk)

        yield bar, say
