"""Datasets from what was trained: what `jaxrl dataset` does. The file is `envs/dataset.py`'s."""

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import envs
from envs import dataset, recorded
from envs.dataset import Dataset
from envs.recorded import Recorded
from jaxrl.errors import InputError, reason
from jaxrl.rollout import choose
from jaxrl.rollout import evaluate as episodes
from jaxrl.run import evaluate, record
from jaxrl.run.export import bounded
from jaxrl.run.files import check_folder, replacing
from jaxrl.run.stats import finite
from jaxrl.run.train import Say

EPISODES = 256  # by which a random policy's mean return is known, as in envs/scores.py


class Maker(NamedTuple):
    """Who a part of a dataset is recorded of."""

    act: Callable  # (obs, start, memory, key) -> (action, memory)
    memory: Callable[[int], Any]
    world: Any
    env: str
    env_params: dict
    about: dict


def where(env: str, params: dict, world: Any) -> tuple[str, dict]:
    """The environment that is played in a world of this name, and its parameters."""
    if isinstance(world, Recorded):
        about = json.loads(world.about)
        return about["env"], about["env_params"]
    return env, params


def of_run(
    run: Path, seed: int | None, stochastic: bool, best: bool, named: Iterable[str], say: Say
) -> Maker:
    """The policy of a finished run, a seed's or the median one's, by its mode or as it explores."""
    found = evaluate.one_seed(run, seed, best, stochastic, named, say)
    s, row = found.setting, found.row
    state = jax.tree.map(lambda x: x[row], found.state)

    def act(obs, start, memory, key):
        memory = choose(start, s.algo.memory(start.size), memory)
        action, memory = s.algo.act(state, obs, memory, key if stochastic else None, s.hp)
        return bounded(s.world.action_space, action), memory

    about = dict(
        paper=Path(s.job.paper).stem,
        seed=int(s.seeds[row]),
        steps=record.load_summary(run).get("steps"),
        acts="as it explores" if stochastic else "by its mode",
        final_return=found.final_return,
    )
    say(found.title)
    return Maker(act, s.algo.memory, s.world, *where(s.job.env, s.job.env_params, s.world), about)


def of_chance(env: str, params: dict) -> Maker:
    """The uniformly random policy."""
    world = envs.make(env, **params)
    about = dict(paper="uniform", seed=None, steps=0, acts="at random", final_return=None)
    names = where(env, params, world)
    return Maker(recorded.uniform(world), lambda n: (), world, *names, about)


def returns(data: Dataset) -> dict:
    """Of the whole episodes of a dataset: how many, and what they returned (the first reward)."""
    x = data.returns.reshape(len(data.ends), -1)[data.complete, 0]
    numbers = dict(mean=x.mean(), std=x.std(), min=x.min(), max=x.max()) if len(x) else {}
    return dict(episodes=len(x), **{k: finite(v) for k, v in numbers.items()})


def references(maker: Maker, expert: float | None) -> dict:
    """The returns of a random and of an expert policy: by envs/scores.py, or measured and said."""
    known = None if maker.env_params else recorded.references(maker.env)
    if known is None:
        chance = recorded.uniform(maker.world)
        act = lambda obs, memory, key: chance(obs, np.zeros(EPISODES), memory, key)
        program = jax.jit(lambda key, world: episodes(act, (), world, key, EPISODES)["return"])
        known = dict(random=float(program(jax.random.key(0), maker.world).mean()), expert=None)
    return known if expert is None else known | dict(expert=expert)


