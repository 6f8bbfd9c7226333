"""R²VPO. Luo, Han, Hu, Li, Hao 2026, arXiv 2601.03320.

The variance of the policy's ratio is bounded, in place of each ratio being clipped:

    max E[r A],    E[(r - 1)²] <= δ

by a primal and a dual step: descent of -r A + λ/2 (r - 1)², in which stale or surprising tokens are
drawn back smoothly, and λ ← max(0, λ + η (E[(r - 1)²]/δ - 1)) once an iteration, at the policy that
was learned from its completions. The paper's equations are unread: objective and constraint are as
its abstract and others' words of it say, the dual step is the usual one, δ, η and λ's start are
ours, from a look at one seed: with δ = 0.02 λ grew to 20 and nothing was learned. Its replay of old
completions is left out; later minibatches and the `stale` sampler are what is off-policy here.
"""

import jax.numpy as jnp

from jaxrl.completions import judge, model, task
from jaxrl.core import Part
from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "r2vpo",
    "id": 188,
    "title": "Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning",
    "year": 2026,
    "arxiv": "2601.03320",
    "chapter": "reasoning",
    "hyper": "R2VPO",
    "parent": "grpo",
    "changes": "a multiplier holds the variance of the ratio, and nothing is clipped",
    "claim": "the ratio's variance stays within twice its bound, and as many held-out sums "
    "are solved as by clipping",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [1.25e-4, 2.5e-4, 5e-4]},
        "says": ["final sampled > grpo - 0.05", "last ratio_variance < 0.2"],
    },
}


@hyper
class R2VPO(Tokens):
    minibatches: int = 8
    delta: float = arg(0.1, "δ, bound of the ratio's variance", "(0, inf)")
    price: float = arg(2.0, "λ at first", "[0, inf)")
    rate: float = arg(0.1, "η, of the dual step", "[0, inf)")


def braked(w, b, hp):
    off = jnp.expm1(w.log_ratio)  # r - 1
    return -(1 + off) * b.advantage + b.seen["price"][:, None] / 2 * jnp.square(off)


def multiplier(net):
    """λ, once for each prompt, as a table has it: all the same."""

    def init(key, s, hp, world):
        return dict(price=jnp.full(task(world).prompts, hp.price, jnp.float32))

    def apply(table, s, b, t, hp, world):
        off = jnp.expm1(judge(net, s.params, b, hp.temperature, hp.group).log_ratio)
        variance = (token_mean(b.mask) * jnp.square(off)).sum()
        price = jnp.maximum(table["price"] + hp.rate * (variance / hp.delta - 1), 0.0)
        return dict(price=price), dict(ratio_variance=variance, price=price[0])

    return Part(init, apply)


def make(world, network=Tokens.network_for("")):
    track = multiplier(model(world, network))
    return tokens(world, network, braked, normalised, token_mean, track=track)
