"""What is known exactly of preferences over N responses that can all be counted.

A policy is log-probabilities log π [..., N], rewards r are [..., N], preferences P [..., N, N], of
the first over the second: P[y, y'] + P[y', y] = 1. Leading axes are prompts.

    Gibbs          π* ∝ π_ref exp(r / β),  what maximises  J(π) = E_π[r] - β KL(π || π_ref)
    Nash           π* = its own best answer in  P(π > π') - β KL(π || π_ref) + β KL(π' || π_ref)
    duality gap    max over π' of J(π', π) - min over π' of J(π, π'), 0 at Nash alone
"""

from typing import Any

import jax
import jax.numpy as jnp

SOLVED = 4000  # steps in which `nash` is solved
LEAST = 1e-6  # β that is as good as none


def normalised(logits: jax.Array) -> jax.Array:
    """Log-probabilities of what is one up to a factor."""
    return jax.nn.log_softmax(logits)


def expected(log_p: jax.Array, x: jax.Array) -> jax.Array:
    """E_π[x] [...]."""
    return (jnp.exp(log_p) * x).sum(-1)


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(π || π') [...]."""
    return expected(log_p, log_p - log_q)


def total_variation(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Half of the sum of what two policies differ by [...], from 0 to 1."""
    return jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(-1) / 2


def gibbs(ref: jax.Array, r: jax.Array, beta: Any) -> jax.Array:
    """log π* of π* ∝ π_ref exp(r / β); at β = 0 all is on the best."""
    return normalised(ref + r / jnp.maximum(beta, LEAST))


def objective(log_p: jax.Array, ref: jax.Array, r: jax.Array, beta: Any) -> jax.Array:
    """J = E_π[r] - β KL(π || π_ref)."""
    return expected(log_p, r) - beta * kl(log_p, ref)


def win_rate(P: jax.Array, log_p: jax.Array) -> jax.Array:
    """How often each response is preferred to one of a policy's [..., N]."""
    return jnp.einsum("...ij,...j->...i", P, jnp.exp(log_p))


def duality_gap(log_p: jax.Array, P: jax.Array, ref: jax.Array, beta: Any) -> jax.Array:
    """2 max over π' of J(π', π) - 1, as the game is symmetric; at β = 0 of all policies [...].

    The best answer is Gibbs', so that max_π' [E_π'[w] - β KL(π' || π_ref)] = β log E_ref[exp(w/β)].
    """
    w = win_rate(P, log_p)
    b = jnp.maximum(beta, LEAST)
    best = jnp.where(beta > LEAST, b * jax.nn.logsumexp(ref + w / b, -1), w.max(-1))
    return 2 * (best + beta * kl(log_p, ref)) - 1


def nash(P: jax.Array, ref: jax.Array, beta: Any) -> jax.Array:
    """log π* of the regularised game, by mirror prox with the step 1: every step brings KL(π* || π)
    down by 1 + β at least. (For β as small as 0.01 SOLVED steps are enough.)"""

    def step(log_p, against):
        return normalised((log_p + beta * ref + win_rate(P, against)) / (1 + beta))

    def both(log_p, _):
        return step(log_p, step(log_p, log_p)), None

    return jax.lax.scan(both, ref, None, SOLVED)[0]
