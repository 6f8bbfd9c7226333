"""Lot sizing: which item each machine makes next, decided before the demand is known.

Two machines make three items, each machine one at a time. A step has two halves:

- the decision, whose outcome is certain (`post`). A machine idles (0) or makes an item (1, 2, 3),
  `rate` units of it; where it was not set up for that item, the change costs `change` and `loss`
  of the units. An idle machine is set up for nothing.
- the demand, whose outcome is not: binomial for each item, 10 p on average. A unit of it that is
  not in stock is lost and costs `lost`; what remains, up to `room` of each item, costs `hold` a
  unit.

The reward is minus the costs. The plan ends for good after `max_steps`, and the observation has how
much of it is gone, so nothing is hidden. `-certain` is the same factory with the mean for a demand.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import physics, time_limit
from envs.base import Step
from envs.spaces import Box, MultiDiscrete

ITEMS, MACHINES, ORDERS = 3, 2, 10  # a demand is how many of ORDERS come, each with probability p
PARAMETERS = dict(
    rate=[[9.0, 6.0, 3.0], [3.0, 6.0, 9.0]],  # [machine][item], units a step
    p=0.4,
    change=2.0,
    loss=1.0,
    lost=0.1,
    hold=0.002,
    room=40.0,
    spread=1.0,  # of the demand about its mean: 1 binomial, 0 none
)


@struct.dataclass
class LotSizing:
    """The state: the observation and the number of steps taken."""

    rate: jax.Array
    p: jax.Array
    change: jax.Array
    loss: jax.Array
    lost: jax.Array
    hold: jax.Array
    room: jax.Array
    spread: jax.Array
    name: str = struct.field(pytree_node=False)
    max_steps: int = struct.field(pytree_node=False, default=32)

    @property
    def observation_space(self) -> dict:
        """Stocks (1: the room is full), what each machine is set up for, how much time is gone."""
        setup = Box(0.0, 1.0, (MACHINES, ITEMS + 1))
        return dict(setup=setup, stock=Box(0.0, 1.0, (ITEMS,)), time=Box(0.0, 1.0, (1,)))

    @property
    def action_space(self) -> MultiDiscrete:
        return MultiDiscrete((ITEMS + 1,) * MACHINES)

    def reset(self, key):
        stock = jax.random.randint(key, (ITEMS,), 0, ORDERS + 1) / self.room
        idle = jax.nn.one_hot(jnp.zeros(MACHINES, jnp.int32), ITEMS + 1)
        obs = dict(setup=idle, stock=stock, time=jnp.zeros(1))
        return (obs, jnp.int32(0)), obs

    def post(self, obs, action) -> tuple[dict, jax.Array]:
        """The half of a step that is certain, for any leading axes: the post-decision state, as an
        observation, and the part of the reward that is known with it."""
        make = jax.nn.one_hot(action, ITEMS + 1)  # [..., MACHINES, ITEMS + 1]
        changed = (action > 0) & ((make * obs["setup"]).sum(-1) == 0)
        units = (make[..., 1:] * self.rate).sum(-1) - self.loss * changed
        made = (make[..., 1:] * jnp.maximum(units, 0.0)[..., None]).sum(-2)
        stock = obs["stock"] + made / self.room
        return obs | dict(setup=make, stock=stock), -self.change * changed.sum(-1)

    def step(self, key, state, action):
        obs, count = state
        obs, reward = self.post(obs, action)
        mean = self.p * ORDERS
        orders = (jax.random.uniform(key, (ITEMS, ORDERS)) < self.p).sum(-1)
        left = self.room * obs["stock"] - mean - self.spread * (orders - mean)
        stock = jnp.clip(left, 0.0, self.room)
        reward += -self.lost * jnp.maximum(-left, 0.0).sum() - self.hold * stock.sum()
        count += 1
        obs |= dict(stock=stock / self.room, time=jnp.full(1, count / self.max_steps))
        return Step((obs, count), obs, reward, count >= self.max_steps, jnp.zeros((), bool))


TABLE = {"lot-sizing": {}, "lot-sizing-certain": dict(spread=0.0)}


def make(name: str, **params: Any) -> Any:
    limit = time_limit(params, 32)
    defaults = PARAMETERS | TABLE[name.removeprefix("factory/")]
    leaves = physics(name, params, defaults)
    return LotSizing(**leaves, name=name, max_steps=limit)
