"""Combinatorial problems, solved by choosing one item after the other. Each episode is a new one.

    tsp         cities lie at random in a rectangle, `aspect` wide and 1 high. All are visited and
                the tour closes: the return is less its length. The first choice is where it begins.
    knapsack    items have a weight, a whole number of `grain`ths from 1 to `grain` of them, and a
                value: `correlation` of it the weight and the rest uniform on [0, 1]. They are
                packed while they fit; what fits is about half of all. The return is their value.

The observation holds the items [n, 2] (places; or weights and values), marks [n, K] of what became
of them (here, first, visited; or packed), what is left [1] (of the tour, or of the space, as a
share) and the "action_mask" of what may be chosen. Who chooses what is not allowed gets the first
item that is. An episode ends when nothing is allowed: its problem is then solved.

`optimum(items)` is the most that there is to gain: by dynamic programming over sets of cities (Held
and Karp 1962) up to 12 of them, None beyond; over weights, which is why they are whole numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import physics, whole
from envs.base import Step
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError

INF = float("inf")
SOLVABLE = 12  # cities: the table of sets has 2^11 rows
GRAIN = 20
MARKS = {"tsp": 3, "knapsack": 1}


def distances(xy: jax.Array) -> jax.Array:
    """[n, n] of places [n, 2]."""
    return jnp.linalg.norm(xy[:, None] - xy, axis=-1)


def held_karp(xy: jax.Array) -> jax.Array:
    """Less the length of the shortest tour of places [n, 2].

    D[S, j], of the shortest path from the last place through all of S to j in S, is
    min_k D[S - j, k] + d[k, j]: set by set, the smaller ones first.
    """
    d = distances(xy)
    m = len(xy) - 1
    sets, bits = np.arange(2**m), 1 << np.arange(m)
    inside = (sets[:, None] & bits) > 0
    D = jnp.full((2**m, m), INF).at[bits, np.arange(m)].set(d[m, :m])
    for size in range(2, m + 1):
        S = sets[inside.sum(1) == size]
        through = (D[S[:, None] & ~bits] + d[:m, :m]).min(-1)  # [sets, j, k]
        D = D.at[S].set(jnp.where(inside[S], through, INF))
    return -(D[-1] + d[m, :m]).min()


def fullest(items: jax.Array, space: int) -> jax.Array:
    """The most value of items (weight in grains, value) [n, 2] that fit into so many grains."""

    def one(best, item):
        less = jnp.arange(space + 1) - jnp.int32(item[0])  # the space left where it is packed
        packed = jnp.where(less >= 0, best[jnp.maximum(less, 0)] + item[1], 0.0)
        return jnp.maximum(best, packed), None

    return jax.lax.scan(one, jnp.zeros(space + 1), items)[0][-1]


@struct.dataclass
class Problem:
    """What both have in common. The state begins with the items [n, 2] and those chosen [n]."""

    name: str = struct.field(pytree_node=False)
    size: int = struct.field(pytree_node=False, default=10)

    @property
    def observation_space(self) -> dict:
        n, marks = self.size, MARKS[self.name.removeprefix("combinatorial/")]
        return dict(
            items=Box(0.0, INF, (n, 2)),
            marks=Box(0.0, 1.0, (n, marks)),
            left=Box(0.0, 1.0, (1,)),
            action_mask=Box(0, 1, (n,), "bool"),
        )

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.size)

    @property
    def max_steps(self) -> int:
        return self.size


def permitted(allowed: jax.Array, action: jax.Array) -> jax.Array:
    """The action, or the first that is allowed."""
    return jnp.where(allowed[action], action, allowed.argmax().astype(action.dtype))


@struct.dataclass
class Tour(Problem):
    """The state: places, visited [n], the first and the last that was visited (-1: none yet)."""

    aspect: jax.Array = struct.field(default=1.0)

    @property
    def optimum(self) -> Callable | None:
        return held_karp if self.size <= SOLVABLE else None

    def observe(self, xy, visited, first, here) -> dict:
        where = [jnp.arange(self.size) == i for i in (here, first)]
        marks = jnp.stack([*where, visited], -1).astype(jnp.float32)
        return dict(items=xy, marks=marks, left=1 - visited.mean()[None], action_mask=~visited)

    def reset(self, key):
        xy = jax.random.uniform(key, (self.size, 2)) * jnp.stack([self.aspect, 1.0])
        state = xy, jnp.zeros(self.size, bool), jnp.int32(-1), jnp.int32(-1)
        return state, self.observe(*state)

    def step(self, key, state, action):
        xy, visited, first, here = state
        to = permitted(~visited, action)
        first = jnp.where(here < 0, to, first)
        here = jnp.where(here < 0, to, here)
        visited = visited.at[to].set(True)
        over = visited.all()
        length = jnp.linalg.norm(xy[to] - xy[here])
        length += jnp.where(over, jnp.linalg.norm(xy[first] - xy[to]), 0.0)
        state = xy, visited, first, to
        return Step(state, self.observe(*state), -length, over, jnp.zeros((), bool))


@struct.dataclass
class Knapsack(Problem):
    """The state: weights in grains and values, packed [n], the space left in grains."""

    correlation: jax.Array = struct.field(default=0.0)

    @property
    def space(self) -> int:
        """In grains."""
        return max(self.size * GRAIN // 4, GRAIN)

    def optimum(self, items: jax.Array) -> jax.Array:
        grains = jnp.round(items[:, 0] * GRAIN)
        return fullest(jnp.stack([grains, items[:, 1]], -1), self.space)

    def observe(self, weight, value, packed, left) -> dict:
        return dict(
            items=jnp.stack([weight / GRAIN, value], -1),
            marks=packed[:, None].astype(jnp.float32),
            left=(left / self.space)[None],
            action_mask=~packed & (weight <= left),
        )

    def reset(self, key):
        key_weight, key_value = jax.random.split(key)
        weight = jax.random.randint(key_weight, (self.size,), 1, GRAIN + 1)
        rest = jax.random.uniform(key_value, (self.size,))
        value = self.correlation * weight / GRAIN + (1 - self.correlation) * rest
        state = weight, value, jnp.zeros(self.size, bool), jnp.int32(self.space)
        return state, self.observe(*state)

    def step(self, key, state, action):
        weight, value, packed, left = state
        item = permitted(~packed & (weight <= left), action)
        state = weight, value, packed.at[item].set(True), left - weight[item]
        obs = self.observe(*state)
        over = ~obs["action_mask"].any()
        return Step(state, obs, value[item], over, jnp.zeros((), bool))


KINDS: dict[str, tuple[Any, dict]] = {
    "tsp": (Tour, dict(aspect=1.0)),
    "knapsack": (Knapsack, dict(correlation=0.0)),
}


def make(name: str, **params: Any) -> Any:
    """`size` is the number of items."""
    kind, floats = KINDS[name.removeprefix("combinatorial/")]
    size = whole(params, "size", 10, 3, 200)
    if "max_steps" in params:
        raise InputError(f"max_steps: {name} ends when it is solved; size sets how long it is")
    leaves = physics(name, params, floats, "size")
    for k, x in leaves.items():
        if x < 0 or (k == "correlation" and x > 1):
            raise InputError(f"{k}: {x:g} is outside {'[0, 1]' if k != 'aspect' else '[0, inf)'}")
    return kind(name=name, size=size, **leaves)
