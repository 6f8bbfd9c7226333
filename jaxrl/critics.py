"""Action values: networks for them, and the losses by which they are learned.

A critic's network gives `size` numbers for each value; a `Critic` says what value they mean and how
far it is from a target. So regression and classification are one argument of any learner.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jaxrl.networks import dense, seen
from jaxrl.types import Key, Params


class Critic(NamedTuple):
    size: int  # the width of the network's output for one value
    value: Callable[[jax.Array], jax.Array]  # out [..., size] -> values [...]
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # (out [..., size], targets [...]) -> [...]


def regression(loss: Callable[[jax.Array], jax.Array]) -> Critic:
    """A value as a number, by a loss of its error Q - y."""
    value = lambda out: out[..., 0]
    return Critic(1, value, lambda out, y: loss(value(out) - y))


squared = regression(jnp.square)


def huber(error: jax.Array) -> jax.Array:
    """e² / 2 up to |e| = 1, then |e| - 1/2: DQN's clipped error (Mnih et al. 2015)."""
    size = jnp.abs(error)
    return jnp.where(size < 1.0, 0.5 * jnp.square(error), size - 0.5)


def classification(low: Any, high: Any, bins: int, spread: Callable) -> Critic:
    """A value as the mean of a distribution over bins, by cross-entropy.

    spread: (targets [...], edges [bins + 1]) -> probabilities [..., bins]. Targets are clipped to
    where a mean can be, between the first and the last bin's centre.
    """
    edges = low + (high - low) * jnp.linspace(0.0, 1.0, bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    def loss(out, y):
        p = spread(jnp.clip(y, centres[0], centres[-1]), edges)
        return -(p * jax.nn.log_softmax(out)).sum(-1)

    return Critic(bins, lambda out: jax.nn.softmax(out) @ centres, loss)


def gaussian_bins(y: jax.Array, edges: jax.Array, sigma: Any) -> jax.Array:
    """The mass of N(y, σ²) in each bin, of what lies within the edges; σ in widths of a bin."""
    cdf = norm.cdf((edges - y[..., None]) / (sigma * (edges[1] - edges[0])))
    return jnp.diff(cdf) / (cdf[..., -1:] - cdf[..., :1])


def two_hot(y: jax.Array, edges: jax.Array) -> jax.Array:
    """All mass on the two bins whose centres are next to y, so that the mean is y."""
    width = edges[1] - edges[0]
    centres = (edges[1:] + edges[:-1]) / 2
    return jnp.maximum(1.0 - jnp.abs(centres - y[..., None]) / width, 0.0)


# ---- networks --------------------------------------------------------------------------------


class ActionValues(nn.Module):
    """obs -> [M, actions, size]: every discrete action's value; who has them acts by them."""

    actions: int
    size: int
    torso: Callable[[], nn.Module]
    critic: bool = False  # it reads "privileged", too

    @nn.compact
    def __call__(self, obs):
        x = self.torso()(seen(obs, critic=self.critic))
        return dense(self.actions * self.size, 1.0)(x).reshape(-1, self.actions, self.size)


class ActionValue(nn.Module):
    """obs, action [M, d] -> [M, size]: one action's value."""

    size: int
    torso: Callable[[], nn.Module]
    critic: bool = True  # it reads "privileged", too

    @nn.compact
    def __call__(self, obs, action):
        x = seen(obs, critic=self.critic)
        x = jnp.concatenate([x.reshape(x.shape[0], -1), action], -1)
        return dense(self.size, 1.0)(self.torso()(x))


def ensemble(net: nn.Module, members: int) -> tuple[Callable, Callable]:
    """`init` and `apply` of so many networks at once; results are [members, M, ...]."""

    def init(key: Key, *args: Any) -> Params:
        return jax.vmap(lambda k: net.init(k, *args))(jax.random.split(key, members))

    def apply(params: Params, *args: Any) -> Any:
        return jax.vmap(lambda p: net.apply(p, *args))(params)

    return init, apply
