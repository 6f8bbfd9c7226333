"""Worlds with a dataset: what offline learners learn from, and where they are evaluated.

    envs.make("data/pendulum-medium.npz")    a file that `jaxrl dataset make` wrote
    envs.make("random/Pendulum-v1")          steps of the uniformly random policy, recorded now

Both take the environment's own parameters too, and then play in other physics than were recorded;
a file takes `best`, the share of its whole episodes that is kept, by return, and random/ENV takes
`rows` (and records in the physics it is given).
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import dataset, registry
from envs.base import AutoReset
from envs.dataset import Dataset
from envs.scores import RANGES
from jaxrl.errors import InputError

ROWS = 10_000


class Rows(struct.PyTreeNode):
    """Transitions [M, ...] in the order of time, one trajectory after the other."""

    obs: Any
    action: Any
    reward: jax.Array  # [M] or [M, K]
    terminated: jax.Array
    next_obs: Any  # the true one: before any reset
    next_action: Any  # what was done there; of a trajectory's last row its own
    cut: jax.Array  # bool: the last row of its trajectory


@struct.dataclass
class Recorded(AutoReset):
    """A world, playable as ever, with transitions that were recorded in it."""

    data: Any = None
    about: str = struct.field(pytree_node=False, default="{}")  # the dataset's, with its own env
    sha256: str = struct.field(pytree_node=False, default="")  # of its file

    @property
    def references(self) -> dict[str, float]:
        """The returns that are 0 and 100 of a normalised score: "random", "expert"; {} of none."""
        known = json.loads(self.about).get("references") or {}
        return known if all(known.get(k) is not None for k in ("random", "expert")) else {}


def rows(data: Dataset) -> Rows:
    """A dataset as transitions on the accelerator."""
    obs, action = dataset.ahead(data)
    cut = np.zeros(len(data.reward), bool)
    cut[data.ends] = True
    now = (data.obs, data.action, data.reward, data.terminated, obs, action, cut)
    return Rows(*jax.tree.map(jnp.asarray, now))


def fitted(data: Dataset, world: Any, path: Any) -> Dataset:
    """A dataset in the types of its world. InputError where its shapes are of another."""
    like = jax.eval_shape(lambda key: world.reset(key, 1)[1], jax.random.key(0))
    space = world.action_space
    sample = jax.eval_shape(space.sample, jax.random.key(0))
    kinds = lambda dtype: "iu" if dtype.kind in "iu" else dtype.kind

    def cast(name, x, to):
        if x.shape[1:] != to.shape or kinds(x.dtype) != kinds(to.dtype):
            is_, has = f"{to.dtype}{list(to.shape)}", f"{x.dtype}{list(x.shape[1:])}"
            raise InputError(f"dataset: {path}: {name} is {has} a row, {world.name} has {is_}")
        return x.astype(to.dtype)

    def obs(name, x):
        one = {
            k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype)
            for k, v in dataset.leaves(like, name).items()
        }
        if (has := set(dataset.leaves(x, name))) != set(one):
            raise InputError(f"dataset: {path}: it has {sorted(has)}, {world.name} {sorted(one)}")
        if isinstance(x, dict):
            return {k: cast(f"{name}/{k}", v, one[f"{name}/{k}"]) for k, v in x.items()}
        return cast(name, x, one[name])

    action = cast("action", data.action, sample)
    if not space.contains(action):
        raise InputError(f"dataset: {path}: an action is outside {world.name}'s {space}")
    K = len(world.objectives)
    if data.reward.shape[1:] != ((K,) if K else ()):
        paid = f"a reward has shape {data.reward.shape[1:]}"
        raise InputError(f"dataset: {path}: {paid}, {world.name} pays {K or 'one number'}")
    return data._replace(
        obs=obs("obs", data.obs),
        action=action,
        reward=data.reward.astype(np.float32),
        final_obs=obs("final_obs", data.final_obs),
    )


def simple(world: Any) -> None:
    """InputError where episodes are not had one at a time."""
    if not isinstance(world, AutoReset):
        raise InputError(f"env: {world.name} is a world of its own; a dataset needs an Env")


def recorded(world: Any, data: Dataset, about: dict, path: Any, sha256: str = "") -> Recorded:
    """A world with a dataset."""
    simple(world)
    inner = (world.env, world.resets, world.block)
    return Recorded(*inner, rows(fitted(data, world, path)), json.dumps(about), sha256)


def load(path: str | Path, env: Any = None, share: float = 1.0, **params: Any) -> Recorded:
    """The world of a dataset's file.

    Args:
      env: an environment of one's own to play in; None: the one that it names.
      share: of its whole episodes the best so many, by return; 1: every row.
      params: physics to play in; then there are no normalised scores.
    """
    path = dataset.find(str(path))
    data, about = dataset.read(path)
    if share != 1:
        data = dataset.best(data, share)
    if params:
        about |= dict(env_params=about["env_params"] | params, references=None)
    if env is None:
        world = registry.make(dataset.home(path, about), **about["env_params"])
    else:
        world = AutoReset(env)
    return recorded(world, data, about, path, dataset.sha256(path))


def make(name: str, **params: Any) -> Recorded:
    """The world of a dataset by its name."""
    if not name.startswith(dataset.RANDOM):
        return load(name, share=params.pop("best", 1.0), **params)
    n, env = params.pop("rows", ROWS), dataset.environment(name)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"rows: {n!r} is outside [1, inf)")
    world = registry.make(env, **params)
    simple(world)
    data = record(uniform(world), lambda n: (), world, jax.random.key(0), n)
    about = dict(env=env, env_params=params, references=None if params else references(env))
    return recorded(world, data, about, name)


def references(env: str) -> dict[str, float] | None:
    """The fixed points of an environment's scale in `envs/scores.py`; None where it has none."""
    return dict(zip(("random", "expert"), RANGES[env])) if env in RANGES else None


