"""VAPO. Yue, Yuan et al. 2025, arXiv 2504.05118.

VC-PPO (its own λ for the critic, the critic's head first) with what else makes a critic worth its
cost on completions of many lengths and few rewards:

    λ_policy = 1 - 1 / (α l)    of a completion of l tokens: credit reaches as far as it is long
    L = L_PPO + μ L_NLL,    L_NLL = -1/Σ_{o∈T}|o| Σ_{o∈T} Σ_t log π(o_t),    T: those that are right

and DAPO's wider clip above and mean over tokens, and fewer prompts with more completions of each;
no KL. With l in the thousands the authors' α is 0.05; for a few tokens it is 5 here, and λ is 0
where α l < 1. T and its tokens are counted over the iteration. Read in notes and implementations,
not in the paper itself; a reader of it found its λ, its μ and its clip to be these.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning.dapo import clip_higher
from jaxrl.papers.reasoning.vc_ppo import VCPPO, decoupled
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "vapo",
    "id": 61,
    "title": "VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks",
    "year": 2025,
    "arxiv": "2504.05118",
    "chapter": "reasoning",
    "hyper": "VAPO",
    "parent": "vc_ppo",
    "changes": "λ grows with a completion's length; right ones are imitated; a wider clip above",
    "claim": "it solves more held-out sums than DAPO",
    "check": {
        "arms": {"dapo": {"paper": "dapo"}},
        "says": ["final sampled > dapo"],
    },
    "battery": {"hyper": {"value_first": 1}},
    "inert": {"lam": "a completion's length sets λ"},
}


@hyper
class VAPO(VCPPO):
    prompts: int = 64
    group: int = 16
    beta: float = 0.0
    eps_high: float = arg(0.28, "ε_high, clip range of the ratio above 1", "(0, inf)")
    alpha: float = arg(5.0, "α, how many lengths of a completion λ reaches over", "(0, inf)")
    mu: float = arg(0.1, "μ, weight of the likelihood of right completions", "[0, inf)")


def by_length(b, hp):
    lam = jnp.maximum(1 - 1 / (hp.alpha * jnp.maximum(b.mask.sum(-1), 1)), 0.0)
    right = b.reward >= 1.0
    tokens = (right[:, None] * b.mask).sum()
    share = right * b.mask.sum() / jnp.maximum(tokens, 1)  # a mean over their tokens, not over all
    return decoupled(b, hp.replace(lam=lam)).replace(extra=share)


def imitating(w, b, hp):
    return clip_higher(w, b, hp) - hp.mu * b.extra[:, None] * w.log_prob


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, imitating, by_length, token_mean, reference=True, critic=True)
