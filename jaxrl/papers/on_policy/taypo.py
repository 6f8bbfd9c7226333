"""TayPO, Taylor Expansion Policy Optimization. Tang, Valko, Munos 2020 (ICML), arXiv 2003.06259.

J(π) expanded around the policy μ that collected, in ρₜ - 1 = π(aₜ|sₜ) / μ(aₜ|sₜ) - 1:
  L₁ = E_μ[ Σₜ γᵗ (ρₜ - 1) Aₜ ],    L₂ = E_μ[ Σₜ Σ_{t'>t} γᵗ' (ρₜ - 1) (ρₜ' - 1) Aₜ' ],    ...
  J(π) = J(μ) + L₁ + ... + L_K + O(‖π - μ‖ᴷ⁺¹),    A the advantages of μ.
In recursion, what begins with a deviation at t is
  Uᴷₜ = (ρₜ - 1) (Aₜ + Σ_{t'>t} γᵗ'⁻ᵗ Uᴷ⁻¹ₜ'),    U⁰ = 0,    L₁ + ... + L_K = E_μ[ Σₜ γᵗ Uᴷₜ ].
As is usual γᵗ is dropped: what is maximised is the mean of Uᴷ.

From importance-weighted policy gradients (order 1) it differs in that a deviation is paid for what
later ones change. Actors lag behind the learner, as in distributed training.

`truncation` is E|ΔVᴷ - ΔV| at the states of a rollout, ΔV the whole series: V^π - V^μ by products
of ratios to the rollout's end. Checked: the powers of γ and the order of the error, on a small MDP.
No code was released. Not checked: the text, its estimators, V-trace, R2D2, Atari.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.errors import InputError
from jaxrl.families.on_policy import OnPolicy, on_policy, sgd, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.returns import backward
from jaxrl.rollout import judged, unjudged

PAPER = {
    "slug": "taypo",
    "id": 90,
    "title": "Taylor Expansion Policy Optimization",
    "year": 2020,
    "arxiv": "2003.06259",
    "chapter": "on_policy",
    "hyper": "TayPO",
    "parent": "a2c",
    "changes": "the expansion of J(π) around a lagging behaviour policy, to the second order",
    "claim": "to the second order it misses less of J(π) than to the first, and with actors that "
    "lag it learns better",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 150_000},
        "tune": {"lr": [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3]},
        "arms": {"first": {"hyper": {"order": 1}}},
        "says": ["mean truncation_ratio < 1", "final_return > first"],
    },
}


@hyper
class TayPO(OnPolicy):
    order: int = arg(2, "K, terms of the expansion; 1: importance-weighted gradients", "[1, inf)")
    lag: int = arg(8, "iterations that the actors are behind the learner", "[0, inf)")
    num_steps: int = 32
    epochs: int = 1


def discounts(start, gamma):
    """From each step to the next [T, M]: γ, and 0 where that is another episode's."""
    return gamma * jnp.concatenate([~start[1:], jnp.zeros_like(start[:1])])


def taylor(gain, A, discount, order):
    """Uᴷ [T, M] from ρ - 1."""
    U = jnp.zeros_like(A)
    for _ in range(order):
        U = gain * (A + backward(U, discount) - U)
    return U


def truncation(gain, A, discount, order):
    """ΔVᴷ - ΔV at each step: the expansion less the whole series, Σ γᵗ'⁻ᵗ (Π ρ) (ρₜ' - 1) Aₜ'."""
    return backward(taylor(gain, A, discount, order), discount) - backward(
        gain * A, discount * (1 + gain)
    )


def expanded(w, b, hp):
    return -taylor(jnp.expm1(w.log_ratio), b.advantage, discounts(b.start, hp.gamma), hp.order)


def lagging(policy) -> Part:
    """A rollout by the parameters of `lag` iterations ago, valued by today's. The slot is a ring of
    those since; `b.old`, what ratios are to, stays what the actors recorded."""

    def init(key, s, hp, world):
        return jax.tree.map(lambda x: jnp.stack([x] * (hp.lag + 1)), s.params)

    def sample(ring, s, _, t, hp, world):
        key, k, k_judge = jax.random.split(s.key, 3)
        ring = jax.tree.map(lambda xs, x: xs.at[t % (hp.lag + 1)].set(x), ring, s.params)
        mu = jax.tree.map(lambda xs: xs[(t + 1) % (hp.lag + 1)], ring)
        stage, b, metrics = unjudged(policy, mu, s.stage, k, hp, world, hp.num_steps)
        b = judged(policy, s.params, b, k_judge).replace(old=b.record)
        return ring, (s.replace(key=key, stage=stage), b, metrics)

    return Part(init, sample)


def reporting(policy, inner) -> Part:
    """The inner update, and what the expansion misses where it starts."""

    def update(s, b, t, hp, world):
        key, k = jax.random.split(s.key)
        gain = jnp.expm1(policy.judge(s.params, s.params, b, k).log_ratio)
        args = gain, b.advantage, discounts(b.start, hp.gamma)
        first, error = (jnp.abs(truncation(*args, K)).mean() for K in (1, hp.order))
        _, (s, stats) = inner.apply((), s.replace(key=key), b, t, hp, world)
        more = dict(truncation=error, truncation_ratio=error / jnp.maximum(first, 1e-8))
        return s, stats | more

    return stateless(update)


def make(world, network=Network()):
    if network.memory:
        raise InputError(f"memory: {network.memory}: taypo judges steps one by one; use 0")
    policy = policy_for(world, network)
    update = reporting(policy, sgd(policy, expanded, sequences=True))
    return on_policy(policy, sampler=lagging(policy), update=update)
