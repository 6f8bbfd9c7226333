"""jaxrl export RUN: a finished run's policy as a file."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole, named, only_json
from jaxrl.cli.output import speaker, writable


def use(path: Path, own: list[str], inputs: list[str]) -> list[str]:
    """The lines of Python that load a file and act."""
    if not path.suffix:
        loading = "from transformers import AutoModelForCausalLM"
        return [loading, f"model = AutoModelForCausalLM.from_pretrained({str(path)!r})"]
    if path.suffix == ".npz":
        more = f", named={own}" if own else ""
        loading = f"from jaxrl.run import export; act = export.load({str(path)!r}{more})"
        return [loading, "action, memory = act(obs, memory=None, key=None)"]
    read = f"bytearray(open({str(path)!r}, 'rb').read())"
    loading = f"from jax import export; act = export.deserialize({read}).call"
    taken = [x for x in ("obs", "memory", "seed") if any(line.startswith(x) for line in inputs)]
    call = f"act({', '.join(taken)})"
    if "memory" not in taken:
        return [loading, f"action = {call}"]
    return [loading, f"action, memory = {call}  # memory: zeros where an episode begins"]


@click.command()
@click.argument("run")
@click.option("--out", required=True, metavar="FILE", help="FILE.npz, FILE.stablehlo, or a folder")
@click.option("--seed", type=Whole(), help="whose policy  [default: the median final return's]")
@click.option("--best", is_flag=True, help="the checkpoint whose evaluation was best, not the last")
@click.option(
    "--stochastic", is_flag=True, help="a program that explores: its last argument a seed"
)
@named
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON, and nothing else")
def command(run, out, seed, best, stochastic, own, as_json):
    """Write a run's policy, one seed's, as a file to act with.

    An .npz holds its arrays, for jaxrl.run.export.load. A .stablehlo is the program itself, for any
    number of observations on cpu, cuda and tpu: it loads with jax alone (to write it takes
    pip install 'jaxrl[export]'). A folder holds the language model that the run began with, as it
    is now.
    """
    path = Path(out)
    with only_json(as_json) as emit:
        from jaxrl.run import export

        export.check_form(path, stochastic)
        writable(path)
        how = dict(seed=seed, best=best, stochastic=stochastic, named=own, say=speaker())
        made = export.export(Path(run), path, **how)
        fields = made._asdict()
        emit(dict(run=run, file=str(path)) | {k: x for k, x in fields.items() if k != "title"})
    if not as_json:
        click.echo(made.title)
        sides = f"{', '.join(made.inputs)} -> {', '.join(made.outputs)}"
        click.echo(f"{path}: {made.bytes:,} bytes; {sides}")
        for line in use(path, own, made.inputs):
            click.echo(line)
