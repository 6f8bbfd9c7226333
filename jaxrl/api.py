"""What the commands do, from Python: each function returns what it wrote, and a notebook shows it.

    run = jaxrl.train("ppo", env="CartPole-v1", seeds=8, steps=1e5, lr=1e-3)
    run.arrays["episode_return"]              # [seeds, iterations]
    run.evaluate(env_params={"gravity": 12})
    run.render()

    jaxrl.compare(["ppo", "ppo:eps=0.05"], env=["CartPole-v1", "Acrobot-v1"], seeds=8, steps=1e5)
    jaxrl.sweep("ppo", env="CartPole-v1", vary={"lr": "1e-4..1e-2:log8"}, seeds=8)
    jaxrl.tune("ppo", env="CartPole-v1", trials=32)
    jaxrl.load("runs/CartPole-v1/ppo/20261121-044130")

Each writes a folder as its command does, into `folder` or under runs/. What is not allowed is an
`InputError` of one line.
"""

import base64
import functools
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.cli.output import unused
from jaxrl.cli.progress import lines, shown
from jaxrl.run import catalogue, evaluate, export, pages, record, render
from jaxrl.run import compare as comparing
from jaxrl.run import job as jobs
from jaxrl.run import sweep as sweeping
from jaxrl.run import train as training
from jaxrl.run import tune as searching
from jaxrl.run.document import Table
from jaxrl.run.run import set_up
from jaxrl.run.sinks import Sinks
from jaxrl.run.stats import describe


class Film:
    """A film of a policy at work; a notebook plays it."""

    def __init__(self, film: render.Film):
        self.path, self.title = film.path, film.title
        self.returns = [e.returned() for e in film.episodes]

    def __repr__(self) -> str:
        return f"{self.title}: {self.path}"

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        data = self.path.read_bytes()
        coded = base64.b64encode(data).decode()
        if self.path.suffix == ".gif":
            return {"image/gif": coded, "text/plain": repr(self)}
        if self.path.suffix == ".mp4":
            show = f'<video controls loop src="data:video/mp4;base64,{coded}"></video>'
        else:
            page = html.escape(data.decode())
            show = f'<iframe srcdoc="{page}" width="760" height="640" frameborder="0"></iframe>'
        return {"text/html": show, "text/plain": repr(self)}


class Result:
    """A folder that was written, with a picture and a table that a notebook shows."""

    picture = ""

    def __init__(self, folder: Path, named: Sequence[str] = ()):
        self.folder, self.named = folder, named

    @property
    def table(self) -> Table:
        raise NotImplementedError

    def report(self) -> dict[str, str]:
        """Write the page to send to a colleague, with films: {html, markdown} paths."""
        return pages.of(self.folder, pages.Films(True, self.named, lines(False)))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if (path := self.folder / self.picture).exists():  # there is none where all runs failed
            picture = base64.b64encode(path.read_bytes()).decode()
            display({"image/png": picture, "text/plain": repr(self)}, raw=True)
        display(self.table)


