"""jaxrl claims SLUG|FILE.py ...: run a paper's experiment against its baseline, and record it."""

import click

from jaxrl.cli.options import only_json, queued
from jaxrl.cli.output import speaker
from jaxrl.errors import InputError
from jaxrl.run import catalogue, evidence
from jaxrl.run.page import number


@click.command()
@click.argument("papers", nargs=-1, metavar="SLUG|FILE.py ...")
@click.option("--all", "every", is_flag=True, help="each paper that has no claim on record yet")
@click.option("--quick", is_flag=True, help="4 seeds, a 20th of the steps; no record")
@queued
@click.option("--json", "as_json", is_flag=True, help="print a list of records, and nothing else")
def command(papers, every, quick, queue, as_json):
    """Rerun the experiment behind a paper's claim.

    Each arm gets the same small grid, chosen on seeds used for nothing else, and is reported on
    fresh ones. Prints each statement with its 95 % interval and the verdict, and records it under
    experiments/results/claims (of a file of your own, beside it). Stop it and start it again: what
    was finished is kept.
    """
    if bool(papers) == every:
        raise InputError("claims: name papers, or --all")
    known = {slug: catalogue.find(slug) for slug in papers}
    if every:
        checked = {s: p for s, p in catalogue.papers().items() if "check" in p}
        known = {s: p for s, p in checked.items() if not evidence.of(p)["claim"]}
    if any(catalogue.inside(paper) for paper in known.values()):
        evidence.results()
    from jaxrl.run import claims

    for slug in known:
        claims.read(slug)  # every one is readable before the first is run
    with only_json(as_json) as emit:
        out = []
        if queue:
            claims.submit(known, queue, quick)
        for slug, paper in known.items():
            say = speaker()
            say(f"{slug}: {paper['claim']}")
            out.append(claims.run(slug, quick=quick, say=say, queue=queue))
            if not as_json:
                report(out[-1], quick)
        emit(out)


def report(r: dict, quick: bool) -> None:
    """The comparison, a statement a line."""
    for s in r["statements"]:
        names = ("method_iqm", "baseline_iqm", "difference")
        method, baseline, gap, low, high = (
            number(x, 4) for x in (*[s[k] for k in names], *s["ci95"])
        )
        click.echo(
            f"{r['slug']}: {s['says']}: {method} against {baseline}; difference {gap} "
            f"(95 % [{low}, {high}], {s['n']} seeds on {len(s['envs'])} environments), probability "
            f"of improvement {s['probability_of_improvement']:.2f}: {s['verdict']}"
        )
    click.echo(f"{r['slug']}: {'quick: no evidence' if quick else r['verdict']}")
