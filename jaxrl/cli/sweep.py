"""jaxrl sweep SLUG: a grid of hyperparameters in one program."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole, check_names, only_json, queued
from jaxrl.cli.output import columns, print_files, speaker, unused
from jaxrl.errors import InputError


@click.command()
@click.argument("paper")
@click.option("--env", default="", help="a name of `jaxrl envs`, or my_module:make")
@click.option("--vary", multiple=True, metavar="NAME=VALUES", help="a float: 1e-4..1e-2:log8")
@click.option("--static", multiple=True, metavar="NAME=VALUES", help="what is static: epochs=2,4")
@click.option("--seeds", type=Whole(), default=8, show_default=True, help="of each point")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="the first of them")
@click.option("--steps", type=Whole(), default=500_000, show_default=True, help="of one seed")
@click.option("--rows", type=Whole(), default=0, help="of a program at most  [default: by memory]")
@click.option("--run", "folder", metavar="DIR", help="where to write; where a stopped one goes on")
@queued
@click.option("--json", "as_json", is_flag=True, help="print the result, and nothing else")
@click.option("--quiet", is_flag=True, help="no progress")
def command(paper, env, vary, static, rows, folder, queue, as_json, quiet, **run):
    """Train a paper at every point of a grid, on the same seeds.

    One compiled program holds all that is varied; each static choice is another. The best point is
    tried again on fresh seeds: that is the result to quote. What stays may be said after a colon:
    jaxrl sweep ppo:num-envs=32 --vary lr=1e-4..1e-2:log8. Start it again with the same --run to go
    on.
    """
    check_names(paper, env)
    if rows < 0:
        raise InputError(f"rows: {rows} is outside [0, inf)")
    with only_json(as_json) as emit:
        from jaxrl.run import pages
        from jaxrl.run.sweep import plan, sweep

        asked = plan(paper, run | dict(env=env, evals=1), vary, static)
        target = Path(folder) if folder else unused("sweep", paper.partition(":")[0])
        out = sweep(asked, target, rows, speaker(quiet), queue)
        emit({k: out[k] for k in ("rows", "best", "files")})
    if not as_json:
        head, lines = pages.points(out["rows"])
        for line in columns([head, *([str(x) for x in line] for line in lines[:10])]):
            click.echo(line)
        from jaxrl.run.stats import describe

        click.echo(f"the best, on fresh seeds: {describe(out['best']['fresh'])}")
        print_files(out["files"])
