"""GVPO. Zhang, Hong, Bao, Jiang, Song, Hong, Xiong 2025, arXiv 2504.19599.

What maximises E_π[R] - β KL(π || π') has β log π/π' = R less something that all completions of a
prompt share. Differences within a group do not have it, and are regressed on those of rewards:

    L = 1/2 Σᵢ ((Rθᵢ - mean Rθ) - (Rᵢ - mean R))² / (G - 1),    Rθ = β log π(yᵢ)/π'(yᵢ)

of which the gradient is -β Σᵢ wᵢ ∇log π(yᵢ), wᵢ the difference in brackets with its sign changed.
As in the authors' code, where this was read, π' is the policy that sampled: later steps brake.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, centred, grouped, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.returns import group_advantage

PAPER = {
    "slug": "gvpo",
    "id": 70,
    "title": "GVPO: Group Variance Policy Optimization for Large Language Model Post-Training",
    "year": 2025,
    "arxiv": "2504.19599",
    "chapter": "reasoning",
    "hyper": "GVPO",
    "parent": "grpo",
    "changes": "log-ratios within a group are regressed on rewards, without clip or ratio",
    "claim": "it solves more held-out sums than GRPO",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [1.25e-4, 2.5e-4, 5e-4]},
        "says": ["final sampled > grpo"],
    },
}


@hyper
class GVPO(Tokens):
    minibatches: int = 8
    beta: float = arg(0.1, "β, weight of the KL: how far rewards may move π", "(0, inf)")


def variance(w, b, hp):
    implied = hp.beta * (b.mask * w.log_ratio).sum(-1)
    gap = group_advantage(grouped(implied, hp), scale=False).reshape(-1) - b.advantage[:, 0]
    return jnp.square(gap) / 2 * hp.group / (hp.group - 1)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, variance, centred)
