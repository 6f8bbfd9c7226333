"""Four rooms with four goals, every one as good as the others.

A step moves up, right, down or left, or into a wall and not at all. Whatever is done on a goal (G)
takes it: a reward of `reward`, and the episode ends. Each begins at random on one of the cells
marked S, so that the goals lie in different rooms and at different distances. With probability
`slip` a step goes in a random direction. The observation is the cell, one-hot.

G . . S # . . . G
. . . S # . . . .
. . . S . . . . .
. . . S # . . . .
# # . # # # . # #
. . . . # . . . .
. . . . . . . . .
. . . . # . . . .
G . . . # . . . G
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import physics, time_limit
from envs.base import Step, TimeLimit
from envs.moves import MOVES, slipped
from envs.spaces import Box, Discrete

SIZE, WALL, DOORS = 9, 4, (2, 6)
GOALS = np.array([(0, 0), (SIZE - 1, 0), (0, SIZE - 1), (SIZE - 1, SIZE - 1)])
PARAMETERS = dict(reward=1.0, slip=0.0)


def walls() -> np.ndarray:
    """[SIZE, SIZE] by x and y."""
    wall = np.zeros((SIZE, SIZE), bool)
    wall[WALL], wall[:, WALL] = True, True
    wall[WALL, DOORS], wall[DOORS, WALL] = False, False
    return wall


@struct.dataclass
class FourRooms:
    """The state: the cell [2]."""

    reward: jax.Array
    slip: jax.Array
    name: str = struct.field(pytree_node=False)

    @property
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (SIZE**2,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def max_steps(self) -> int:
        return 0

    def observe(self, cell) -> jax.Array:
        return jax.nn.one_hot(cell[0] * SIZE + cell[1], SIZE**2)

    def goals(self, obs) -> jax.Array:
        """Which goal an observation lies on, [..., 4] bool for any leading axes."""
        return obs[..., GOALS[:, 0] * SIZE + GOALS[:, 1]] > 0

    def reset(self, key):
        cell = jnp.stack([jnp.int32(WALL - 1), jax.random.randint(key, (), 0, WALL)])
        return cell, self.observe(cell)

    def step(self, key, cell, action):
        key_slip, key_move = jax.random.split(key)
        over = (cell == GOALS).all(-1).any()
        move = slipped(key_slip, key_move, action, self.slip)
        ahead = jnp.clip(cell + jnp.asarray(MOVES, jnp.int32)[move], 0, SIZE - 1)
        cell = jnp.where(over | jnp.asarray(walls())[ahead[0], ahead[1]], cell, ahead)
        return Step(cell, self.observe(cell), self.reward * over, over, jnp.zeros((), bool))


def make(name: str, **params: Any) -> Any:
    limit = time_limit(params, 32)
    leaves = physics(name, params, PARAMETERS)
    return TimeLimit(FourRooms(**leaves, name=name), limit)
