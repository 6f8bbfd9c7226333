"""Environments so small that their values are known: a learner that misses them has a bug.

Each isolates one thing (a value, its dependence on the observation, discounting, the action, both,
a time limit), in the manner of rejax's test environments. Every one has a `-continuous` twin, whose
action is a Box of shape (1,). `r` is the leaf `reward`, 1 unless given.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import number, time_limit
from envs.base import Step, TimeLimit
from envs.spaces import Box, Discrete, Space
from jaxrl.errors import did_you_mean

AIM = 0.5  # the action that `action-continuous` wants


@struct.dataclass
class Probe:
    """What they share. The state is the observation; all but two end after one step."""

    reward: jax.Array
    name: str = struct.field(pytree_node=False)
    continuous: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self) -> Space:
        return Box(-1.0, 1.0, (1,))

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (1,)) if self.continuous else Discrete(2)

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        obs = self.first(key)
        return obs, obs

    def first(self, key) -> jax.Array:
        return jnp.zeros(1)

    def end(self, reward) -> Step:
        """The episode's last step."""
        obs = jnp.zeros(1)
        reward = jnp.asarray(reward, jnp.float32)
        return Step(obs, obs, reward, jnp.ones((), bool), jnp.zeros((), bool))


@struct.dataclass
class One(Probe):
    """One step, reward r. V(0) = r; every return is r."""

    def step(self, key, state, action):
        return self.end(self.reward)


@struct.dataclass
class Sign(Probe):
    """One step from s = -1 or 1, reward r s. V(s) = r s; the mean return is 0."""

    def first(self, key):
        return jax.random.rademacher(key, (1,), jnp.float32)

    def step(self, key, state, action):
        return self.end(self.reward * state[0])


@struct.dataclass
class Delay(Probe):
    """Two steps, from 0 and 1, reward r at the second. V(0) = gamma r, V(1) = r = every return."""

    def step(self, key, state, action):
        last = state[0] == 1.0
        obs = jnp.where(last, jnp.zeros(1), jnp.ones(1))
        return Step(obs, obs, jnp.where(last, self.reward, 0.0), last, jnp.zeros((), bool))


@struct.dataclass
class Action(Probe):
    """One step, reward r for action 1 and -r for action 0. V*(0) = r = the best return.

    Continuous: -r (a - 1/2)^2. V*(0) = 0 = the best return, at a = 1/2.
    """

    def step(self, key, state, action):
        if self.continuous:
            return self.end(-self.reward * (action[0] - AIM) ** 2)
        return self.end(self.reward * jnp.where(action == 1, 1.0, -1.0))


@struct.dataclass
class Match(Probe):
    """One step from s = -1, which wants action 0, or 1, which wants 1: r if so, else -r. V*(s) = r.

    Continuous: s uniform in [-1, 1], reward -r (a - s)^2. V*(s) = 0, at a = s.
    """

    def first(self, key):
        if self.continuous:
            return jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return jax.random.rademacher(key, (1,), jnp.float32)

    def step(self, key, state, action):
        if self.continuous:
            return self.end(-self.reward * (action[0] - state[0]) ** 2)
        return self.end(self.reward * jnp.where((action == 1) == (state[0] > 0), 1.0, -1.0))


@struct.dataclass
class Constant(Probe):
    """No end, one state, reward r a step, cut after `max_steps` (100): every return is 100 r.

    V(0) = r / (1 - gamma), since a cut is no end; who treats it as one finds
    r (1 - gamma^k) / (1 - gamma) with k steps to go, which the observation does not tell.
    """

    def step(self, key, state, action):
        return Step(state, state, self.reward, jnp.zeros((), bool), jnp.zeros((), bool))


TABLE = {
    "one": One,
    "sign": Sign,
    "delay": Delay,
    "action": Action,
    "match": Match,
    "constant": Constant,
}


def make(name: str, **params: Any) -> Any:
    slug = name.removeprefix("probe/")
    continuous = slug.endswith("-continuous")
    build = TABLE[slug.removesuffix("-continuous")]
    limit = time_limit(params, 100) if build is Constant else 0
    reward = number("reward", params.pop("reward", 1.0), 1.0)
    for k in params:
        raise did_you_mean(f"{name} parameter", k, ["reward", *(["max_steps"] if limit else [])])
    env = build(reward, name, continuous)
    return TimeLimit(env, limit) if limit else env
