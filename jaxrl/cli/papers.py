"""jaxrl papers: what there is, and what is known of it."""

import click

from jaxrl.cli.options import only_json
from jaxrl.errors import did_you_mean
from jaxrl.run import evidence, page


@click.command()
@click.option("--chapter", help="only this chapter")
@click.option("--references", is_flag=True, help="what others are measured against, instead")
@click.option("--json", "as_json", is_flag=True, help="print a list of objects")
@click.option("--write", is_flag=True, help="renew PAPERS.md in the checkout")
def command(chapter, references, as_json, write):
    """List the papers with their status.

    works: equation tests, battery and claim on record for this version of the file. not reproduced:
    the claim was run and did not come out. partial: evidence is missing. planned: no file yet.
    """
    rows = evidence.references() if references else evidence.entries()
    chapters = {r["chapter"] for r in rows}
    if chapter and chapter not in chapters:
        raise did_you_mean("chapter", chapter, chapters, f"there is {', '.join(sorted(chapters))}")
    rows = [r for r in rows if chapter in (None, r["chapter"])]
    if write:
        page.write()
    with only_json(as_json) as emit:
        emit(rows)
    if not as_json:
        for r in rows:
            click.echo(f"{r['slug']:<24} {r['chapter']:<16} {r['status']:<24} {r['title']}")
