"""jaxrl tune SLUG: a search for hyperparameters with Optuna."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole, check_names, only_json
from jaxrl.cli.output import columns, print_files, speaker, unused


@click.command()
@click.argument("paper")
@click.option("--env", default="", help="a name of `jaxrl envs`, or my_module:make")
@click.option("--trials", type=Whole(), default=32, show_default=True, help="in all, with failed")
@click.option("--vary", multiple=True, metavar="NAME=...", help="1e-4..1e-2:log, or :lin; 0.1,0.2")
@click.option("--static", multiple=True, metavar="NAME=...", help="what is static: epochs=2,4")
@click.option("--batch", type=Whole(), default=8, show_default=True, help="trials at once")
@click.option("--seeds", type=Whole(), default=4, show_default=True, help="of each trial")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="the first; the search's")
@click.option("--steps", type=Whole(), default=500_000, show_default=True, help="of one seed")
@click.option("--rows", type=Whole(), default=0, help="of a program at most  [default: by memory]")
@click.option("--run", "folder", metavar="DIR", help="where to write; where a stopped one goes on")
@click.option("--json", "as_json", is_flag=True, help="print the result, and nothing else")
@click.option("--quiet", is_flag=True, help="no progress")
def command(paper, env, trials, vary, static, batch, rows, folder, as_json, quiet, **run):
    """Search a paper's hyperparameters with Optuna.

    A batch of trials is one call of one compiled program; each static choice has its own. Without
    --vary and --static, lr and what the paper adds to its family are searched around their
    defaults. The best and the defaults are trained again on fresh seeds: that is the result to
    quote. Start it again with the same --run to go on, or with more --trials.
    """
    check_names(paper, env)
    with only_json(as_json) as emit:
        from jaxrl.run import pages
        from jaxrl.run.tune import check_sizes, described, plan, tune

        check_sizes(trials, batch, rows)
        asked, say = plan(paper, run | dict(env=env, evals=1), vary, static), speaker(quiet)
        target = Path(folder) if folder else unused("tune", paper.partition(":")[0])
        say("searching " + described(asked))
        out = tune(asked, target, trials, batch, rows, say)
        emit({k: out[k] for k in ("trials", "best", "default", "against", "files")})
    if not as_json:
        table = pages.trials(out)
        for line in columns([table.head, *table.rows[:10]]):
            click.echo(line)
        for line in pages.verdict(out):
            click.echo(line)
        print_files(out["files"])
