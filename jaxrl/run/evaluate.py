"""Loading a finished run and playing its policy: here, or in Gymnasium's own environment."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import envs
from jaxrl.errors import InputError
from jaxrl.run import record
from jaxrl.run.run import Setting, evaluation_keys, over_rows, score, set_up
from jaxrl.run.stats import summarise
from jaxrl.run.train import Say, final, reopen, restore


def load(
    folder: Path, best: bool = False, named: Iterable[str] = (), say: Say = lambda line: None
) -> tuple[Setting, Any]:
    """A run's setting and its newest (or best) saved state, every seed's.

    Args:
      named: code of one's own that may be run, as in `train.reopen`.

    Raises:
      InputError, RunError: it cannot be read.
    """
    s = set_up(reopen(folder, named=named))
    return s, restore(s, folder, say, best).state


def check(episodes: int, seed: int, gymnasium: str | None, env_params: Any) -> None:
    """InputError, in one line, for what may not be asked of an evaluation."""
    if not 1 <= episodes <= 100_000:
        raise InputError(f"episodes: {episodes} is outside [1, 100000]")
    if not 0 <= seed < 2**31:
        raise InputError(f"seed: {seed} is outside [0, 2**31)")
    if gymnasium is not None and env_params:
        raise InputError("env_param: Gymnasium's environments keep their own physics")


def median_seed(per_seed: Sequence[float | None]) -> int:
    """Which of the seeds has the median return (the lower of two); those that diverged are none."""
    known = sorted((x, i) for i, x in enumerate(per_seed) if x is not None)
    return known[(len(known) - 1) // 2][1] if known else 0


def whose(s: Setting, returns: Sequence[float | None], seed: int | None) -> tuple[int, str]:
    """The row of a seed, and how it is called. None: the one with the median of the returns.

    Raises:
      InputError: the run has no such seed.
    """
    seeds = [int(i) for i in s.seeds]
    if seed is not None and seed not in seeds:
        raise InputError(f"seed: {seed} is outside [{seeds[0]}, {seeds[-1]}], the run's seeds")
    index = median_seed(returns) if seed is None else seeds.index(seed)
    chosen = ", the median final return" if seed is None and len(seeds) > 1 else ""
    return index, f"{s.job.title}, seed {seeds[index]}{chosen}"


class Seed(NamedTuple):
    """One seed of a finished run."""

    setting: Setting
    state: Any  # every seed's
    row: int
    title: str
    final_return: float | None


def one_seed(
    run: Path, seed: int | None, best: bool, stochastic: bool, named: Iterable[str], say: Say
) -> Seed:
    """The policy of a seed; None: of that with the median final return.

    Raises:
      InputError, RunError: as `load`, or the run has no such seed.
    """
    trained = record.load_summary(run)
    s, state = load(run, best, named, say)
    returns = trained["final_return_stochastic" if stochastic else "final_return"]["per_seed"]
    row, title = whose(s, returns, seed)
    return Seed(s, state, row, title, returns[row])


def elsewhere(s: Setting, env_params: dict) -> Setting:
    """The setting with other parameters of its environment. InputError if it has none such."""
    return s._replace(world=envs.make(s.job.env, **(s.job.env_params | env_params)))


def play(s: Setting, state: Any, env_params: dict, gymnasium: str | None, **how: Any) -> dict:
    """The statistics of every seed's policy where it is to be played."""
    if gymnasium is not None:
        return play_gymnasium(s, state, gymnasium, **how)
    return play_here(elsewhere(s, env_params) if env_params else s, state, **how)


def play_here(s: Setting, state: Any, episodes: int, seed: int, greedy: bool) -> dict:
    """The statistics of every seed's policy over complete episodes of the run's own environment."""
    f = over_rows(partial(score, s.algo, episodes, greedy), s)
    return final(jax.jit(f)((state, evaluation_keys(s, 2, seed)), s.hp, s.world), s.world)


def play_gymnasium(
    s: Setting, state: Any, name: str, episodes: int, seed: int, greedy: bool
) -> dict:
    """The same in Gymnasium's environment of this name, on the host, one seed after the other."""
    from envs.adapters import gymnasium_env

    spaces = s.world.observation_space, s.world.action_space
    algo = s.algo

    @jax.jit
    def step(one, obs, memory, key):
        key, k = jax.random.split(key)
        return *algo.act(one, obs, memory, None if greedy else k, s.hp), key

    def mean_return(one):
        carry = [algo.memory(episodes), jax.random.key(seed)]

        def act(obs):
            action, *carry[:] = step(one, jnp.asarray(obs), *carry)
            return np.asarray(action)

        return gymnasium_env.play(name, act, episodes, seed, *spaces)[0].mean()

    each = [mean_return(jax.tree.map(lambda x, i=i: x[i], state)) for i in range(s.job.seeds)]
    return summarise(each) | dict(episodes=episodes, complete_episodes=[episodes] * len(each))
