"""Pieces of policy losses that several papers share, per sample."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import View
from jaxrl.types import Batch


def clipped(r: jax.Array, A: jax.Array, eps: jax.Array, high: Any = None) -> jax.Array:
    """min(r A, clip(r, 1-ε, 1+ε) A), the pessimistic value of a ratio: arXiv 1707.06347, eq. 7.
    high: another ε above."""
    return jnp.minimum(r * A, jnp.clip(r, 1 - eps, 1 + (eps if high is None else high)) * A)


def policy_gradient(w: View, b: Batch, hp) -> jax.Array:
    """-log π(a|s) A: the score-function surrogate of REINFORCE and A2C."""
    return -w.log_prob * b.advantage


# ---- KL(π || π_ref) of samples of π, from d = log π_ref - log π: joschu.net/blog/kl-approx.html


def k1(d: jax.Array) -> jax.Array:
    """-d: unbiased, of either sign."""
    return -d


def k2(d: jax.Array) -> jax.Array:
    """d² / 2: biased, with the gradient of the KL itself where it stands in a loss."""
    return jnp.square(d) / 2


def k3(d: jax.Array) -> jax.Array:
    """e^d - 1 - d: unbiased, never negative."""
    return jnp.expm1(d) - d


# ---- how much each token [B, L] of a loss counts, from the mask of those that do


def sequence_mean(mask: jax.Array) -> jax.Array:
    """Each completion counts the same, whatever its length."""
    length = mask.sum(-1, keepdims=True)
    return mask / jnp.maximum(length, 1) / jnp.maximum((length > 0).sum(), 1)


def token_mean(mask: jax.Array) -> jax.Array:
    """Each token counts the same."""
    return mask / jnp.maximum(mask.sum(), 1)


def constant_length(mask: jax.Array) -> jax.Array:
    """Each token counts the same, and by itself: divided by the tokens there is room for."""
    return mask / mask.size
