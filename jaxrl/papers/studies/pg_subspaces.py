"""Policy gradient subspaces. Schneider, Schumacher, Guist, Chen, Häufle, Schölkopf, Büchler 2024
(ICLR), arXiv 2401.06604.

For the actor's and the critic's loss, P_k the projection on the k eigenvectors of the loss's
Hessian with the largest eigenvalues, g its gradient:
  gradient subspace fraction  S = ‖P_k g‖² / ‖g‖²,
  subspace overlap            Σᵢ ‖P_k(t₁) vᵢ(t₂)‖² / k,    vᵢ(t₂) the eigenvectors at t₂.
For a random subspace both are k/n on average, n the parameters that the loss depends on: `chance`.

A study of PPO, which it leaves as it is: every so many iterations the losses of the rollout are
measured, at the parameters that collected it; t₁ is the measurement before. PPO's loss is the sum
of both, - E[min(r A, clip(r) A)] - c₂ H the actor's and c₁ (V - V_targ)² the critic's.

Checked: the authors' code, which takes a million fresh steps for the Hessian, for g these or a
minibatch; here both are of one rollout. Not: SAC, their environments, the overlap with t₁ fixed.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxrl.core import Part
from jaxrl.families.on_policy import on_policy, sgd
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for
from jaxrl.spectrum import fraction, hessian, overlap, top_eigenvectors

PAPER = {
    "slug": "pg_subspaces",
    "id": 322,
    "title": "Identifying Policy Gradient Subspaces",
    "year": 2024,
    "arxiv": "2401.06604",
    "chapter": "studies",
    "hyper": "PGSubspaces",
    "parent": "ppo",
    "changes": "nothing: it measures the subspaces that PPO's gradients lie in",
    "claim": "gradients lie in a small, slowly changing subspace of high curvature, the critic's "
    "more than the actor's",
    "check": {
        "on": {"CartPole-v1": 100_000, "Pendulum-v1": 200_000},
        "network": {"hidden": [16, 16]},
        "tune": {"lr": [1e-3, 2.5e-3]},
        "arms": {},
        "says": [
            "mean actor_over_chance > 10",
            "mean critic_minus_actor > 0",
            "mean actor_overlap > 0.05",  # chance is 0.02
            "mean critic_overlap > 0.25",
        ],
    },
}


@hyper
class PGSubspaces(PPO):
    k: int = arg(8, "dimensions of a subspace", "[1, inf)")
    every: int = arg(8, "iterations between two measurements", "[1, inf)")
    lanczos: int = arg(40, "Hessian-vector products of each", "[1, inf)")


def losses(policy, params, b, key, hp):
    """PPO's loss on a whole rollout in its two parts, functions of the parameters."""
    judge = lambda p: policy.judge(p, params, b, key)

    def actor(p):
        w = judge(p)
        return clip(w, b, hp).mean() - hp.ent_coef * w.entropy().mean()

    def critic(p):
        return hp.vf_coef * clipped_value(judge(p), b, hp).mean()

    return dict(actor=actor, critic=critic)


def measure(loss, params, before, key, hp):
    """The loss's subspace [k, n], and what is said of it; `before` is the one to compare with."""
    x, unravel = ravel_pytree(params)
    f = lambda x: loss(unravel(x))
    g = jax.grad(f)(x)
    V = top_eigenvectors(hessian(f, x), len(x), hp.k, hp.lanczos, key)[1]
    chance = hp.k / jnp.maximum((g != 0).sum(), hp.k)  # n: what has a gradient
    return V, dict(fraction=fraction(V, g), overlap=overlap(before, V), chance=chance)


def measuring(policy, inner) -> Part:
    """The inner update, and its losses' subspaces: the slot is those measured last."""

    def init(key, s, hp, world):
        n = ravel_pytree(s.params)[0].size
        zero = dict.fromkeys(("fraction", "overlap", "chance"), jnp.zeros(()))
        return dict.fromkeys(("actor", "critic"), (jnp.zeros((hp.k, n)), zero))

    def update(slot, s, b, t, hp, world):
        key, k = jax.random.split(s.key)

        def now():
            parts = losses(policy, s.params, b, k, hp).items()
            return {name: measure(f, s.params, slot[name][0], k, hp) for name, f in parts}

        slot = jax.lax.cond(t % hp.every == 0, now, lambda: slot)
        _, (s, stats) = inner.apply((), s.replace(key=key), b, t, hp, world)
        stats |= {f"{name}_{k}": x for name, (_, m) in slot.items() for k, x in m.items()}
        chance = jnp.maximum(stats["actor_chance"], 1e-8)  # 0 before the first measurement
        stats["actor_over_chance"] = stats["actor_fraction"] / chance
        stats["critic_minus_actor"] = stats["critic_fraction"] - stats["actor_fraction"]
        return slot, (s, stats)

    return Part(init, update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    inner = sgd(policy, clip, value_loss=clipped_value, sequences=network.memory > 0)
    return on_policy(policy, update=measuring(policy, inner))
