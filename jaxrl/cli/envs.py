"""jaxrl envs: what there is to train on."""

import click

import envs
from jaxrl.cli.options import only_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print a list of objects")
def command(as_json):
    """List the environments by class. One's own is my_module:make."""
    rows = [dict(name=n, kind=envs.kind(n)) for n in envs.names()]
    with only_json(as_json) as emit:
        emit(rows)
    if not as_json:
        for r in rows:
            click.echo(f"{r['kind']:<12} {r['name']}")
