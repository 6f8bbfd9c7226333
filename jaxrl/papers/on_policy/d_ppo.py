"""D-PPO, dropout in the surrogate objective. Xie, Yu, Qiao 2023, arXiv 2310.20380.

With φ = r A, r = π(a|s) / π_old(a|s), L its mean over n samples and S = n L,
  Var φ = E[φ²] - L² = (n - 1) L² - (1/n) Σ_{i≠j} φᵢ φⱼ,
for nL² = (1/n) (Σφ)² holds E[φ²] and the pairs. So for the L that is being maximised the variance
falls as the pairs' sum grows, of which sample i has φᵢ (S - φᵢ). In each minibatch a fraction of
the samples is dropped, those with least of it; separately in X+ (φ >= 0) and X- (φ < 0), as
together they would all be of one sign. PPO's clipped loss is of the rest.

From PPO it differs in this alone. Not checked: no code is out and the text was not at hand: the
derivation is ours (the paper has an upper bound), the fraction a guess, and it may be that the sum
runs over X+ or X- alone.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.on_policy import on_policy, sgd, watched
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "d_ppo",
    "id": 108,
    "title": "Dropout Strategy in Reinforcement Learning: Limiting the Surrogate Objective "
    "Variance in Policy Optimization Methods",
    "year": 2023,
    "arxiv": "2310.20380",
    "chapter": "on_policy",
    "hyper": "DPPO",
    "parent": "ppo",
    "changes": "the samples that add most to the surrogate's variance are left out",
    "claim": "a lower variance of the surrogate than PPO's and than dropping as many at random, "
    "at no loss of return",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 50_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {
            "ppo": {"hyper": {"rate": 0.0}},  # nothing is dropped, and the variance is reported
            "random": {"hyper": {"drop": "random"}},
        },
        "says": [
            "mean surrogate_variance < ppo",
            "mean surrogate_variance < random",
            "final_return > ppo - 0.05",
            "final_return > random - 0.05",
        ],
    },
}


@hyper
class DPPO(PPO):
    UNREAD = {"accumulate": "what is dropped is ranked in a minibatch"}
    rate: float = arg(0.2, "the fraction that is dropped of X+ and of X-", "[0, 1)")
    drop: str = arg("pairs", "by its part of the pairs' sum, or any", ("pairs", "random"))


def kept(phi, hp):
    """Which samples stay: a fraction of each sign, those with the largest φᵢ (S - φᵢ)."""
    part = phi * (phi.sum() - phi)
    if hp.drop == "random":  # by their places, which minibatches deal out anew
        part = jax.random.uniform(jax.random.key(0), phi.shape)

    def of(side):
        ranked = jnp.argsort(jnp.where(side, part, jnp.inf), axis=None)
        rank = jnp.argsort(ranked).reshape(phi.shape)  # the side's own come first
        return side & (rank >= jnp.round(hp.rate * side.sum()))

    return of(phi >= 0) | of(phi < 0)


def dropout(w, b, hp):
    keep = kept(jnp.exp(w.log_ratio) * b.advantage, hp)
    return keep * clip(w, b, hp) / jnp.maximum(keep.mean(), 1e-8)  # a mean over the kept


def variance(policy):
    """A metric: that of φ over what stays of the rollout after its update."""

    def measure(s, b, hp, world):
        r = jnp.exp(policy.judge(s.params, s.params, b, s.key).log_ratio)
        phi = r * b.advantage
        return dict(surrogate_variance=jnp.var(phi, where=kept(phi, hp)))

    return measure


def make(world, network=Network()):
    policy = policy_for(world, network)
    update = sgd(policy, dropout, value_loss=clipped_value, sequences=network.memory > 0)
    return on_policy(policy, update=watched(update, variance(policy)))
