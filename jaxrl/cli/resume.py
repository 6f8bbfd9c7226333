"""jaxrl resume RUN: go on from the last checkpoint."""

from pathlib import Path

import click

from jaxrl.cli.options import DISTRIBUTED, Whole, named, only_json, sunk


@sunk
@click.command()
@click.argument("run")
@click.option("--steps", type=Whole(), help="of the whole run, to make it longer")
@click.option("--devices", type=Whole(("all",)), help="N or all  [default: as before]")
@named
@click.option("--json", "as_json", is_flag=True, help="print the summary, and nothing else")
@click.option("--quiet", is_flag=True, help="no progress")
def command(run, steps, devices, own, distributed, as_json, quiet, sink, per_seed):
    """Go on with a run that was stopped or killed: bit for bit as if it had not been.

    It goes on from the newest checkpoint whose every byte is as it was written, and names those
    that are not. A finished run is left as it is, or made longer by --steps; its schedules then end
    where the longer run does.
    """
    from jaxrl.run import ranks

    if distributed:
        ranks.join()
    with only_json(as_json and ranks.first()) as emit:
        from jaxrl.cli.progress import shown
        from jaxrl.cli.train import told
        from jaxrl.run.sinks import Sinks
        from jaxrl.run.train import reopen, resume

        sinks = Sinks(sink, per_seed)
        job = reopen(Path(run), steps, own, devices)
        with shown(job, quiet or not ranks.first()) as (see, say):
            summary = resume(Path(run), job, see, say, sinks)
        told(summary, Path(run), say)
        emit(summary)


command.params.append(DISTRIBUTED)
