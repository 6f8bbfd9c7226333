"""jaxrl render RUN: a film of a finished run's policy."""

import os
from pathlib import Path

import click

from jaxrl.cli.options import Whole, named, only_json
from jaxrl.errors import InputError

FORMATS = ("gif", "mp4", "html")
BOUNDS = dict(episodes=(1, 100), steps=(1, 5000), fps=(1, 50))


def target(run: Path, format: str | None, out: str | None) -> Path:
    """Where the film will be, its suffix the format; refused before anything is played."""
    if format is not None and format not in FORMATS:
        raise InputError(f"format: {format!r} is not gif, mp4 or html")
    path = run / f"render.{format or FORMATS[0]}" if out is None else Path(out)
    suffix = path.suffix.removeprefix(".")
    if suffix not in FORMATS:
        raise InputError(f"out: {out} does not end in .gif, .mp4 or .html")
    if format not in (None, suffix):
        raise InputError(f"out: {out} is not a .{format}; --format says {format}")
    try:
        if path.exists() and path.absolute() != (run / f"render.{suffix}").absolute():
            raise InputError(f"out: {out} exists")
        missing = out is not None and not path.parent.is_dir()
        if missing or (path.parent.exists() and not os.access(path.parent, os.W_OK)):
            raise InputError(f"out: {path.parent} is not a folder to write to")
    except OSError as e:
        raise InputError(f"out: {str(path)[:80]}: {e.strerror}") from e
    return path


@click.command()
@click.argument("run")
@click.option("--format", metavar="|".join(FORMATS), help="of the film  [default: gif, or --out's]")
@click.option("--out", metavar="FILE", help="where to write it  [default: RUN/render.gif]")
@click.option("--seed", type=Whole(), help="whose policy  [default: the median final return's]")
@click.option("--best", is_flag=True, help="the checkpoint whose evaluation was best, not the last")
@click.option("--episodes", type=Whole(), default=1, show_default=True, help="one after the other")
@click.option("--steps", type=Whole(), help="cut an episode here  [default: its time limit]")
@click.option("--stochastic", is_flag=True, help="act as it explores, not by its mode")
@click.option("--fps", type=Whole(), help="frames a second  [default: what suits the environment]")
@named
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON, and nothing else")
def command(run, format, out, seed, best, episodes, steps, stochastic, fps, own, as_json):
    """Show a run's policy at work: a film of one episode of one seed.

    A gif, an mp4 (pip install 'jaxrl[video]'), or an html page that opens offline, where brax's
    bodies can be seen from several sides.
    """
    for name, value in dict(episodes=episodes, steps=steps, fps=fps).items():
        low, high = BOUNDS[name]
        if value is not None and not low <= value <= high:
            raise InputError(f"{name}: {value} is outside [{low}, {high}]")
    path = target(Path(run), format, out)
    with only_json(as_json) as emit:
        from jaxrl.run import evaluate, record, render
        from jaxrl.run.stats import finite

        if path.suffix == ".mp4":
            render.check_mp4()
        trained = record.load_summary(Path(run))
        s, state = evaluate.load(Path(run), best, own, lambda line: click.echo(line, err=True))
        seeds = [int(i) for i in s.seeds]
        returns = trained["final_return_stochastic" if stochastic else "final_return"]["per_seed"]
        if seed is None:
            index, how = render.median_seed(returns), ", the median final return"
        elif seed in seeds:
            index, how = seeds.index(seed), ""
        else:
            raise InputError(f"seed: {seed} is outside [{seeds[0]}, {seeds[-1]}], the run's seeds")
        most = render.limit(s.world, steps, episodes)
        drawing, play = render.player(s, state, most, not stochastic)
        keys = render.keys(s, index, episodes)
        played = [play(index, key) for key in keys]
        title = f"{s.job.paper} on {s.job.env}, seed {seeds[index]}"
        render.write(path, title, drawing, played, fps := fps or drawing.fps)
        about = [
            {"return": finite(e.returned()), "length": len(e.reward), "ended": e.ended or "cut"}
            for e in played
        ]
        which = dict(run=run, paper=s.job.paper, env=s.job.env, seed=seeds[index])
        emit(which | dict(file=str(path), fps=fps, episodes=about))
    if not as_json:
        click.echo(f"{title}{how if len(seeds) > 1 else ''}")
        for e in played:
            ended = e.ended or "cut"
            click.echo(f"return {e.returned():.4g} in {len(e.reward)} steps: {ended}")
        click.echo(path)
