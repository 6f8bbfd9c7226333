"""Observations of which only some numbers matter: the others are a dynamical system of their own.

    d' = sin(W d),    W ~ N(0, gain² / count)

Actions do not move d and nothing is paid for it, so that a policy loses nothing by ignoring it. It
is deterministic, but beyond a gain of about 2 chaotic: to predict it takes a large model, and a
small one that tries has less left for the rest. Each episode begins with d uniform in [-1, 1]. W is
drawn once, from `seed`; its gain is a leaf. An observation is the inner one and d [count].

In the manner of the distractors in "Value Gradient weighted Model-Based Reinforcement Learning" by
Voelcker et al. 2022, arXiv 2204.01464; their code has an unbounded linear map, and sines on top.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import registry
from envs.adapters.common import physics, whole
from envs.base import Wrapper
from envs.spaces import Box

PARAMETERS = dict(gain=3.0)


@struct.dataclass
class Distracted(Wrapper):
    """The state: the environment's, and d [count]."""

    weight: jax.Array  # [count, count], of gain 1
    gain: jax.Array
    name: str = struct.field(pytree_node=False, default="")

    @property
    def observation_space(self) -> Box:
        inner = self.env.observation_space
        low, high = (np.broadcast_to(x, inner.shape) for x in (inner.low, inner.high))
        more = (1.0,) * len(self.weight)
        low, high = (*low.tolist(), *(-x for x in more)), (*high.tolist(), *more)
        return Box(low, high, (len(low),))

    def reset(self, key):
        key, key_d = jax.random.split(key)
        state, obs = self.env.reset(key)
        d = jax.random.uniform(key_d, self.weight.shape[:1], minval=-1.0)
        return (state, d), jnp.concatenate([obs, d])

    def step(self, key, state, action):
        inner, d = state
        s = self.env.step(key, inner, action)
        d = jnp.sin(self.gain * self.weight @ d)
        return s._replace(state=(s.state, d), obs=jnp.concatenate([s.obs, d]))


TABLE = {"pendulum": "Pendulum-v1", "cartpole": "CartPole-v1"}


def make(name: str, **params: Any) -> Distracted:
    limit = {k: params.pop(k) for k in ("max_steps",) if k in params}
    n, seed = whole(params, "count", 10, 0, 1000), whole(params, "seed", 0, 0, 2**31)
    leaves = physics(name, params, PARAMETERS, "count", "seed")
    weight = np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(max(n, 1))
    env = registry.make_env(TABLE[name.removeprefix("distract/")], **limit)
    return Distracted(env, jnp.asarray(weight, jnp.float32), **leaves, name=name)
