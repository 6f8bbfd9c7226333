"""jaxrl report RUN|COMPARISON|SWEEP ...: pages to send to a colleague."""

from pathlib import Path

import click

from jaxrl.cli.options import named, only_json
from jaxrl.cli.output import speaker
from jaxrl.errors import InputError


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN|COMPARISON|SWEEP ...")
@click.option(
    "--films/--no-films", default=True, help="film what was not filmed yet  [default: films]"
)
@named
@click.option("--json", "as_json", is_flag=True, help="print the files of each, and nothing else")
def command(folders, films, own, as_json):
    """Write report.html, one file that needs nothing beside it, and report.md into each folder.

    A page shows an episode of every run's policy, which is filmed for it.
    A folder that cannot be read is named and skipped.
    """
    say = speaker()
    with only_json(as_json) as emit:
        from jaxrl.run import pages

        out = {}
        for folder in folders:
            try:
                out[folder] = pages.of(Path(folder), pages.Films(films, own, say))
            except InputError as e:
                say(f"skipped: {e}")
        if not out:
            raise InputError(f"report: none of {len(folders)} folders could be read")
        emit(out)
    if not as_json:
        for files in out.values():
            for path in files.values():
                click.echo(path)
