"""jaxrl report RUN|COMPARISON ...: pages to send to a colleague."""

from pathlib import Path

import click

from jaxrl.cli.options import only_json
from jaxrl.errors import InputError


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN|COMPARISON ...")
@click.option("--json", "as_json", is_flag=True, help="print the files of each, and nothing else")
def command(folders, as_json):
    """Write report.html, one file that needs nothing beside it, and report.md into each folder.

    A folder that cannot be read is named and skipped.
    """
    with only_json(as_json) as emit:
        from jaxrl.run import pages

        out = {}
        for folder in folders:
            try:
                out[folder] = pages.of(Path(folder))
            except InputError as e:
                click.echo(f"skipped: {e}", err=True)
        if not out:
            raise InputError(f"report: none of {len(folders)} folders could be read")
        emit(out)
    if not as_json:
        for files in out.values():
            for path in files.values():
                click.echo(path)
