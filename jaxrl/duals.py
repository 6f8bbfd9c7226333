"""Lagrange multipliers: rules by which the price λ >= 0 of each constraint J_c <= d adapts.

For max_π min_{λ >= 0} J_r(π) - Σ_k λ_k (J_k(π) - d_k), an excess e = J_c - d being the slope in λ.
Costs, budgets and multipliers are [K], one for each constraint; gains are scalars or [K].

    rule          λ' is
    ascent        [λ + η e]₊
    optimistic    [λ + η (2 e - e_last)]₊
    pid           [K_P ⟨e⟩ + I + K_D [⟨J⟩ - ⟨J⟩_delayed]₊]₊,  I' = [I + K_I e]₊,  ⟨.⟩ smoothed

`pid` with K_P = K_D = 0 is `ascent`. `trust_region` solves a small problem at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


def ascent(lam: jax.Array, excess: jax.Array, lr: Any) -> jax.Array:
    """A projected gradient step, λ' = [λ + η e]₊."""
    return jnp.maximum(lam + lr * excess, 0.0)


def expected(now: jax.Array, last: jax.Array, optimism: Any = 1.0) -> jax.Array:
    """What a slope will be next, if it changes as it did: x + o (x - x_last)."""
    return now + optimism * (now - last)


def optimistic(
    lam: jax.Array, excess: jax.Array, last: jax.Array, lr: Any, optimism: Any = 1.0
) -> jax.Array:
    """A projected step along the excess that is expected next, λ' = [λ + η (2 e - e_last)]₊.

    See "ReLOAD: Reinforcement Learning with Optimistic Ascent-Descent for Last-Iterate Convergence
    in Constrained MDPs" by Moskovitz et al. (https://arxiv.org/abs/2302.01275).

    Args:
      last: the excess of the step before.
      optimism: share of the change that is expected again; 0 is `ascent`.
    """
    return ascent(lam, expected(excess, last, optimism), lr)


class PID(struct.PyTreeNode):
    """What a controller remembers, [K] each."""

    integral: jax.Array  # I >= 0
    excess: jax.Array  # ⟨e⟩
    costs: jax.Array  # [delay, K], ⟨J⟩ of the latest updates, the oldest first

    @staticmethod
    def begin(k: int, delay: int) -> "PID":
        """Of k constraints, before any update."""
        return PID(jnp.zeros(k), jnp.zeros(k), jnp.zeros((delay, k)))


def pid(
    s: PID, cost: jax.Array, budget: jax.Array, kp: Any, ki: Any, kd: Any, smooth: Any
) -> tuple[PID, jax.Array]:
    """A controller of the excess; its integral term alone is the usual multiplier.

      I' = [I + K_I e]₊,    ⟨x⟩' = α ⟨x⟩ + (1 - α) x,    λ = [K_P ⟨e⟩' + I' + K_D ∂]₊,
      ∂ = [⟨J⟩' - ⟨J⟩_delayed]₊: only a rise of the cost counts.

    See "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods" by Stooke, Achiam
    and Abbeel (https://arxiv.org/abs/2007.03964), algorithm 2, and the authors' code for the
    smoothing and the delay.

    Args:
      cost: J_c of the current policy.
      kp, ki, kd: gains K_P, K_I, K_D.
      smooth: α; 0 for none.

    Returns:
      What is remembered, and λ.
    """
    e = cost - budget
    integral = jnp.maximum(s.integral + ki * e, 0.0)
    excess = smooth * s.excess + (1 - smooth) * e
    now = smooth * s.costs[-1] + (1 - smooth) * cost
    rise = jnp.maximum(now - s.costs[0], 0.0)
    lam = jnp.maximum(kp * excess + integral + kd * rise, 0.0)
    return PID(integral, excess, jnp.concatenate([s.costs[1:], now[None]])), lam


TINY = 1e-12  # under a division


def trust_region(
    q: jax.Array, u: jax.Array, s: jax.Array, c: jax.Array, delta: Any
) -> tuple[jax.Array, jax.Array]:
    """The solution of max gᵀx subject to c + bᵀx <= 0 and ½ xᵀHx <= δ, for x along H⁻¹g and H⁻¹b.

      x = H⁻¹(g - ν b) / λ,    ν = [λc + u]₊ / s,    A = q - u²/s,    B = 2δ - c²/s,
      λ = √(A/B), held to where ν > 0, or √(q/2δ), held to where ν = 0: the better in the dual.

    If nothing satisfies both (c > 0, B < 0), it is what lowers bᵀx most, x = -√(2δ/s) H⁻¹b.

    See "Constrained Policy Optimization" by Achiam et al. (https://arxiv.org/abs/1705.10528),
    theorem 2 and eq. 14.

    Args:
      q, u, s: gᵀH⁻¹g, gᵀH⁻¹b, bᵀH⁻¹b.

    Returns:
      x's share of H⁻¹g, 1/λ, and of -H⁻¹b, ν/λ.
    """
    q, s = jnp.maximum(q, TINY), jnp.maximum(s, TINY)
    A, B = jnp.maximum(q - u**2 / s, 0.0), 2 * delta - c**2 / s
    plain = jnp.sqrt(q / (2 * delta))
    least = 1e-3 * plain  # where g is along b, λ = 0 and x is a difference of infinities
    edge = -u / jnp.where(c == 0, TINY, c)  # ν > 0 for λ below it if c < 0, above it if not
    below, above = lambda x: jnp.minimum(x, edge), lambda x: jnp.maximum(x, edge)
    held = jnp.sqrt(A / jnp.maximum(B, TINY))
    held = jnp.maximum(jnp.where(c < 0, below(held), above(held)), least)
    free = jnp.maximum(jnp.where(c < 0, above(plain), below(plain)), least)
    dual_held = u * c / s - 0.5 * (A / held + B * held)
    dual_free = -0.5 * (q / free + 2 * delta * free)
    either = edge > 0  # else one of the two is nowhere
    lam = jnp.where(jnp.where(either, dual_held >= dual_free, c >= 0), held, free)
    nu = jnp.maximum(lam * c + u, 0.0) / s
    none = (c >= 0) & (B < 0)  # of the region satisfies the first
    return jnp.where(none, 0.0, 1 / lam), jnp.where(none, jnp.sqrt(2 * delta / s), nu / lam)
