"""Coverage: rewards with diminishing returns, which depend on all that was visited before.

On a grid each cell s covers the disc of cells around it, and a path τ is worth F(τ), the weight of
the union of its discs as a share of the whole grid's weight: a monotone submodular function. From a
corner each step moves up, right, down, left or not at all. The reward is a pair,

    F(s'|τ) = F(τ ∪ {s'}) - F(τ), the marginal gain,    and    f(s') = F({s'}), the modular one,

so that the first one's sum is F of the path less F of its start. The observation is the cell and
the time, not what was covered: the environment keeps that, and a policy on it is Markovian. With
probability `slip` a step goes in a random direction. A path ends for good after `max_steps`.

In `coverage` every cell weighs the same; in `biodiversity` weights are three hills, as densities of
animals are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import moves
from envs.adapters.common import number, physics, time_limit, whole
from envs.base import Step
from envs.moves import slipped
from envs.spaces import Box, Discrete

MOVES = np.concatenate([moves.MOVES, [(0, 0)]])  # or stay
PARAMETERS = dict(reward=1.0, radius=1.5, slip=0.0)
HILLS = np.array([(0.25, 0.75, 1.0), (0.8, 0.6, 0.7), (0.6, 0.1, 0.5)])  # x, y, height
WIDTH = 0.12  # of a hill, where the grid's side is 1


@struct.dataclass
class Cover:
    """The state: the cell [2], what is covered [size, size] and the number of steps taken."""

    weight: jax.Array  # [size, size], by x and y
    reward: jax.Array
    radius: jax.Array
    slip: jax.Array
    name: str = struct.field(pytree_node=False)
    max_steps: int = struct.field(pytree_node=False, default=32)

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "modular")  # the second counts a cell each time that it is covered

    @property
    def size(self) -> int:
        return self.weight.shape[0]

    @property
    def observation_space(self) -> dict:
        return dict(cell=Box(0.0, 1.0, (self.size**2,)), time=Box(0.0, 1.0, (self.max_steps,)))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    def disc(self, cell) -> jax.Array:
        """Which cells it covers, [size, size]."""
        x, y = jnp.arange(self.size)[:, None] - cell[0], jnp.arange(self.size) - cell[1]
        return x**2 + y**2 <= self.radius**2

    def observe(self, cell, count) -> dict:
        where = jax.nn.one_hot(cell[0] * self.size + cell[1], self.size**2)
        return dict(cell=where, time=jax.nn.one_hot(count, self.max_steps))

    def reset(self, key):
        cell, count = jnp.zeros(2, jnp.int32), jnp.int32(0)
        return (cell, self.disc(cell), count), self.observe(cell, count)

    def step(self, key, state, action):
        cell, covered, count = state
        key_slip, key_move = jax.random.split(key)
        move = slipped(key_slip, key_move, action, self.slip, len(MOVES))
        cell = jnp.clip(cell + jnp.asarray(MOVES, jnp.int32)[move], 0, self.size - 1)
        disc, count = self.disc(cell), count + 1
        gains = jnp.stack([(self.weight * (disc & ~covered)).sum(), (self.weight * disc).sum()])
        reward = self.reward * gains / self.weight.sum()
        state, over = (cell, covered | disc, count), count >= self.max_steps
        return Step(state, self.observe(cell, count), reward, over, jnp.zeros((), bool))


def weights(name: str, size: int) -> np.ndarray:
    if name == "cover/coverage":
        return np.ones((size, size))
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    hill = lambda a, b, h: h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * WIDTH**2))
    return sum((hill(*row) for row in HILLS), np.full((size, size), 0.01))


def make(name: str, **params: Any) -> Any:
    limit, size = time_limit(params, 32), whole(params, "size", 10, 2, 100)
    leaves = physics(name, params, PARAMETERS, "size")
    w = weights(name, size)
    return Cover(weight=number("weight", w, w), **leaves, name=name, max_steps=limit)
