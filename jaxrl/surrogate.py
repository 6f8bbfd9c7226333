"""Pieces of policy losses that several papers share, per sample."""

import jax
import jax.numpy as jnp

from jaxrl.core import View
from jaxrl.types import Batch


def clipped(r: jax.Array, A: jax.Array, eps: jax.Array) -> jax.Array:
    """min(r A, clip(r, 1-ε, 1+ε) A), the pessimistic value of a ratio: arXiv 1707.06347, eq. 7."""
    return jnp.minimum(r * A, jnp.clip(r, 1 - eps, 1 + eps) * A)


def policy_gradient(w: View, b: Batch, hp) -> jax.Array:
    """-log π(a|s) A: the score-function surrogate of REINFORCE and A2C."""
    return -w.log_prob * b.advantage
