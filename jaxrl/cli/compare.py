"""jaxrl compare SLUG SLUG ... --env ENV ...: which is better, and how sure is that?"""

from pathlib import Path

import click

from jaxrl.cli.options import Spread, Whole, only_json, queued, sunk
from jaxrl.cli.output import columns, print_files, speaker, unused
from jaxrl.errors import InputError
from jaxrl.run import catalogue


@sunk
@click.command(cls=Spread, spread=("--env",))
@click.argument("papers", nargs=-1, metavar="SLUG SLUG ...")
@click.option("--env", "envs", multiple=True, metavar="E [E ...]", help="one or several")
@click.option("--seeds", type=Whole(), default=10, show_default=True, help="of each")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="the first of them")
@click.option("--steps", type=Whole(), help="of one seed; unless said, as the first of them has it")
@click.option("--evals", type=Whole(), default=10, show_default=True, help="on the way")
@click.option("--eval-episodes", type=Whole(), help="of each; unless said, as the first has it")
@click.option("--on-nan", default="stop", show_default=True, help="stop or freeze a lost seed")
@click.option("--run", "folder", metavar="DIR", help="where to write; where a stopped one goes on")
@queued
@click.option("--json", "as_json", is_flag=True, help="print rows and files, and nothing else")
@click.option("--quiet", is_flag=True, help="no progress")
def command(papers, envs, folder, queue, as_json, quiet, sink, per_seed, **run):
    """Compare papers at the same budget, on the same environments and seeds.

    The first is what the others are measured against. A paper is a slug or a file, with settings of
    its own after a colon: ppo ppo:eps=0.1 ppo:hidden=256+256,lr=1e-4:0. Stop it and start it again
    with the same --run: what was finished is kept. One that cannot run is a row with its error.
    """
    import envs as registry

    catalogue.several(papers)
    if not envs:
        raise InputError("env: none given; jaxrl envs lists them")
    for paper in papers:  # a mistyped name is said before jax is imported
        catalogue.find(paper.partition(":")[0])
    for env in envs:
        registry.check_name(env)
    with only_json(as_json) as emit:
        from jaxrl.cli.progress import shown
        from jaxrl.run import compare, pages
        from jaxrl.run.sinks import Sinks

        sinks = Sinks(sink, per_seed)
        target = Path(folder) if folder else unused("compare", *papers)
        run = {k: v for k, v in run.items() if v is not None}
        see, say = lambda job: shown(job, quiet), speaker(quiet)
        out = compare.compare(list(papers), list(envs), run, target, see, say, sinks, queue)
        emit(out)
    if not as_json:
        for line in columns([pages.HEAD, *pages.lines(out["rows"])]):
            click.echo(line)
        print_files(out["files"])
