"""jaxrl check-env ENV: is this environment what it says?"""

import click

import envs
from jaxrl.cli.options import Whole
from jaxrl.errors import InputError


@click.command()
@click.argument("env")
@click.option("--steps", type=Whole(), default=300, show_default=True, help="random steps to take")
def command(env, steps):
    """Check an environment's spaces, flags, determinism, vmap, final observation and resets.

    Prints what is wrong, a line each, and exits with 1 if anything is.
    """
    envs.check_name(env)
    if steps < 1:
        raise InputError(f"steps: {steps} is outside [1, inf)")
    from envs.check import check

    problems = check(env, steps=steps)
    for p in problems:
        click.echo(str(p))
    found = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    click.echo(f"{env}: {found if problems else 'all checks passed'}")
    return 1 if problems else 0
