"""Plans: sequences of actions [H, d] in [-1, 1], refined by what a model says that they are worth.

`value`: plans [C, H, d] -> [C], differentiable for `gradient`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.types import Key


def gradient(value: Callable, plans: jax.Array, rounds: int, lr: Any) -> jax.Array:
    """The best of several plans [C, H, d] after rounds of Adam on all, clipped each time."""
    adam = optax.adam(lr)

    def one(carry, _):
        plans, state = carry
        down = jax.grad(lambda x: -value(x).sum())(plans)
        updates, state = adam.update(down, state)
        return (jnp.clip(plans + updates, -1.0, 1.0), state), None

    (plans, _), _ = jax.lax.scan(one, (plans, adam.init(plans)), length=rounds)
    return plans[jnp.argmax(value(plans))]


def cross_entropy(
    key: Key, value: Callable, mean: jax.Array, std: Any, rounds: int, population: int, elites: int
) -> jax.Array:
    """The mean of the last elites: each round draws plans around those of the round before."""

    def one(carry, key):
        mean, std = carry
        noise = jax.random.normal(key, (population, *mean.shape))
        plans = jnp.clip(mean + std * noise, -1.0, 1.0)
        best = plans[jax.lax.top_k(value(plans), elites)[1]]
        return (best.mean(0), best.std(0)), None

    carry = mean, jnp.broadcast_to(std, mean.shape)
    return jax.lax.scan(one, carry, jax.random.split(key, rounds))[0][0]