class Run(Result):
    """A finished run."""

    picture = "curve.png"

    def __init__(self, folder: Path, named: Sequence[str] = ()):
        super().__init__(folder, named)
        self.summary = record.load_summary(folder)

    def __repr__(self) -> str:
        s = self.summary
        return f"{Path(s['paper']).name} on {s['env']}: {describe(s['final_return'])}"

    @property
    def table(self) -> Table:
        return pages.result(self.summary)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every metric [seeds, iterations], `steps` [iterations], `eval_steps`, `eval_return`."""
        return record.load_arrays(self.folder)

    @property
    def final_return(self) -> np.ndarray:
        """Of each seed [seeds], acting by the mode; NaN of one that was lost."""
        return np.array(self.summary["final_return"]["per_seed"], float)

    def evaluate(
        self,
        episodes: int = 100,
        seed: int = 1,
        *,
        stochastic: bool = False,
        best: bool = False,
        env_params: Mapping[str, float] = {},
        gymnasium: str | None = None,
    ) -> np.ndarray:
        """Play every seed's policy, and give its mean return [seeds].

        Args:
          seed: of the episodes.
          stochastic: act as it explores, not by its mode.
          best: the checkpoint whose evaluation was best, not the last.
          env_params: other physics than it trained in.
          gymnasium: the name of Gymnasium's own environment to play in instead.
        """
        evaluate.check(episodes, seed, gymnasium, env_params)
        s, state = evaluate.load(self.folder, best, self.named)
        how = dict(episodes=episodes, seed=seed, greedy=not stochastic)
        result = evaluate.play(s, state, dict(env_params), gymnasium, **how)
        return np.array(result["per_seed"], float)

    def render(self, path: str | Path = "", **how: Any) -> Film:
        """Film a policy at work; `how` as in `jaxrl.run.render.film`. Default: render.gif beside
        the run."""
        target = Path(path) if path else self.folder / "render.gif"
        return Film(render.film(self.folder, target, named=self.named, **how))

    def export(self, path: str | Path, **how: Any) -> Any:
        """Write a seed's policy; `how` as in `jaxrl.run.export.export`. An .npz is loaded at once:
        act(obs, memory=None, key=None) -> (action, memory)."""
        export.export(self.folder, Path(path), named=self.named, **how)
        return export.load(path, self.named) if Path(path).suffix == ".npz" else Path(path)


class Comparison(Result):
    """A finished comparison."""

    picture = "comparison.png"

    def __init__(self, folder: Path, named: Sequence[str] = ()):
        super().__init__(folder, named)
        self.rows = comparing.load(folder)["rows"]

    def __repr__(self) -> str:
        return f"{len(self.rows)} rows: {self.folder}"

    @property
    def table(self) -> Table:
        return Table(pages.HEAD, pages.lines(self.rows))


class Sweep(Result):
    """A finished sweep."""

    picture = "sweep.png"

    def __init__(self, folder: Path, named: Sequence[str] = ()):
        super().__init__(folder, named)
        found = sweeping.load(folder)
        self.rows, self.best = found["rows"], found["best"]

    def __repr__(self) -> str:
        point, fresh = sweeping.named(self.best["point"]), describe(self.best["fresh"])
        return f"best of {len(self.rows)}: {point}; on fresh seeds {fresh}"

    @property
    def table(self) -> Table:
        return pages.points(self.rows)


class Search(Result):
    """A finished search."""

    picture = "tune.png"

    def __init__(self, folder: Path, named: Sequence[str] = ()):
        super().__init__(folder, named)
        self.found = searching.load(folder)
        self.trials, self.best = self.found["trials"], self.found["best"]

    def __repr__(self) -> str:
        point = sweeping.named(self.best["point"])
        return "\n".join([f"best of {len(self.trials)}: {point}", *pages.verdict(self.found)])

    @property
    def table(self) -> Table:
        return pages.trials(self.found)


def train(
    paper: str,
    *,
    env: str,
    folder: str | None = None,
    env_params: Mapping[str, float] = {},
    sinks: str | Sinks = "",
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a paper, a slug or a file, on an environment, many seeds in one program.

    Args:
      sinks: where the curves go besides the folder: "wandb", or Sinks(("wandb",), per_seed=True) of
        `jaxrl.run.sinks`.
      settings: as the command's flags, by their names: seeds=8, steps=1e5, lr=1e-3, hidden=(64,).
    """
    job = jobs.resolve(**jobs.said(paper, dict(env=env) | settings), env_params=dict(env_params))
    target, chosen = record.new_folder(folder, job), Sinks.of(sinks)
    setting = set_up(job)
    with shown(job, quiet) as (see, say):
        training.train(job, target, setting, see, say, chosen)
    return Run(target, [job.paper, job.env])