def make(
    path: Path,
    runs: Sequence[Path] = (),
    *,
    steps: int,
    random: bool = False,
    env: str = "",
    env_params: dict | None = None,
    expert: Path | None = None,
    whose: int | None = None,
    stochastic: bool = False,
    best: bool = False,
    seed: int = 0,
    kind: str = "",
    named: Iterable[str] = (),
    say: Say = lambda line: None,
) -> dict:
    """Record a dataset of finished runs' policies, in equal parts; what it says of itself.

    Args:
      steps: rows in all.
      random: the uniformly random policy too; without runs in `env` with `env_params`.
      expert: the run whose final return is a normalised score of 100; None: by envs/scores.py.
      whose: the seed whose policy it is of each run; None: that with the median final return.
      stochastic: act as the policies explore, not by their modes.
      best: of the checkpoints whose evaluation was best, not of the last.
      seed: of the recording.

    Raises:
      InputError: there is nobody to record, a run cannot be read or is of another environment.
      RunError: the disk fails.
    """
    if path.suffix != ".npz":
        raise InputError(f"out: {path} does not end in .npz")
    check_folder(path)
    if not runs and not random:
        raise InputError("run: none given; --run RUN records a policy's steps, --random chance's")
    if random and not runs and not env:
        raise InputError("env: none given; --random needs --env, or a run")
    count = len(runs) + random
    if not count <= steps < 2**31:
        raise InputError(
            f"steps: {steps} is outside [{count}, 2**31), a row of each maker at least"
        )
    makers = [of_run(run, whose, stochastic, best, named, say) for run in runs]
    if random:
        first = (makers[0].env, makers[0].env_params) if makers else (env, env_params or {})
        makers.append(of_chance(*first))
    played = [f"{m.env} {m.env_params or ''}".strip() for m in makers]
    for other in played:
        if other != played[0]:
            raise InputError(f"run: {other} is another environment than {played[0]}")
    known = evaluate.one_seed(expert, None, best, False, named, say) if expert else None
    keys = jax.random.split(jax.random.key(seed), count)
    sizes = [steps // count + (i < steps % count) for i in range(count)]
    parts = []
    for m, key, size in zip(makers, keys, sizes):
        parts.append(recorded.record(m.act, m.memory, m.world, key, size))
        m.about.update(rows=size, returns=returns(parts[-1]))
    data = dataset.joined(parts)
    if problem := dataset.wrong(data):
        raise InputError(f"dataset: {problem}")
    about = dict(
        env=makers[0].env,
        env_params=makers[0].env_params,
        kind=kind or ("mixed" if count > 1 else "random" if random else "one policy"),
        seed=seed,
        makers=[m.about for m in makers],
        returns=returns(data),
        references=references(makers[0], known and known.final_return),
        versions=record.versions(),
    )
    save(path, data, about)
    return about


def save(path: Path, data: Dataset, about: dict) -> None:
    """Write a dataset whole, or not at all."""
    with replacing(path, "dataset") as new:
        dataset.write(new, data, about)


def info(path: Path) -> dict:
    """What is in a dataset: what it says of itself, and what its arrays are."""
    path = dataset.find(str(path))
    data, about = dataset.read(path)
    shapes = {k: f"{x.dtype}{list(x.shape)}" for k, x in dataset.flat(data).items()}
    size = dict(rows=len(data.reward), trajectories=len(data.ends), bytes=path.stat().st_size)
    # what the arrays hold, whatever the file says of itself
    return about | size | dict(file=str(path), returns=returns(data), arrays=shapes)


# ---- Minari ----------------------------------------------------------------------------------


def minari_dataset(name: str) -> Any:
    """A dataset of this name that Minari has on this machine. InputError if it has not."""
    try:
        import minari
    except ImportError as e:
        raise InputError("minari: not installed; pip install 'jaxrl[data]'") from e
    with contextlib.redirect_stdout(None):
        try:
            return minari.load_dataset(name)
        except Exception as e:
            how = f"minari download {name} fetches one"
            raise InputError(f"minari: {name}: {reason(e)[:200]}; {how}") from e


def of_minari(found: Any, env: str = "") -> tuple[Dataset, dict]:
    """A Minari dataset as one of ours, its actions within [-1, 1]; what it says of itself.

    env: the environment of the kit that it was recorded in; "": the one of the same name.
    """
    env = env or getattr(found.env_spec, "id", None) or ""
    if not env:
        raise InputError(f"env: {found.id} names no environment; --env says it")
    envs.check_name(env)
    parts = [of_episode(e, found.action_space) for e in found.iterate_episodes()]
    if not parts:
        raise InputError(f"minari: {found.id} has no episodes")
    data = dataset.joined(parts)
    about = dict(
        env=env,
        env_params={},
        kind=found.id,
        makers=[dict(paper="minari", id=found.id, rows=len(data.reward))],
        returns=returns(data),
        references=recorded.references(env),
        versions=record.versions(),
    )
    return data, about


def of_episode(e: Any, space: Any) -> Dataset:
    """An episode, whose observations are one more than its steps. Minari's boxes have bounds of
    their own, ours are [-1, 1]."""
    action = np.asarray(e.actions)
    if action.dtype.kind == "f":
        low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
        action = np.clip(2 * (action - low) / (high - low) - 1, -1, 1).astype(np.float32)
    else:
        action = (action - getattr(space, "start", 0)).astype(np.int32)
    small = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    obs = dataset.each(lambda x: small(np.asarray(x)), e.observations)
    flags = [np.asarray(x, bool) for x in (e.terminations, e.truncations)]
    flags[1] &= ~flags[0]
    cut = flags[0] | flags[1]
    cut[-1] = True
    ends = np.flatnonzero(cut)
    return Dataset(
        dataset.each(lambda x: x[:-1], obs),
        action,
        np.asarray(e.rewards, np.float32),
        *flags,
        ends,
        dataset.each(lambda x: x[ends + 1], obs),
    )


def bring(name: str, path: Path, env: str = "") -> dict:
    """Write a Minari dataset as one of ours; what it says of itself."""
    if path.suffix != ".npz":
        raise InputError(f"out: {path} does not end in .npz")
    check_folder(path)
    data, about = of_minari(minari_dataset(name), env)
    if problem := dataset.wrong(data):
        raise InputError(f"minari: {name}: {problem}")
    recorded.fitted(data, envs.make(about["env"]), name)
    save(path, data, about)
    return about
