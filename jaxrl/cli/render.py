"""jaxrl render RUN: a film of a finished run's policy."""

from pathlib import Path

import click

from jaxrl.cli.options import Whole, named, only_json
from jaxrl.cli.output import speaker, writable
from jaxrl.errors import InputError

FORMATS = ("gif", "mp4", "html")
BOUNDS = dict(episodes=(1, 100), steps=(1, 5000), fps=(1, 50))


def target(run: Path, format: str | None, out: str | None) -> Path:
    """Where the film will be, its suffix the format; refused before anything is played."""
    if format is not None and format not in FORMATS:
        raise InputError(f"format: {format!r} is not gif, mp4 or html")
    path = run / f"render.{format or FORMATS[0]}" if out is None else Path(out)
    suffix = path.suffix.removeprefix(".")
    if format not in (None, suffix):
        raise InputError(f"out: {out} is not a .{format}; --format says {format}")
    if out is not None or path.parent.exists():
        writable(path, replaces=run / f"render.{suffix}")
    return path


def has_text(run: Path) -> bool:
    """Whether what a finished run's policy does is to be read. InputError where there is no run."""
    from jaxrl.run.record import load_summary

    return load_summary(run)["env"].startswith("tokens/")


def text(run: Path, path: Path, as_json: bool, **how) -> None:
    """Write what a token run samples, and say it."""
    with only_json(as_json) as emit:
        from jaxrl.run.traces import traces

        found = traces(run, path, **how, say=speaker())
        groups = [
            [dict(prompt=c.prompt, text="".join(t.text for t in c.tokens)) | shown(c) for c in g]
            for g in found.groups
        ]
        which = dict(run=str(run), paper=found.paper, env=found.env, seed=found.seed)
        emit(which | dict(file=str(path), groups=groups))
    if not as_json:
        click.echo(found.title)
        for c in [c for g in groups for c in g]:
            click.echo(f"{c['prompt']} {c['text']}  reward {c['reward']:.3g}")
        click.echo(path)


def shown(c) -> dict:
    """A completion's numbers."""
    return dict(reward=c.reward, advantage=[t.advantage for t in c.tokens])


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
    bodies can be seen from several sides. Of a token run the page has sampled completions of so
    many prompts as --episodes says, each token on the colour of its advantage.
    """
    for name, value in dict(episodes=episodes, steps=steps, fps=fps).items():
        low, high = BOUNDS[name]
        if value is not None and not low <= value <= high:
            raise InputError(f"{name}: {value} is outside [{low}, {high}]")
    if format is None and out is None and has_text(Path(run)):
        format = "html"
    path = target(Path(run), format, out)
    if path.suffix == ".html" and has_text(Path(run)):
        return text(Path(run), path, as_json, seed=seed, best=best, prompts=episodes, named=own)
    with only_json(as_json) as emit:
        from jaxrl.run import render
        from jaxrl.run.stats import finite

        how = dict(seed=seed, best=best, episodes=episodes, steps=steps, stochastic=stochastic)
        film = render.film(Path(run), path, **how, fps=fps, named=own, say=speaker())
        about = [
            {"return": finite(e.returned()), "length": len(e.reward), "ended": e.ended or "cut"}
            for e in film.episodes
        ]
        which = dict(run=run, paper=film.paper, env=film.env, seed=film.seed)
        emit(which | dict(file=str(path), fps=film.fps, episodes=about))
    if not as_json:
        click.echo(film.title)
        for e in about:
            click.echo(f"return {e['return']:.4g} in {e['length']} steps: {e['ended']}")
        click.echo(path)