def resume(
    folder: str | Path,
    *,
    steps: float | None = None,
    devices: int | str | None = None,
    named: Sequence[str] = (),
    sinks: str | Sinks = "",
    quiet: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, or make one longer; on other devices if said."""
    job = training.reopen(Path(folder), jobs.whole(steps), named, devices)
    chosen = Sinks.of(sinks)
    with shown(job, quiet) as (see, say):
        training.resume(Path(folder), job, see, say, chosen)
    return Run(Path(folder), named)


def compare(
    papers: Sequence[str],
    *,
    env: str | Sequence[str],
    folder: str | None = None,
    sinks: str | Sinks = "",
    queue: str | None = None,
    quiet: bool = False,
    **run: Any,
) -> Comparison:
    """Train several papers at the same budget, on the same environments and seeds.

    Args:
      papers: slugs or files, with settings of their own as "ppo:eps=0.1"; the first is the
        baseline.
      queue: a folder from which workers take the runs: `jaxrl worker --queue DIR`.
      run: seeds (10), seed, steps, evals, on_nan and eval_episodes, of every run.
    """
    envs = [env] if isinstance(env, str) else list(env)
    catalogue.several(papers)  # a name alone is a sequence too, of its letters
    run = dict(seeds=10) | {k: jobs.whole(x) for k, x in run.items()}
    target = Path(folder) if folder else unused("compare", *papers)
    see = lambda job: shown(job, quiet)
    say = lines(quiet) if queue else (lambda line: None)  # a run has a display of its own
    comparing.compare(list(papers), envs, run, target, see, say, Sinks.of(sinks), queue)
    return Comparison(target, [*(catalogue.absolute(p.partition(":")[0]) for p in papers), *envs])


def flags(said: Mapping[str, Any]) -> list[str]:
    """Values by their names as --vary and --static take them."""
    return [f"{name}={jobs.text(x)}" for name, x in said.items()]


def sweep(
    paper: str,
    *,
    env: str,
    vary: Mapping[str, Any] = {},
    static: Mapping[str, Any] = {},
    rows: int = 0,
    folder: str | None = None,
    queue: str | None = None,
    quiet: bool = False,
    **run: Any,
) -> Sweep:
    """Train a paper at every point of a grid, in one program for each static choice.

    Args:
      vary, static: a name's values, as [1e-3, 1e-2] or as "1e-4..1e-2:log8".
      rows: of a program at most; 0: as memory allows.
      queue: a folder from which workers take the programs: `jaxrl worker --queue DIR`.
      run: seeds (8), seed and steps, of every point.
    """
    run = dict(seeds=8) | {k: jobs.whole(x) for k, x in run.items()}
    asked = sweeping.plan(paper, run | dict(env=env, evals=1), flags(vary), flags(static))
    target = Path(folder) if folder else unused("sweep", paper.partition(":")[0])
    sweeping.sweep(asked, target, jobs.whole(rows), lines(quiet), queue)
    return Sweep(target)


def tune(
    paper: str,
    *,
    env: str,
    trials: int = 32,
    vary: Mapping[str, Any] = {},
    static: Mapping[str, Any] = {},
    batch: int = searching.BATCH,
    rows: int = 0,
    folder: str | None = None,
    quiet: bool = False,
    **run: Any,
) -> Search:
    """Search a paper's hyperparameters with Optuna, in vmapped batches.

    Args:
      vary: a name's range, as "1e-4..1e-2:log", or its values; with `static` empty too, the usual
        space: lr and the paper's own floats around their defaults.
      batch: trials of one program, and between two proposals.
      run: seeds (4), seed and steps, of every trial.
    """
    run = dict(seeds=4) | {k: jobs.whole(x) for k, x in run.items()}
    how = run | dict(env=env, evals=1)
    asked = searching.plan(paper, how, flags(vary), flags(static))
    target = Path(folder) if folder else unused("tune", paper.partition(":")[0])
    sizes = [jobs.whole(x) for x in (trials, batch, rows)]
    searching.tune(asked, target, *sizes, lines(quiet))
    return Search(target)


def load(folder: str | Path, named: Sequence[str] = ()) -> Run | Comparison | Sweep | Search:
    """What a folder holds: a finished run, comparison, sweep or search.

    Args:
      named: code of one's own that may be run: the path of a paper's file, my_module:make.
    """
    folder = Path(folder)
    kinds = {comparing: Comparison, sweeping: Sweep, searching: Search}
    for module, kind in kinds.items():
        if (folder / module.RECORD).exists():
            return kind(folder, named)
    return Run(folder, named)
