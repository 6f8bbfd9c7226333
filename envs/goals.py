"""Under-conditioned tasks: what is right cannot be seen, and so one way is not enough.

    hidden   one of `goals` on a circle pays, another one each episode, and nothing tells which. An
             action is a point of the plane; what is within `radius` of that goal pays 1 and ends
             the episode, which is cut after `max_steps` tries. Who cannot remember does best by
             trying each goal as often as the others, p_i = 1/n: 1 - (1 - 1/n)^T. A Gaussian, which
             has one mode, covers few goals, or all of them thinly. `best` gives that.

The observation is always the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import physics, time_limit, whole
from envs.base import Step, TimeLimit
from envs.spaces import Box

PARAMETERS = dict(distance=0.7, radius=0.3)


@struct.dataclass
class Hidden:
    """The state: the number of the goal that pays."""

    distance: jax.Array  # of the goals from the centre
    radius: jax.Array
    goals: int = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)

    @property
    def observation_space(self) -> Box:
        return Box(1.0, 1.0, (1,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (2,))

    @property
    def max_steps(self) -> int:
        return 0

    def places(self) -> jax.Array:
        """Of the goals, [n, 2]."""
        angle = 2 * jnp.pi * jnp.arange(self.goals) / self.goals
        return self.distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)

    def best(self, tries: int) -> float:
        """The most that one without memory is paid in so many tries."""
        return 1 - (1 - 1 / self.goals) ** tries

    def reset(self, key):
        return jax.random.randint(key, (), 0, self.goals), jnp.ones(1)

    def step(self, key, state, action):
        found = jnp.linalg.norm(action - self.places()[state]) <= self.radius
        return Step(state, jnp.ones(1), jnp.float32(found), found, jnp.zeros((), bool))


def make(name: str, **params: Any) -> Any:
    limit, goals = time_limit(params, 8), whole(params, "goals", 4, 1, 100)
    leaves = physics(name, params, PARAMETERS, "goals")
    return TimeLimit(Hidden(**leaves, goals=goals, name=name), limit)
