"""REINFORCE++. Hu, Liu, Xu, Shen 2025, arXiv 2501.03262.

No critic and no groups: a token's advantage is the outcome less the KL that is still to come, and
advantages are in units of the whole batch's mean and standard deviation:

    A_t = R - β Σ_{i≥t} KL(i),    KL(i) = log π_old(oᵢ) - log π_ref(oᵢ)                 (eqs. 8, 9)
    Â_t = (A_t - mean_batch A) / std_batch A                                               (eq. 10)

under PPO's clip. GRPO's units, of a group, are correlated with the rewards that they divide.
Completions of a prompt come in groups here too, but nothing is made of that. Equations read in the
documentation of RLinf and in notes on the first version, not in the paper itself.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, token_rewards, tokens, whitened
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "reinforce_pp",
    "reference": True,
    "title": "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage "
    "Normalization",
    "year": 2025,
    "arxiv": "2501.03262",
    "chapter": "reasoning",
    "hyper": "ReinforcePP",
    "parent": "grpo",
    "changes": "advantages are in units of the whole batch; the KL is in the reward",
    "claim": "it solves as many held-out sums as GRPO",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "says": ["final_return > grpo - 0.05"],
    },
}


@hyper
class ReinforcePP(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    beta: float = arg(0.01, "β, weight of the KL in the reward", "[0, inf)")


def whole_batch(b, hp):
    A = jnp.cumsum(token_rewards(b, hp)[:, ::-1], 1)[:, ::-1]  # eq. 8
    return whitened(A, b.mask)  # eq. 10


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, whole_batch, token_mean, reference=True)
