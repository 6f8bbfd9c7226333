"""Datasets for claims. Of offline papers: random, medium, expert and mixed, 10,000 rows each. Of
imitation: demos, every 20th step of the expert's first 4 episodes.

    python experiments/datasets.py [--folder experiments/datasets] [--rows 10000]

SAC on Pendulum-v1 is trained to a medium level, about a third of the way from a random policy to an
expert, and to an expert's. Of each the median seed acts as it explores, as D4RL's policies did (Fu
et al. 2020, arXiv 2004.07219). All is determined by the seeds and versions, which each file says; a
file that is there is kept. It takes about a minute.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import jaxrl
from envs import dataset as files
from jaxrl.cli.output import speaker
from jaxrl.run import dataset
from jaxrl.run.stats import describe

ABOUT = "Datasets for the claims of offline papers and of imitation."
HOME = Path(__file__).parent / "datasets"
LEVELS = {"medium": 3000, "expert": 10_000}  # steps of SAC
SETS: dict[str, dict] = {  # which policies, in equal parts
    "random": dict(random=True),
    "medium": dict(runs=("medium",)),
    "expert": dict(runs=("expert",)),
    "mixed": dict(runs=("medium", "expert"), random=True),
}
EPISODES, EVERY = 4, 20  # of the demonstrations (thinned as by Ho and Ermon 2016)


def thinned(data: files.Dataset, episodes: int, every: int) -> files.Dataset:
    """Every so many-th row of the first episodes, each a trajectory of its own."""
    rows = np.arange(0, data.ends[episodes - 1] + 1, every)
    ahead = files.ahead(data)[0][rows]
    kept = {k: getattr(data, k)[rows] for k in files.Dataset._fields[:5]}
    return files.Dataset(**kept, ends=np.arange(len(rows)), final_obs=ahead)


def main() -> None:
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument("--folder", type=Path, default=HOME)
    parser.add_argument("--rows", type=int, default=10_000)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: asked.folder / f"pendulum-{kind}.npz" for kind in SETS}
    wanted = {kind: path for kind, path in paths.items() if not path.exists()}
    with tempfile.TemporaryDirectory() as scratch:
        runs = {level: Path(scratch) / level for level in LEVELS if wanted}
        for level, folder in runs.items():
            how: dict[str, Any] = dict(seeds=5, steps=LEVELS[level], evals=1, quiet=True)
            run = jaxrl.train("sac", env="Pendulum-v1", folder=str(folder), **how)
            print(f"{level}: {describe(run.summary['final_return'])}", flush=True)
        for kind, path in wanted.items():
            made: dict[str, Any] = dict(SETS[kind])
            of = [runs[level] for level in made.pop("runs", ())]
            made |= dict(steps=asked.rows, stochastic=True, kind=kind, expert=runs["expert"])
            made |= dict(env="" if of else "Pendulum-v1", say=speaker())
            returns = dataset.make(path, of, **made)["returns"]
            print(f"{path}: {returns['mean']:.1f} over {returns['episodes']} episodes", flush=True)
    if not (demos := asked.folder / "pendulum-demos.npz").exists():
        data, about = files.read(paths["expert"])
        about |= dict(kind="demos", thinned=dict(episodes=EPISODES, every=EVERY))
        files.write(demos, thinned(data, EPISODES, EVERY), about)


if __name__ == "__main__":
    main()
