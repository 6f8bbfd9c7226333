"""GPG. Chu, Huang, Zhang, Wei, Wang 2025, arXiv 2504.02546.

The policy gradient itself: no ratio, no clip, no reference, no critic. With groups of completions,

    J(θ) = E[1/Σᵢ|oᵢ| Σᵢ Σₜ log π(oᵢₜ) Âᵢ],    Âᵢ = α (rᵢ - mean(r)) / F_norm,    α = B / (B - M)

F_norm = 1. M of the B completions are in groups whose rewards are all the same, which give no
gradient but make the mean over the batch smaller: α makes up for that. Left out: to sample anew
while less than β_th of the groups count. F_norm, α and β_th read in the authors' README, the
objective in the catalogue's notes and verl's documentation, not in the paper itself. (The authors'
code for images takes each completion's mean first.)
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, centred, grouped, tokens
from jaxrl.hyper import hyper
from jaxrl.surrogate import policy_gradient, token_mean

PAPER = {
    "slug": "gpg",
    "id": 332,
    "title": "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
    "year": 2025,
    "arxiv": "2504.02546",
    "chapter": "reasoning",
    "hyper": "GPG",
    "parent": "grpo",
    "changes": "the plain policy gradient, made up for the groups that give none",
    "claim": "without clip, reference and standard deviation it solves as many sums as GRPO",
    "check": {"says": ["final sampled > grpo - 0.05"]},
}


@hyper
class GPG(Tokens):
    pass


def corrected(b, hp):
    R = grouped(b.reward, hp)
    counts = R.max(-1) > R.min(-1)  # the others are M
    return centred(b, hp) * len(R) / jnp.maximum(counts.sum(), 1)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, policy_gradient, corrected, token_mean)
