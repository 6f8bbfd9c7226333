"""How a run looks while it goes: a bar on a terminal, one display that is renewed in a notebook, a
line per evaluation elsewhere."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrl.cli.output import speaker
from jaxrl.run.job import Job
from jaxrl.run.record import mean_of_finite
from jaxrl.run.run import Chunk
from jaxrl.run.stats import iqm


def big(x: float) -> str:
    """A count in a few characters: 1.25M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def recent(chunk: Chunk) -> str:
    """The return of the episodes that a chunk finished, in words."""
    x = mean_of_finite(chunk.metrics["episode_return"])
    return f"{iqm(x[np.isfinite(x)]):.1f}" if np.isfinite(x).any() else "none finished yet"


def in_notebook() -> bool:
    return Console().is_jupyter


NOTES, CELLS = 8, 30  # lines that stay above a notebook's bar; how long that is


class Display:
    """The last lines, and a bar under them: text in a notebook that is renewed where it stands."""

    def __init__(self):
        self.handle: Any = None
        self.notes: list[str] = []

    def show(self, *bar: str) -> None:
        from IPython.display import display

        data = {"text/plain": "\n".join([*self.notes, *bar])}
        if self.handle is None:
            self.handle = display(data, raw=True, display_id=True)
        else:
            self.handle.update(data, raw=True)

    def say(self, line: str) -> None:
        self.notes = [*self.notes, line][-NOTES:]
        self.show()


def notebook(job: Job) -> tuple:
    """(see, say) for a notebook."""
    display, each, began = Display(), job.hyper.steps_per_iteration, time.monotonic()
    total = job.iterations * each
    first: dict[str, float] = {}  # steps and time after the first chunk

    def see(chunk: Chunk) -> None:
        steps, now = chunk.iteration * each, time.monotonic()
        before, since = first.setdefault("steps", steps), first.setdefault("time", now)
        full = CELLS * steps // total
        words = [f"{big(steps)} of {big(total)} steps"]
        if steps > before:
            rate = (steps - before) / (now - since)
            words += [f"{big(rate * job.seeds)} steps/s", f"{(total - steps) / rate:.0f} s left"]
        if steps == total:
            words[2:] = [f"{now - began:.0f} s in all"]
        bar = "█" * full + "░" * (CELLS - full)
        display.show("  ".join([bar, *words, f"return {recent(chunk)}"]))

    return see, display.say


def lines(quiet: bool) -> Any:
    """A function that says a line: in a notebook where the one before it stands."""
    return Display().say if in_notebook() and not quiet else speaker(quiet)


@contextlib.contextmanager
def shown(job: Job, quiet: bool) -> Iterator[tuple]:
    """Give (see, say) for a run: what to call after each chunk, and with each line."""
    console = Console(stderr=True)
    if quiet:
        yield (lambda chunk: None), (lambda line: None)
        return
    if in_notebook():
        yield notebook(job)
        return
    each = job.hyper.steps_per_iteration
    total = job.iterations * each

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
