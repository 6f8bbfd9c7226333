"""CFPI: closed-form policy improvement. Li, Zhang, Yin et al. 2022 (ICML 2023), arXiv 2211.15956.

A clone π_β, its values Q by SARSA, and no actor: an action goes up g = ∇_a Q(s, a)|_{a=μ} from μ as
far as its density is π_β's mode's over τ (eqs. 5, 8). A Gaussian N(μ, Σ) gives
  μ + κ Σ g / √(gᵀ Σ g),    κ² = 2 log τ                                                     (eq. 6)
and a mixture Σᵢ λᵢ N(μᵢ, Σᵢ), by lower bounds of its density, one from each μᵢ and one from a mean:
  κᵢ² = 2 (log τ + pᵢ - maxⱼ pⱼ),    pᵢ = log λᵢ - ½ log det(2π Σᵢ)            (LogSumExp, eq. 12)
  κ² = 2 log τ - Σᵢ λᵢ μᵢᵀΣᵢ⁻¹μᵢ + μᵀΣ⁻¹μ,  Σ⁻¹ = Σᵢ λᵢ Σᵢ⁻¹,  μ = Σ Σᵢ λᵢ Σᵢ⁻¹μᵢ  (Jensen, eq. 14)
of which, if κ² >= 0, the best by Q is taken (eq. 15); Q is the lesser of two (eq. 64).
From BC it differs in that step, whenever it acts: with one Gaussian and τ = 1 it is a clone's mean.
Checked: the text and the authors' code. As there, π_β is the tanh of a mixture, steps are before
the tanh, and Q compares those from all μᵢ (eq. 12: its slopes at each). The code's κᵢ are √2 more,
or 0 for κᵢ² < 0, and Q is lower. Left out: random τ, quantile critics, more rounds.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jaxrl.core import Learner
from jaxrl.critics import ActionValue, ensemble
from jaxrl.families.off_policy import actions, fit, optimisers, torso, with_targets
from jaxrl.families.offline import Offline, offline
from jaxrl.hyper import arg, hyper
from jaxrl.networks import Actor
from jaxrl.policies import Network

PAPER = {
    "slug": "cfpi",
    "id": 74,
    "title": "Offline Reinforcement Learning with Closed-Form Policy Improvement Operators",
    "year": 2022,
    "arxiv": "2211.15956",
    "chapter": "offline",
    "hyper": "CFPI",
    "parent": "bc",
    "changes": "acting goes a step up the values of the data, as far as their density allows",
    "claim": "without training an actor it is better than a clone, more so by a mixture",
    "check": {
        "on": {
            "experiments/datasets/pendulum-medium.npz": 4000,
            "experiments/datasets/pendulum-mixed.npz": 4000,
        },
        "hyper": {"batch_size": 64},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {"bc": {"paper": "bc"}, "single": {"hyper": {"components": 1}}},
        "says": ["final_return > bc", "final_return > single"],
    },
    "inert": {"log_tau": "it is how to act; nothing learns from it"},
}
move = with_targets("critic")


@hyper
class CFPI(Offline):
    components: int = arg(4, "Gaussians of the behaviour's mixture; 1: eq. 6", "[1, inf)")
    log_tau: float = arg(0.5, "log τ, nats below the mode where actions may be", "[0, inf)")


def improved(pi, value, log_tau):
    """u [M, d] from log λ [M, N], μ and σ [M, N, d]. value: (u [M, K, d]) -> Q(s, tanh u)."""
    weight, var = jnp.exp(pi[0])[..., None], jnp.square(pi[2])
    peak = pi[0] - 0.5 * jnp.log(2 * jnp.pi * var).sum(-1)
    far = 2 * (log_tau + peak - peak.max(1, keepdims=True))  # eq. 12
    cov = 1 / (weight / var).sum(1)
    mean = cov * (weight * pi[1] / var).sum(1)
    apart = (weight * jnp.square(pi[1] - mean[:, None]) / var).sum((1, 2))  # a square completed
    join = lambda x, y: jnp.concatenate([x, y[:, None]], 1)
    mu, cov, far = join(pi[1], mean), join(var, cov), join(far, 2 * log_tau - apart)
    g = jax.grad(lambda u: value(u).sum())(mu)
    along = cov * g / jnp.sqrt(jnp.maximum((cov * g * g).sum(-1, keepdims=True), 1e-20))
    u = mu + jnp.sqrt(jnp.maximum(far, 0.0))[..., None] * along  # eqs. 6, 12, 14
    best = jnp.where(far >= 0, value(u), -jnp.inf).argmax(1)  # eq. 15
    return u[jnp.arange(len(u)), best]


def learner(world, network):
    d = actions(world)
    init_critic, critics = ensemble(ActionValue(1, torso(network), critic=False), 2)  # it acts
    Q = lambda *args: critics(*args)[..., 0]
    actor: Any = lambda hp: Actor(hp.components * (1 + 2 * d), torso(network))

    def behaviour(p, obs, hp):
        x = actor(hp).apply(p, obs).reshape(-1, hp.components, 1 + 2 * d)
        weight, loc, log_std = jnp.split(x, (1, 1 + d), -1)
        return jax.nn.log_softmax(weight[..., 0]), loc, jnp.exp(jnp.clip(log_std, -5.0, 2.0))

    def init(key, obs, hp):
        k, k_critic = jax.random.split(key)
        a = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], d))
        return move(dict(actor=actor(hp).init(k, obs), critic=init_critic(k_critic, obs, a)), 1.0)

    def update(params, opt, b, key, t, i, hp):
        y = b.reward + b.discount * Q(params["target"]["critic"], b.next_obs, b.next_action)
        u = jnp.arctanh(jnp.clip(b.action, -1 + 1e-6, 1 - 1e-6))[:, None]

        def of_actor(p):
            weight, *pi = behaviour(p, b.obs, hp)
            L = -jax.nn.logsumexp(weight + norm.logpdf(u, *pi).sum(-1), 1).mean()
            return L, dict(actor_loss=L)

        def of_critic(p):
            L = jnp.square(Q(p, b.obs, b.action) - y).mean(1).sum()
            return L, dict(critic_loss=L)

        params, opt, stats = fit(params, opt, "actor", of_actor, hp, t)
        params, opt, more = fit(params, opt, "critic", of_critic, hp, t)
        return move(params, hp.tau), opt, stats | more

    def act(params, obs, memory, key, t, hp):
        value = lambda u: jax.vmap(Q, (None, None, 1), 2)(params["critic"], obs, jnp.tanh(u)).min(0)
        return jnp.tanh(improved(behaviour(params["actor"], obs, hp), value, hp.log_tau)), memory

    return Learner(init, optimisers("actor", "critic"), update, act)


def make(world, network=Network()):
    return offline(learner(world, network))
