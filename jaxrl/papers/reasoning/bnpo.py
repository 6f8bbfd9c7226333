"""BNPO. Xiao, Zhang, Cao 2025, arXiv 2506.02864.

A prompt is solved with probability p(q), its group's mean. A Beta density divides advantages:

    Â = (R - p(q)) / f(p(q); α, β),    α, β = max(1, 1 + m c / 3), max(1, 1 + (1 - m) c / 3)
    c = m (1 - m) / v - 1,    m, v: mean and variance of all p, as in the authors' code
"""

import jax.numpy as jnp
from jax.scipy.stats import beta as Beta

from jaxrl.families.tokens import Tokens, centred, grouped, tokens
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
    "check": {"says": ["final sampled > grpo"]},
}


@hyper
class BNPO(Tokens):
    eps: float = arg(0.2, "clip range of the ratio below 1", "(0, inf)")
    eps_high: float = arg(0.28, "that above 1", "(0, inf)")


def parameters(p):
    m, v = p.mean(), p.var(ddof=1) if p.size > 1 else 1.0
    c = m * (1 - m) / jnp.maximum(v, 1e-6) - 1
    return [jnp.maximum(1 + x * c / 3, 1.0) for x in (m, 1 - m)]


def by_density(b, hp):
    p = grouped(b.reward, hp).mean(-1)
    return centred(b, hp) * jnp.repeat(jnp.minimum(1 / Beta.pdf(p, *parameters(p)), 1e6), hp.group)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip_higher, by_density, constant_length)
