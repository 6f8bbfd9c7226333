"""jaxrl check-paper SLUG|FILE.py: the battery."""

import click

from jaxrl.run import catalogue


@click.command()
@click.argument("paper")
def command(paper):
    """Run the battery: what every paper must pass, on the smallest problem of its family.

    One program without callbacks; vmaps over seeds and every float; no dead float; resumes bit for
    bit; no NaN from rewards of 0, 1 and a million; a short file. Prints what is wrong, a line each,
    and exits with 1 if anything is.
    """
    catalogue.find(paper)  # a mistyped name is said before jax is imported
    from jaxrl.run.battery import examine

    problems = examine(paper)
    for line in problems:
        click.echo(line)
    found = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    click.echo(f"{paper}: {found if problems else 'all checks passed'}")
    return 1 if problems else 0
