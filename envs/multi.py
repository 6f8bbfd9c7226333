"""Several objectives that conflict, and what is known of their Pareto fronts.

    deep-sea-treasure            a submarine dives for one treasure; the farther, the more it is
                                 worth: "return" is its value, "time" is -1 a step. Values as in
                                 Yang et al. 2019 (arXiv 1908.08342): every treasure is the best for
                                 some weights of the two
    deep-sea-treasure-concave    values as in Vamplew et al. 2011: only the nearest and the farthest
                                 are (of the undiscounted two)
    resource-gathering           out for gold and a gem, and home with them: "return" is 1 for the
                                 gold, "gem" 1 for the gem, "death" -1 where one of two enemies,
                                 each time that it is passed, kills with probability `death`
                                 (Barrett and Narayanan 2008)
    halfcheetah                  brax's model; "return" is its speed and "energy" minus what its
                                 actions cost: the model's own reward is the sum

    lqr                          a point in the plane is driven to the origin; objective i counts
                                 axis i's distance and the other's effort, -Σ (1-ξ) (x_i² + a_j²) +
                                 ξ (x_j² + a_i²); "return" is the first, "second" the second. From
                                 (1, 1), a tenth of Parisi et al. 2014

`front(gamma)` gives discounted returns [M, K] of deterministic policies without memory: all that
are Pareto-optimal on the grids, evenly spread weights' optima of the regulator. `reference` is the
point [K] from which a hypervolume is measured. Maps, rewards and the limit of 100 steps are those
of MO-Gymnasium 1.3, whose list for resource-gathering has another power of γ and leaves out the
longest way, on which nobody dies: without a discount that one alone is the front. A cell is seen as
one-hot column and row.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import registry
from envs.adapters import brax_env
from envs.adapters.common import physics, time_limit
from envs.base import Step, TimeLimit, Wrapper
from envs.moves import MOVES
from envs.spaces import Box, Discrete


def one_hots(cell, size: int, *flags) -> jax.Array:
    """A cell (x, y) as one-hot column and row, and flags."""
    where = jax.nn.one_hot(cell, size).ravel()
    return jnp.concatenate([where, *(jnp.float32(f)[None] for f in flags)])


# ---- deep-sea treasure -----------------------------------------------------------------------

DEPTH = np.array([1, 2, 3, 4, 4, 4, 7, 7, 9, 10])  # of the treasures, by column: the sea's bottom
CONVEX = [0.7, 8.2, 11.5, 14.0, 15.1, 16.1, 19.6, 20.3, 22.4, 23.7]
CONCAVE = [1.0, 2.0, 3.0, 5.0, 8.0, 16.0, 24.0, 50.0, 74.0, 124.0]
SEA = 11  # columns and rows; the last column is water


@struct.dataclass
class DeepSea:
    """The state: the cell (x, y), from the upper left corner. A move into rock or out is none."""

    treasures: jax.Array  # [10] values, by column
    name: str = struct.field(pytree_node=False)
    reference = (0.0, -25.0)

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "time")

    @property
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (2 * SEA,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        cell = jnp.zeros(2, jnp.int32)
        return cell, one_hots(cell, SEA)

    def step(self, key, cell, action):
        bottom = jnp.append(jnp.asarray(DEPTH, jnp.int32), SEA)
        ahead = jnp.clip(cell + jnp.asarray(MOVES, jnp.int32)[action], 0, SEA - 1)
        cell = jnp.where(ahead[1] > bottom[ahead[0]], cell, ahead)
        found = cell[1] == bottom[cell[0]]
        value = jnp.where(found, jnp.append(self.treasures, 0.0)[cell[0]], 0.0)
        reward = jnp.stack([value, jnp.float32(-1.0)])
        return Step(cell, one_hots(cell, SEA), reward, found, jnp.zeros((), bool))

    def front(self, gamma) -> jax.Array:
        """[10, 2], a row for each treasure by the shortest way."""
        steps = np.arange(len(DEPTH)) + DEPTH
        power = jnp.power(jnp.float32(gamma), jnp.arange(steps.max()))
        return jnp.stack([self.treasures * power[steps - 1], -jnp.cumsum(power)[steps - 1]], 1)


# ---- resource gathering ----------------------------------------------------------------------

HOME, GOLD, GEM, ENEMIES = (2, 4), (2, 0), (4, 1), ((3, 0), (2, 1))  # cells (x, y) of 5 x 5
# The ways home: with gold, with a gem, after so many steps, past an enemy at these. Every other one
# is no better whatever the discount and the probability of death.
WAYS = (
    (0, 1, 10, ()),
    (1, 0, 8, (3, 5)),
    (1, 0, 10, (7,)),
    (1, 0, 12, ()),
    (1, 1, 12, (7, 9)),
    (1, 1, 14, (7,)),
    (1, 1, 14, (9, 11)),
    (1, 1, 16, (13,)),
    (1, 1, 18, ()),
)


@struct.dataclass
class Resources:
    """The state: the cell (x, y), and whether gold and gem are in the bag, [2] bool."""

    death: jax.Array  # probability that an enemy kills
    name: str = struct.field(pytree_node=False)
    reference = (-1.0, -1.0, -1.0)

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "gem", "death")

    @property
    def observation_space(self) -> Box:
        return Box(0.0, 1.0, (12,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(MOVES))

    @property
    def max_steps(self) -> int:
        return 0

    def reset(self, key):
        cell, bag = jnp.array(HOME, jnp.int32), jnp.zeros(2, bool)
        return (cell, bag), one_hots(cell, 5, *bag)

    def step(self, key, state, action):
        cell, bag = state
        cell = jnp.clip(cell + jnp.asarray(MOVES, jnp.int32)[action], 0, 4)
        on = lambda cells: (cell == jnp.array(cells)).all(-1)
        bag = bag | on((GOLD, GEM))
        killed = on(ENEMIES).any() & (jax.random.uniform(key) < self.death)
        home = on(HOME)
        reward = jnp.append(jnp.where(home, bag, False), killed) * jnp.array([1.0, 1.0, -1.0])
        obs = one_hots(cell, 5, *bag)
        return Step((cell, bag), obs, reward, killed | home, jnp.zeros((), bool))

    def front(self, gamma) -> jax.Array:
        """[9, 3], a row for each of the ways."""
        gamma = jnp.float32(gamma)

        def value(gold, gem, steps, meets):
            lives = 1 - self.death
            died = sum(lives**i * self.death * gamma ** (m - 1) for i, m in enumerate(meets))
            brought = lives ** len(meets) * gamma ** (steps - 1)
            return jnp.stack([gold * brought, gem * brought, -jnp.float32(died)])

        return jnp.stack([value(*way) for way in WAYS])


# ---- linear-quadratic regulator --------------------------------------------------------------


@struct.dataclass
class Regulator:
    """The state: x [2] and the step."""

    thrift: jax.Array  # ξ, what an objective cares for the state of the other axis
    start: jax.Array  # [2]
    name: str = struct.field(pytree_node=False)
    reference = (-3.1, -3.1)

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "second")

    @property
    def observation_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (2,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (2,))

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def costs(self) -> tuple[jax.Array, jax.Array]:
        """Of squared states and actions: q and r [objective, axis]."""
        own = jnp.eye(2, dtype=bool)
        return jnp.where(own, 1 - self.thrift, self.thrift), jnp.where(
            own, self.thrift, 1 - self.thrift
        )

    def reset(self, key):
        return self.start, self.start

    def step(self, key, x, action):
        q, r = self.costs
        reward = -(q @ x**2 + r @ action**2)
        x = x + action
        return Step(x, x, reward, jnp.zeros((), bool), jnp.zeros((), bool))

    def front(self, gamma) -> jax.Array:
        """[101, 2], for evenly spread weights the best linear controller, without a time limit."""
        w = jnp.linspace(0, 1, 101)
        w = jnp.stack([w, 1 - w], 1)
        q, r = self.costs
        Q, R = w @ q, w @ r  # [101, axis]; axes don't interact, so each has a Riccati of numbers
        b = R - gamma * (Q + R)
        p = (jnp.sqrt(b**2 + 4 * gamma * Q * R) - b) / (2 * gamma)
        k = gamma * p / (R + gamma * p)
        visits = self.start**2 / (1 - gamma * (1 - k) ** 2)  # Σ γᵗ xₜ²
        return -(visits @ q.T + (visits * k**2) @ r.T)


# ---- two-speed brax --------------------------------------------------------------------------


@struct.dataclass
class Cheetah(Wrapper):
    """Speed and energy of a half cheetah, whose own reward is their sum."""

    reference = (-100.0, -100.0)
    cost = 0.1  # of the squared actions, as in the model

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "energy")

    def step(self, key, state, action):
        s = self.env.step(key, state, action)
        energy = -self.cost * jnp.square(jnp.clip(action, -1.0, 1.0)).sum()
        return s._replace(reward=jnp.stack([s.reward - energy, energy]))


def make(name: str, **params: Any) -> Any:
    match name.removeprefix("multi/"):
        case "halfcheetah":
            inner = brax_env.make(name, "halfcheetah", registry.BRAX["halfcheetah"][0], **params)
            return TimeLimit(Cheetah(inner.env), inner.limit)
        case "resource-gathering":
            limit = time_limit(params, 100)
            return TimeLimit(Resources(**physics(name, params, dict(death=0.1)), name=name), limit)
        case "lqr":
            limit = time_limit(params, 30)
            leaves = physics(name, params, dict(thrift=0.1, start=[1.0, 1.0]))
            return TimeLimit(Regulator(**leaves, name=name), limit)
        case other:
            limit = time_limit(params, 100)
            values = CONCAVE if other.endswith("concave") else CONVEX
            leaves = physics(name, params, dict(treasures=values))
            return TimeLimit(DeepSea(**leaves, name=name), limit)
