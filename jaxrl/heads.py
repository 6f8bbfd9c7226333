"""Heads: from a network's outputs to a distribution over actions, and back to arrays.

A distribution is rebuilt from arrays wherever it is needed; it never crosses a scan, a vmap or a
`record`. Distributions are over *raw* actions; `Head.action` says what the environment receives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.spaces import Box, Discrete, MultiDiscrete, Space
from jaxrl.errors import InputError
from jaxrl.types import flat

MASKED = -1e9  # a logit that means never: finite, so that 0 * log 0 stays 0 in entropy and KL


class Head(NamedTuple):
    size: int  # the width of the network's last layer
    init: Callable[[], Any]  # () -> the head's own parameters, {} if none
    output: Callable[..., Any]  # (own, x [..., size], obs) -> out, the arrays that define π(.|s)
    distribution: Callable[
        [Any], Any
    ]  # out -> sample(seed=), log_prob, entropy, kl_divergence, mode
    action: Callable[[jax.Array], jax.Array] = lambda raw: raw
    # What `sample` makes actions [*shape] of: without noise of its own, a key for each row of them.
    # A rollout draws it all at once, because threefry is slow inside a CPU's loops.
    noise: Callable[..., Any] = lambda key, shape: jax.random.split(key, shape[:-1])
    sample: Callable[[Any, Any], Any] = lambda pi, key: pi.sample(seed=key)


class Product:
    """Independent components along the last axis of an event, from a distribution over each."""

    def __init__(self, base):
        self.base = base

    def sample(self, seed):
        return self.base.sample(seed=seed)

    def mode(self):
        return self.base.mode()

    def log_prob(self, x):
        return self.base.log_prob(x).sum(-1)

    def entropy(self):
        return self.base.entropy().sum(-1)

    def kl_divergence(self, other):
        return self.base.kl_divergence(other.base).sum(-1)


# Gauss-Hermite nodes and weights: an expectation under N(0, 1) without sampling
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_det_tanh(u: jax.Array) -> jax.Array:
    """log |d tanh(u) / du| = 2 (log 2 - u - softplus(-2u)), finite for every finite u."""
    return 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))


class Squashed(Product):
    """tanh of a Gaussian, over the pre-tanh sample u: no inverse of tanh is ever taken.

    log π(tanh u) = Σ log N(u; μ, σ) - log |tanh'(u)|. The entropy's E[log |tanh'|] is by quadrature
    (32 nodes; within 1e-3 for σ <= 1). KL is that of the Gaussians: tanh is a bijection.
    """

    def log_prob(self, x):
        return super().log_prob(x) - log_det_tanh(x).sum(-1)

    def entropy(self):
        u = self.base.loc[..., None] + self.base.scale[..., None] * NODES
        return super().entropy() + (log_det_tanh(u) * WEIGHTS).sum((-1, -2))


def gumbel_max(pi: Any, noise: jax.Array) -> jax.Array:
    """A sample of a softmax, as the largest of its logits and Gumbel noise together."""
    return (pi.logits + noise).argmax(-1)


def categorical(n: int) -> Head:
    """Softmax over n actions; an "action_mask" [..., n] in the observation rules some out."""
    import distrax

    def output(own, x, obs):
        if isinstance(obs, dict) and "action_mask" in obs:
            return jnp.where(obs["action_mask"], x, MASKED)
        return x

    build = lambda logits: distrax.Categorical(logits=logits)
    noise = lambda key, shape: flat(jax.random.gumbel, key, (*shape, n))
    return Head(n, dict, output, build, noise=noise, sample=gumbel_max)


def multi_discrete(n: tuple[int, ...]) -> Head:
    """Independent softmaxes, of n[i] actions each. A mask is [..., len(n), max(n)]."""
    import distrax

    widest = max(n)
    columns = np.cumsum([0, *n[:-1]])[:, None] + np.arange(widest)
    inside = np.arange(widest) < np.array(n)[:, None]

    def output(own, x, obs):
        ok = inside
        if isinstance(obs, dict) and "action_mask" in obs:
            ok = ok & obs["action_mask"].astype(bool)
        return jnp.where(ok, x[..., np.where(inside, columns, 0)], MASKED)

    build = lambda logits: Product(distrax.Categorical(logits=logits))
    noise = lambda key, shape: flat(jax.random.gumbel, key, (*shape, len(n), widest))
    return Head(
        sum(n), dict, output, build, noise=noise, sample=lambda pi, g: gumbel_max(pi.base, g)
    )


def gaussian(
    dim: int, *, state_std: bool = False, squash: bool = False, log_std: float = 0.0
) -> Head:
    """A diagonal Gaussian over R^dim; the environment clips, unless `squash` keeps it inside.

    Args:
      state_std: the scale depends on the state (exp of an output, clipped to [e⁻⁵, e²]); otherwise
        it is a parameter of its own.
      squash: the action is the tanh of the draw.
      log_std: where the scale starts.
    """
    import distrax

    def output(own, x, obs):
        if state_std:
            loc, log = jnp.split(x, 2, -1)
            return dict(loc=loc, scale=jnp.exp(jnp.clip(log + log_std, -5.0, 2.0)))
        return dict(loc=x, scale=jnp.broadcast_to(jnp.exp(own["log_std"]), x.shape))

    kind = Squashed if squash else Product
    return Head(
        2 * dim if state_std else dim,
        lambda: {} if state_std else dict(log_std=jnp.full(dim, log_std)),
        output,
        lambda o: kind(distrax.Normal(o["loc"], o["scale"])),
        jnp.tanh if squash else lambda raw: raw,
        lambda key, shape: flat(jax.random.normal, key, (*shape, dim)),
        lambda pi, noise: pi.base.loc + pi.base.scale * noise,
    )


KINDS = ("auto", "gaussian", "gaussian_state", "squashed")


def for_space(space: Space, kind: str = "auto") -> Head:
    """The head for an action space.

    kind: "auto" (categorical, multi-discrete or Gaussian), "gaussian", "gaussian_state" (the scale
    depends on the state), "squashed" (tanh of a Gaussian with such a scale).
    """
    match space, kind:
        case Discrete(n), "auto":
            return categorical(n)
        case MultiDiscrete(n), "auto":
            return multi_discrete(n)
        case Box(shape=(dim,)), "auto" | "gaussian":
            return gaussian(dim)
        case Box(shape=(dim,)), "gaussian_state":
            return gaussian(dim, state_std=True)
        case Box(shape=(dim,)), "squashed":
            return gaussian(dim, state_std=True, squash=True)
    raise InputError(f"head: {kind!r} does not fit {space} actions")
