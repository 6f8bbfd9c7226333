"""BNPO. Xiao, Zhang, Cao 2025, arXiv 2506.02864.

Of a reward that is 0 or 1, p(q) is how often a prompt is solved, here its group's mean. Advantages
are divided by a Beta density at it, whose parameters follow the batch:

    Â = (R - p(q)) / f(p(q); α, β),    α = max(1, 1 + a/3),    β = max(1, 1 + b/3)

(a, b) are the Beta's that has the mean m and the variance v of the p of all prompts:
a = m c, b = (1 - m) c, c = m (1 - m) / v - 1. By the paper these α and β give the gradient its
least variance. α = β = 1 is REINFORCE with a baseline, α = β = 3/2 is GRPO but for a factor.
Read in the authors' code, with its bounds, and in a review, not in the paper itself; the clip and
the sum over tokens (here over a constant) are the code's. Left out: several rewards, each with an
advantage of its own.
"""

import jax.numpy as jnp
from jax.scipy.stats import beta as Beta

from jaxrl.families.tokens import Tokens, grouped, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning.dapo import clip_higher
from jaxrl.surrogate import constant_length

PAPER = {
    "slug": "bnpo",
    "id": 312,
    "title": "BNPO: Beta Normalization Policy Optimization",
    "year": 2025,
    "arxiv": "2506.02864",
    "chapter": "reasoning",
    "hyper": "BNPO",
    "parent": "grpo",
    "changes": "a Beta density that follows the batch divides advantages, not standard deviations",
    "claim": "it solves more held-out sums than GRPO",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "says": ["final_return > grpo"],
    },
}


@hyper
class BNPO(Tokens):
    eps: float = arg(0.2, "clip range of the ratio below 1", "(0, inf)")
    eps_high: float = arg(0.28, "that above 1", "(0, inf)")


def parameters(p):
    """α and β from the p of a batch."""
    m, v = p.mean(), p.var(ddof=1) if p.size > 1 else 1.0
    c = m * (1 - m) / jnp.maximum(v, 1e-6) - 1
    return jnp.maximum(1 + m * c / 3, 1.0), jnp.maximum(1 + (1 - m) * c / 3, 1.0)


def by_density(b, hp):
    R = grouped(b.reward, hp)
    p = R.mean(-1, keepdims=True)
    return ((R - p) * jnp.minimum(1 / Beta.pdf(p, *parameters(p)), 1e6)).reshape(-1)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip_higher, by_density, constant_length)
