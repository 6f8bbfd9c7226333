"""jaxrl pretrain ENV: the policy that token runs of a task begin from."""

import click

from jaxrl.cli.options import Several, Whole, env_param, only_json
from jaxrl.cli.output import speaker
from jaxrl.errors import InputError

PART = click.FloatRange(0, 1)


@click.command()
@click.argument("env")
@click.option(
    "--hidden",
    type=Several(Whole()),
    default="64,64",
    show_default=True,
    help="widths of the layers",
)
@click.option("--low", type=PART, default=0.25, show_default=True, help="least pass@1 of a start")
@click.option("--high", type=PART, default=0.45, show_default=True, help="the most")
@click.option("--seed", type=Whole(), default=0, show_default=True)
@env_param("a parameter of the task, such as digits=3")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON, and nothing else")
def command(env, hidden, low, high, seed, env_params, as_json):
    """Fit a transformer to a token task's own solutions until it solves a part of them.

    Runs of the task and the architecture begin from it. They fit one by themselves where there is
    none; this makes another, between other bounds or of another seed, in its place.
    """
    import envs

    if low >= high:
        raise InputError(f"low: {low} is not below high, {high}")
    if not 0 <= seed < 2**31:
        raise InputError(f"seed: {seed} is outside [0, 2**31)")
    world = envs.make(env, **dict(env_params))
    with only_json(as_json) as emit:
        from jaxrl.families.tokens import Tokens
        from jaxrl.hyper import replace
        from jaxrl.run import pretrain

        network = replace(Tokens.network_for(""), hidden=hidden)
        params, about = pretrain.fitted(world, network, (low, high), seed, speaker(as_json))
        path = pretrain.place(world, network)
        pretrain.save(path, params, about)
        emit(about | dict(env=env, file=str(path)))
    if not as_json:
        parts = (f"{k} {about[k]:.3f}" for k in ("sampled", "greedy", "tempered"))
        click.echo(f"{env}: {', '.join(parts)} of held-out prompts after {about['steps']} steps")
        click.echo(path)
