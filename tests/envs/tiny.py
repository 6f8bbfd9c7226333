"""A walk whose every step can be told in advance, and what the tests do with environments."""

import jax
import jax.numpy as jnp
from flax import struct

from envs.base import Step
from envs.spaces import Box, Discrete


@struct.dataclass
class Walk:
    """Starts in [0, 1), moves by `stride`, ends beyond `edge`; the reward is the position."""

    stride: jax.Array
    edge: float = 3.0
    name: str = struct.field(pytree_node=False, default="walk")

    @property
    def observation_space(self):
        return Box(0.0, 10.0, (1,))

    @property
    def action_space(self):
        return Discrete(2)

    @property
    def max_steps(self):
        return 0

    def reset(self, key):
        obs = jax.random.uniform(key, (1,))
        return obs, obs

    def step(self, key, state, action):
        obs = state + self.stride
        return Step(obs, obs, obs[0], obs[0] > self.edge, jnp.zeros((), bool))


def walk(stride=1.0):
    return Walk(jnp.float32(stride))


def play(world, key, n, steps, action=None):
    """First observation and transitions [T, n, ...] under one action (zeros), compiled once."""

    def run(world, key):
        state, first = world.reset(key, n)
        a = jnp.zeros((n, *getattr(world.action_space, "shape", ())), jnp.float32)
        if isinstance(world.action_space, Discrete):
            a = a.astype(jnp.int32)
        if action is not None:
            a = a + jnp.asarray(action, a.dtype)

        def one(state, key):
            return world.step(key, state, a)

        return first, jax.lax.scan(one, state, jax.random.split(key, steps))[1]

    return jax.jit(run)(world, key)