# ---- recording -------------------------------------------------------------------------------


def uniform(world: Any) -> Callable:
    """The uniformly random policy, as `record` takes one."""

    def act(obs, start, memory, key):
        if isinstance(obs, dict) and "action_mask" in obs:  # of those that are allowed
            logits = jnp.where(obs["action_mask"], 0.0, -jnp.inf)
            return jax.random.categorical(key, logits).astype(jnp.int32), memory
        return jax.vmap(world.action_space.sample)(jax.random.split(key, len(start))), memory

    return act


def record(act: Callable, memory: Callable, world: Any, key: jax.Array, rows: int) -> Dataset:
    """So many steps of a policy, in whole episodes but for the last of each copy, by one program.

    Args:
      act: (obs [n, ...], start [n], memory, key) -> (action, memory); start: an episode begins.
      memory: (n) -> memory at the start of n episodes.
    """
    length = world.max_steps or 1000
    n = min(max(1, rows // (10 * length)), 64)  # ten episodes a copy, so that few are cut
    steps = -(-rows // n)
    program = jax.jit(partial(play, act, n=n, steps=steps))
    return dataset.trajectories(jax.device_get(program(memory(n), world, key)), rows)


def play(act: Callable, memory: Any, world: Any, key: jax.Array, n: int, steps: int) -> dict:
    """Steps of n copies of a world, [steps, n, ...]."""

    def one(carry, key):
        env, obs, start, memory = carry
        k_act, k_env = jax.random.split(key)
        action, memory = act(obs, start, memory, k_act)
        env, s = world.step(k_env, env, action)
        flags = dict(terminated=s.terminated, truncated=s.truncated)
        row = dict(obs=obs, action=action, reward=s.reward, final_obs=s.final_obs) | flags
        return (env, s.obs, s.terminated | s.truncated, memory), row

    k_reset, key = jax.random.split(key)
    carry = (*world.reset(k_reset, n), jnp.ones(n, bool), memory)
    return jax.lax.scan(one, carry, jax.random.split(key, steps))[1]
