"""BPO, Bounded Policy Optimization (BRRL). Ao, Chen, Lee et al. 2026, arXiv 2604.18578.

Bounded: maximise E[ ρ A ] subject to |ρ - 1| <= ε, ρ = π(a|s) / π_0(a|s), is solved by
  ρ* = 1 + ε sign(Q - μ(s)),  smoothly  ρ* = 1 - ε + 2ε σ((Q - μ(s)) / λ),
with μ(s) the median of Q(s, .) under π_0; J(π*) >= J(π_0) (theorems 4.1, 4.2).
BPO: minimise E[ |A| |ρ - ρ*| ] and E[ softplus(d) - d/2 ], d = G - μ(s), whose minimum is the
(smooth) median of G, the λ-return that stands for Q.

From PPO it differs in pulling a ratio to its best value from either side.
Checked: the authors' code, where A = G - V is V's of the moment and of no fixed scale (an option
has it as here), and μ has a network of its own; here it is a second output of the critic. The
project's page, for the theorems. Not: their proofs, the bound on BPO's loss, GBPO, the results.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, gae, on_policy, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "brrl",
    "id": 179,
    "title": "Bounded Ratio Reinforcement Learning",
    "year": 2026,
    "arxiv": "2604.18578",
    "chapter": "on_policy",
    "hyper": "BPO",
    "parent": "ppo",
    "changes": "the distance from the closed-form optimal ratio instead of the clip",
    "claim": "over many epochs no ratio goes as far as PPO's, at no loss of return",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000},
        "hyper": {"epochs": 10},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3, 1e-2]},
        # the mean |r - 1| is no measure here: ε is where every ratio is drawn to
        "says": ["mean ratio_excursion < ppo", "final_return > ppo - 0.05"],
    },
    "battery": {"hyper": {"temperature": 1.0}},
}


@hyper
class BPO(OnPolicy):
    eps: float = arg(0.2, "ε, how far the best ratio is from 1", "(0, 1]")
    temperature: float = arg(1e-3, "λ of the best ratio, in units of the return", "(0, inf)")


def best_ratio(d, hp):
    """ρ*, of d = Q - μ(s)."""
    return 1 - hp.eps + 2 * hp.eps * jax.nn.sigmoid(d / hp.temperature)


def bounded(w, b, hp):
    d = b.target - jax.lax.stop_gradient(w.value[..., 1])
    return jnp.abs(b.advantage) * jnp.abs(jnp.exp(w.log_ratio) - best_ratio(d, hp))


def mean_and_median(w, b, hp):
    """The losses of the critic's two outputs, V and μ."""
    d = b.target - w.value[..., 1]
    return 0.5 * jnp.square(w.value[..., 0] - b.target) + jax.nn.softplus(d) - d / 2


def gae_of_mean(s, b, t, hp, world):
    mean = lambda x: x[..., 0]
    return gae(s, b.replace(value=mean(b.value), next_value=mean(b.next_value)), t, hp, world)


def make(world, network=Network()):
    policy = policy_for(world, network, values=2)
    return on_policy(
        policy,
        bounded,
        advantage=stateless(gae_of_mean),
        value_loss=mean_and_median,
        sequences=network.memory > 0,
    )
