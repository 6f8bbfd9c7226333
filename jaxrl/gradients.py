"""Score-function estimates of ∇J and of ∇²J v, from a batch and its advantages.

    Φ(τ; θ) = Σₕ Aₕ log π(aₕ|sₕ),    E[∇Φ] = ∇J,    E[∇²Φ v + ∇Φ (∇log p(τ) · v)] = ∇²J v

A is data, of the policy that collected. Estimates are means over steps: over whole episodes of T
steps they are 1/T of the above. See "Hessian Aided Policy Gradient" by Shen, Ribeiro, Hassani, Qian
and Mi (ICML 2019).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import Policy
from jaxrl.types import Batch, Key, Params


def gradient(
    policy: Policy, params: Params, b: Batch, key: Key, hp: Any, weight: Any = 1.0
) -> Params:
    """∇Φ, with an entropy bonus of `hp.ent_coef`; steps may be weighed, [T, N]."""

    def phi(p):
        w = policy.judge(p, params, b, key)
        return (weight * (b.advantage * w.log_prob + hp.ent_coef * w.entropy())).mean()

    return jax.grad(phi)(params)


def hessian_vector_product(
    policy: Policy, params: Params, b: Batch, v: Params, key: Key, hp: Any
) -> Params:
    """On average how the gradient changes along v. A batch [T, N] of episodes, cut by `start`."""
    log_prob = lambda p: policy.judge(p, params, b, key).log_prob
    score = whole(jax.jvp(log_prob, (params,), (v,))[1], b.start)  # ∇log p(τ) · v
    curvature = jax.jvp(lambda p: gradient(policy, p, b, key, hp), (params,), (v,))[1]
    return optax.tree.add(curvature, gradient(policy, params, b, key, hp, score))


def whole(x: jax.Array, start: jax.Array) -> jax.Array:
    """At each step [T, N], the sum of x over its episode (what of it is in the batch)."""
    episode = jnp.cumsum(start, 0)
    return jnp.einsum("tun,un->tn", (episode[:, None] == episode).astype(x.dtype), x)
