"""Small gridworlds whose whole layout is leaves, so that thousands of levels are one vmap.

    levels/grid     a level, drawn from `seed`; `draw(key)` gives any other

A room of 5 x 5 cells has up to six walls and two objects. Whoever steps on an object takes it for
its reward, and with its probability the episode ends; a taken object comes back with another
probability at each step, where it was. Whether rewards are far, rare, a trap or gone for good is
the level's. The observation is one-hot over cell and which objects are there, so that a linear
policy is a table. Steps go up, right, down or left; an episode is cut after 20.

    walls       each of six draws blocks a cell, where it hits neither start nor an object
    objects     start and objects lie on different cells
    rewards     of the first uniform in [0, 1], of the second in [-1, 1]
    terminate   log-uniform in [0.01, 1];   respawn   log-uniform in [0.001, 0.1]

In the manner of the "small" levels of "Discovering General Reinforcement Learning Algorithms with
Adversarial Environment Design" by Jackson et al. 2023, arXiv 2310.02782, whose code was read (sizes
4 to 6, up to three objects, 20 to 100 steps; an action that stays). It is smaller, and nothing
keeps an object from being walled in, as there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import physics, time_limit, whole
from envs.base import Step, TimeLimit
from envs.moves import MOVES
from envs.spaces import Box, Discrete

SIZE, WALLS, OBJECTS = 5, 6, 2
CELLS = SIZE**2


@struct.dataclass
class Level:
    """The state: the cell, and which objects are there [OBJECTS] bool."""

    wall: jax.Array  # [CELLS] bool
    start: jax.Array  # () int32, a cell y * SIZE + x
    where: jax.Array  # [OBJECTS] int32, cells
    reward: jax.Array  # [OBJECTS]
    terminate: jax.Array  # [OBJECTS]
    respawn: jax.Array  # [OBJECTS]
    name: str = struct.field(pytree_node=False, default="levels/grid")

    @property
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (CELLS * 2**OBJECTS,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def max_steps(self) -> int:
        return 0

    def observe(self, cell, there) -> jax.Array:
        return jax.nn.one_hot(cell + CELLS * (there @ 2 ** np.arange(OBJECTS)), CELLS * 2**OBJECTS)

    def reset(self, key):
        state = self.start, jnp.ones(OBJECTS, bool)
        return state, self.observe(*state)

    def step(self, key, state, action):
        cell, there = state
        chance = jax.random.uniform(key, (2, OBJECTS))
        at = jnp.stack([cell % SIZE, cell // SIZE]) + jnp.asarray(MOVES, jnp.int32)[action]
        to = jnp.clip(at, 0, SIZE - 1) @ jnp.array([1, SIZE])
        cell = jnp.where(self.wall[to], cell, to)
        taken = there & (self.where == cell)
        there = (there & ~taken) | (~there & (chance[0] < self.respawn))
        over = (taken & (chance[1] < self.terminate)).any()
        reward = (self.reward * taken).sum()
        none = jnp.zeros((), bool)
        return Step((cell, there), self.observe(cell, there), reward, over, none)


def draw(key: jax.Array) -> Level:
    """A level, as the table above says."""
    k_cell, k_wall, k_first, k_other, k_end, k_back = jax.random.split(key, 6)
    cells = jax.random.permutation(k_cell, CELLS)[: 1 + OBJECTS].astype(jnp.int32)
    wall = jnp.zeros(CELLS, bool).at[jax.random.randint(k_wall, (WALLS,), 0, CELLS)].set(True)
    others = jax.random.uniform(k_other, (OBJECTS - 1,), minval=-1.0)
    reward = jnp.concatenate([jax.random.uniform(k_first, (1,)), others])
    spread = lambda key, low: low ** jax.random.uniform(key, (OBJECTS,))  # log-uniform, low to 1
    end, back = spread(k_end, 0.01), 0.1 * spread(k_back, 0.01)
    return Level(wall.at[cells].set(False), cells[0], cells[1:], reward, end, back)


def make(name: str, **params: Any) -> Any:
    limit, seed = time_limit(params, 20), whole(params, "seed", 0, 0, 2**31 - 1)
    physics(name, params, {}, "seed")
    with jax.ensure_compile_time_eval():
        level = draw(jax.random.key(seed))
    return TimeLimit(level, limit)
