"""Fetch: a small room whose observation is a row of categories, some of them beside the point.

In the manner of MiniGrid's Fetch, without pictures. A key, a ball and a box lie in a room of 5 x 5,
the mission names one of them, and walking onto a thing picks it up and ends the episode: r for the
right one, nothing for a wrong one. Each step costs `cost`, and with probability `slip` goes in a
random direction. Nothing is hidden: what to do is a table from the mission and what is around.

The observation holds `"categories"` (int32, each 0 .. n-1) and `"numbers"`:

    1  the mission                     key, ball, box
    6  where each thing is             left, level, right; above, level, below
    4  what lies up, right, down, left floor, wall, key, ball, box
    6  distractors                     five values each, drawn anew at every step
    6  numbers                         distractors too, uniform in [-1, 1]

`-onehot` is the same room with the categories written out as zeros and ones, which suits a network
that would otherwise read ids as quantities.
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

SIZE, THINGS, CLUTTER = 5, 3, 6
KINDS = (THINGS, *[3] * 2 * THINGS, *[2 + THINGS] * 4, *[5] * CLUTTER)  # values of each category
PARAMETERS = dict(reward=1.0, cost=0.01, slip=0.0)


@struct.dataclass
class Fetch:
    """The state: the agent's cell [2], the things' cells [3, 2] and the mission."""

    reward: jax.Array
    cost: jax.Array
    slip: jax.Array
    name: str = struct.field(pytree_node=False)
    onehot: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self) -> dict:
        top = tuple(float(n - 1) for n in KINDS)
        categories = Box(0.0, top, (len(KINDS),), "int32")
        if self.onehot:
            categories = Box(0.0, 1.0, (sum(KINDS),))
        return dict(categories=categories, numbers=Box(-1.0, 1.0, (CLUTTER,)))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        key_cells, key_mission, key_clutter = jax.random.split(key, 3)
        cells = jax.lax.top_k(jax.random.uniform(key_cells, (SIZE**2,)), 1 + THINGS)[1]
        cells = jnp.stack([cells % SIZE, cells // SIZE], -1)
        state = cells[0], cells[1:], jax.random.randint(key_mission, (), 0, THINGS)
        return state, self.observe(key_clutter, state)

    def observe(self, key, state) -> dict:
        agent, things, mission = state
        key_kinds, key_numbers = jax.random.split(key)
        where = jnp.sign(things - agent).ravel() + 1
        around = agent + MOVES  # [4, 2]
        here = (around[:, None] == things).all(-1)  # [4, THINGS]
        wall = ((around < 0) | (around >= SIZE)).any(-1)
        lies = jnp.where(here.any(-1), 2 + jnp.argmax(here, -1), wall)
        clutter = jax.random.randint(key_kinds, (CLUTTER,), 0, KINDS[-1])
        categories = jnp.concatenate([mission[None], where, lies, clutter]).astype(jnp.int32)
        if self.onehot:
            first = np.cumsum((0, *KINDS[:-1]))
            categories = jnp.zeros(sum(KINDS)).at[first + categories].set(1.0)
        numbers = jax.random.uniform(key_numbers, (CLUTTER,), minval=-1.0, maxval=1.0)
        return dict(categories=categories, numbers=numbers)

    def step(self, key, state, action):
        key_slip, key_move, key_clutter = jax.random.split(key, 3)
        agent, things, mission = state
        move = slipped(key_slip, key_move, action, self.slip)
        agent = jnp.clip(agent + jnp.asarray(MOVES)[move], 0, SIZE - 1)
        picked = (agent == things).all(-1)
        state = agent, things, mission
        reward = self.reward * picked[mission] - self.cost
        obs = self.observe(key_clutter, state)
        return Step(state, obs, reward, picked.any(), jnp.zeros((), bool))


TABLE = {"fetch": False, "fetch-onehot": True}


def make(name: str, **params: Any) -> Any:
    limit = time_limit(params, 50)
    leaves = physics(name, params, PARAMETERS)
    return TimeLimit(Fetch(**leaves, name=name, onehot=TABLE[name.removeprefix("grid/")]), limit)
