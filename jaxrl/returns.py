"""Advantages and targets from a rollout, as linear recurrences that run backward in time.

Step t ∈ [0, T) goes from sₜ to s'ₜ, the true next observation (before any reset), and earns rₜ. Two
cuts that are not the same: a *terminated* step has no future, V(s'ₜ) counts as 0; a *done* step
(terminated or truncated) takes nothing from the step after it, which is another episode's. So a
truncated step, and the last one of the rollout, bootstrap from V(s'ₜ). Below,

    γₜ = γ (1 - terminatedₜ),    λₜ = λ (1 - doneₜ),    δₜ = rₜ + γₜ V(s'ₜ) - V(sₜ)

    estimator        is `vtrace` with
    gae              π = μ: its `target` less the value
    lambda_returns   π = μ: its `target`
    TD(0)            λ = 0
    Monte Carlo      λ = 1, π = μ, every episode terminated

Shapes: rewards and values are both [T, N] or both [T, N, K] (else AssertionError), flags and ratios
always [T, N]; γ and λ are scalars, or [K], one per objective. Nothing stops a gradient: pass data,
or stop it at the caller.
"""

import chex
import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    gamma: jax.Array | float,
    lam: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimates, cut off at the end of the rollout.

      Aₜ = δₜ + γₜ λₜ Aₜ₊₁ = Σₖ (Πᵢ γᵢ λᵢ) δₖ,    k ∈ [t, T), i ∈ [t, k)

    See "High-Dimensional Continuous Control Using Generalized Advantage Estimation" by Schulman et
    al. (https://arxiv.org/abs/1506.02438), eq. 16.

    Args:
      reward: rₜ for t in [0, T).
      value: V(sₜ) for t in [0, T).
      next_value: V(s'ₜ) for t in [0, T).
      terminated: whether the episode ended at s'ₜ for good.
      done: whether it ended there at all, terminated | truncated.
      gamma: discount γ.
      lam: mixing λ.

    Returns:
      Advantages Aₜ for t in [0, T), shaped as `reward`. The critic's target is `gae(...) + value`.
    """
    chex.assert_equal_shape([reward, value, next_value])
    terminated, done = along(reward, terminated, done)
    delta = reward + bootstrap(terminated, gamma, next_value) - value
    return backward(delta, jnp.where(done, 0.0, gamma * lam))


def lambda_returns(
    reward: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    gamma: jax.Array | float,
    lam: jax.Array | float,
) -> jax.Array:
    """TD(λ) targets, which need no value of the state they are for (so Q(λ) and Sarsa(λ) too).

      Gₜ = rₜ + γₜ [(1 - λₜ) V(s'ₜ) + λₜ Gₜ₊₁],    with λ_{T-1} = 0

    See "Reinforcement Learning: An Introduction" by Sutton and Barto, 2nd edition, section 12.8
    (http://incompleteideas.net/book/the-book-2nd.html).

    Args:
      reward: rₜ for t in [0, T).
      next_value: V(s'ₜ) for t in [0, T); maxₐ Q(s'ₜ, a) gives Peng's Q(λ).
      terminated: whether the episode ended at s'ₜ for good.
      done: whether it ended there at all, terminated | truncated.
      gamma: discount γ.
      lam: mixing λ.

    Returns:
      Targets Gₜ for t in [0, T), shaped as `reward`.
    """
    chex.assert_equal_shape([reward, next_value])
    terminated, done = along(reward, terminated, jnp.asarray(done).at[-1].set(True))
    lam = jnp.where(done, 0.0, lam)
    return backward(reward + bootstrap(terminated, gamma * (1 - lam), next_value), gamma * lam)


def vtrace(
    log_ratio: jax.Array,
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    gamma: jax.Array | float,
    lam: jax.Array | float,
    rho_max: jax.Array | float,
    c_max: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """V-trace: targets for π, and its policy-gradient advantages, from data of another policy μ.

      vₜ = V(sₜ) + Σₖ (Πᵢ γᵢ (1 - doneᵢ) cᵢ) ρₖ δₖ,    k ∈ [t, T), i ∈ [t, k)    (eq. 1)
      Aₜ = ρₜ (rₜ + γₜ v'ₜ - V(sₜ)),    v'ₜ = V(s'ₜ) if doneₜ or t = T-1, else vₜ₊₁
      ρₜ = min(ρ̄, π(aₜ|sₜ) / μ(aₜ|sₜ)),    cₜ = λ min(c̄, π(aₜ|sₜ) / μ(aₜ|sₜ))    (remark 2)

    See "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures"
    by Espeholt et al. (https://arxiv.org/abs/1802.01561), section 4. As there, λ is in the traces
    alone, so on-policy advantages are those of `gae` only where λ = 1. (rlax also mixes v'ₜ with
    V(s'ₜ) by λ.)

    Args:
      log_ratio: log π(aₜ|sₜ) - log μ(aₜ|sₜ) for t in [0, T).
      reward: rₜ for t in [0, T).
      value: V(sₜ) for t in [0, T).
      next_value: V(s'ₜ) for t in [0, T).
      terminated: whether the episode ended at s'ₜ for good.
      done: whether it ended there at all, terminated | truncated.
      gamma: discount γ.
      lam: mixing λ.
      rho_max: ρ̄, which sets the policy whose value is learned (inf: π); not below `c_max`.
      c_max: c̄, which bounds how fast corrections grow.

    Returns:
      Advantages Aₜ and targets vₜ for t in [0, T), shaped as `reward`.
    """
    chex.assert_equal_shape([reward, value, next_value])
    ratio, terminated, done = along(reward, jnp.exp(log_ratio), terminated, done)
    rho, c = jnp.minimum(rho_max, ratio), lam * jnp.minimum(c_max, ratio)
    delta = reward + bootstrap(terminated, gamma, next_value) - value
    error = backward(rho * delta, jnp.where(done, 0.0, gamma * c))  # vₜ - V(sₜ)
    later = jnp.concatenate([error[1:], jnp.zeros_like(error[:1])])  # vₜ₊₁ - V(sₜ₊₁)
    return rho * (delta + jnp.where(done, 0.0, gamma * later)), value + error


def along(reward: jax.Array, *xs: jax.Array) -> list[jax.Array]:
    """Arrays [T, N] with the axes that `reward` has more, [T, N, 1] for several objectives."""
    return [x.reshape(x.shape + (1,) * (reward.ndim - x.ndim)) for x in xs]


def bootstrap(terminated: jax.Array, gamma: jax.Array | float, next_value: jax.Array) -> jax.Array:
    """γₜ V(s'ₜ): 0 at a termination even where V is NaN, as it is of diverged physics."""
    return jnp.where(terminated, 0.0, gamma * next_value)


def backward(a: jax.Array, b: jax.Array) -> jax.Array:
    """The one recurrence: xₜ = aₜ + bₜ xₜ₊₁ for t in [0, T), from x_T = 0."""

    def step(x, ab):
        x = ab[0] + jnp.where(ab[1] == 0.0, 0.0, ab[1] * x)  # a NaN does not cross a cut
        return x, x

    return jax.lax.scan(step, jnp.zeros_like(a[0]), (a, b), reverse=True)[1]


def group_advantage(R: jax.Array, scale: bool = True) -> jax.Array:
    """Of rewards [..., G] of completions of one prompt, R less their mean; in units of their
    standard deviation (with G - 1, as TRL and verl have it) where `scale`."""
    A = R - R.mean(-1, keepdims=True)
    return A / (R.std(-1, ddof=1, keepdims=True) + 1e-4) if scale else A


def leave_one_out(R: jax.Array) -> jax.Array:
    """R less the mean of the *other* rewards [..., G] of its prompt."""
    G = R.shape[-1]
    return (R - R.mean(-1, keepdims=True)) * G / (G - 1)
