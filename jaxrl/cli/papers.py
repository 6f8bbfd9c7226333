"""jaxrl papers: what there is to train."""

import click

from jaxrl.cli.options import only_json
from jaxrl.errors import did_you_mean
from jaxrl.run import catalogue


@click.command()
@click.option("--chapter", help="only this chapter")
@click.option("--json", "as_json", is_flag=True, help="print a list of objects")
def command(chapter, as_json):
    """List the papers: slug, chapter, title."""
    rows = list(catalogue.papers().values())
    chapters = {r["chapter"] for r in rows}
    if chapter and chapter not in chapters:
        raise did_you_mean("chapter", chapter, chapters, f"there is {', '.join(sorted(chapters))}")
    rows = [r for r in rows if chapter in (None, r["chapter"])]
    with only_json(as_json) as emit:
        emit(rows)
    if not as_json:
        for r in rows:
            click.echo(f"{r['slug']:<14} {r['chapter']:<12} {r['title']}")
