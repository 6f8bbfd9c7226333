"""jaxrl dataset make|info|import: recorded steps, to learn from without playing."""

from pathlib import Path
from typing import Any

import click

from jaxrl.cli.options import Whole, env_param, only_json
from jaxrl.cli.output import columns, speaker, writable
from jaxrl.errors import InputError

OVERWRITE = click.option("--overwrite", is_flag=True, help="replace the file that is there")
JSON = click.option("--json", "as_json", is_flag=True, help="print the result as JSON alone")


@click.group()
def command():
    """Record steps of policies as a file, look into one, or read one of Minari's.

    A file is an environment for --env: jaxrl train bc --env data/pendulum.npz.
    """


def target(out: str, overwrite: bool) -> Path:
    """The file to write. InputError if it is there and may not be replaced."""
    path = Path(out)
    return writable(path, path if overwrite else None)


@command.command("make")
@click.argument("out", metavar="OUT.npz")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="a finished run; may be repeated")
@click.option("--random", is_flag=True, help="the uniformly random policy, too or alone")
@click.option("--steps", type=Whole(), required=True, help="rows, in equal parts of each")
@click.option("--stochastic", is_flag=True, help="act as policies explore, not by their modes")
@click.option("--whose", type=Whole(), help="seed of each run's policy  [default: the median one]")
@click.option("--best", is_flag=True, help="the checkpoint whose evaluation was best, not the last")
@click.option("--expert", metavar="RUN", help="whose final return is a normalised score of 100")
@click.option("--kind", default="", help="what to call it, such as medium")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="of the recording")
@click.option("--paper", metavar="FILE.py", help="allow the run's own paper, this file")
@click.option("--env", default="", help="of --random without a run; or allow the run's own")
@env_param("physics of --env, such as gravity=12")
@OVERWRITE
@JSON
def make(out, runs, random, steps, paper, env, env_params, expert, overwrite, as_json, **how):
    """Record a dataset of the policies of finished runs, or of chance."""
    path = target(out, overwrite)
    if not 0 <= how["seed"] < 2**32:
        raise InputError(f"seed: {how['seed']} is outside [0, 2**32)")
    with only_json(as_json) as emit:
        from jaxrl.run import dataset

        how |= dict(named=[*([str(Path(paper).resolve())] if paper else []), env])
        how |= dict(random=random, env=env, env_params=dict(env_params), say=speaker())
        dataset.make(
            path, [Path(r) for r in runs], steps=steps, expert=expert and Path(expert), **how
        )
        emit(found := dataset.info(path))
    if not as_json:
        tell(found)


@command.command("info")
@click.argument("file", metavar="FILE.npz")
@JSON
def info(file, as_json):
    """Say what is in a dataset, who made it and what was returned."""
    with only_json(as_json) as emit:
        from jaxrl.run import dataset

        emit(found := dataset.info(Path(file)))
    if not as_json:
        tell(found)


@command.command("import")
@click.argument("name")
@click.argument("out", metavar="OUT.npz")
@click.option("--env", default="", help="the kit's environment  [default: of the same name]")
@OVERWRITE
@JSON
def import_(name, out, env, overwrite, as_json):
    """Write a Minari dataset that is on this machine as one of ours.

    It needs pip install 'jaxrl[data]'; minari download NAME fetches a dataset.
    """
    path = target(out, overwrite)
    with only_json(as_json) as emit:
        from jaxrl.run import dataset

        dataset.bring(name, path, env)
        emit(found := dataset.info(path))
    if not as_json:
        tell(found)


def spread(r: dict) -> str:
    """Returns in words."""
    if not r["episodes"]:
        return "no whole episode"
    numbers = f"{r['mean']:.1f} on average (from {r['min']:.1f} to {r['max']:.1f})"
    return f"{numbers} over {r['episodes']} whole episodes"


def tell(found: dict[str, Any]) -> None:
    """What is in a dataset, as lines."""
    params = "".join(f", {k}={v}" for k, v in found["env_params"].items())
    known = found.get("references") or {}
    said = ", ".join(f"{k} {v:.1f}" for k, v in known.items() if v is not None)
    rows = [
        ("environment", found["env"] + params),
        ("kind", found.get("kind", "")),
        ("rows", f"{found['rows']:,} in {found['trajectories']:,} trajectories"),
        ("return", spread(found["returns"])),
        ("references", said or "none"),
    ]
    for m in found.get("makers", []):
        steps = m.get("steps") or 0
        seed = "" if m.get("seed") is None else f" seed {m['seed']} after {steps:,} steps,"
        who = f"{m['paper']}{seed} {m.get('acts', m.get('id', ''))}"
        rows.append(("made by", f"{who}: {m['rows']:,} rows"))
    rows += [(name, what) for name, what in found["arrays"].items()]
    for line in columns(rows):
        click.echo(line)
