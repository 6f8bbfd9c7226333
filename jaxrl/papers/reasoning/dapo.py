"""DAPO. Yu et al. 2025, arXiv 2503.14476, section 3.

GRPO with a wider clip above, tokens that all count the same, and only groups that teach:

    J(θ) = E[1/Σᵢ|oᵢ| Σᵢ Σₜ min(rᵢₜ Âᵢ, clip(rᵢₜ, 1-ε_low, 1+ε_high) Âᵢ)],
    subject to 0 < #{solved} < G                                               (eqs. 8 and 11)

and a reward that falls for completions near the longest that is allowed (eq. 13):

    0 up to L_max - L_cache,    (L_max - L_cache - |o|) / L_cache from there on

There is no penalty to a reference. The authors sample until the batch is full of such groups; here
`oversample` times as many prompts are tried, and where fewer qualify the batch is smaller.
A completion that has no end within the window gets -1 more by eq. 13, where `cache` is not 0.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, grouped, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.returns import group_advantage
from jaxrl.surrogate import clipped, token_mean

PAPER = {
    "slug": "dapo",
    "reference": True,
    "title": "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    "year": 2025,
    "arxiv": "2503.14476",
    "chapter": "reasoning",
    "hyper": "DAPO",
    "parent": "grpo",
    "changes": "a wider clip above, the mean over tokens, only groups solved in part",
    "claim": "of as many completions, kept or not, it solves more held-out sums than GRPO",
    "check": {"says": ["final sampled > grpo"]},
    "battery": {
        "run": {"env": "tokens/parity"},
        "env_params": {"length": 4},
        "hyper": {"cache": 0.7, "oversample": 2},
    },
}


@hyper
class DAPO(Tokens):
    oversample: int = 2
    eps: float = arg(0.2, "ε_low, clip range of the ratio below 1", "(0, inf)")
    eps_high: float = arg(0.28, "ε_high, that above 1", "(0, inf)")
    cache: float = arg(0.0, "L_cache as a share of the window; 0: lengths are free", "[0, 1]")


def clip_higher(w, b, hp):
    return -clipped(jnp.exp(w.log_ratio), b.advantage, hp.eps, hp.eps_high)  # eq. 8


def solved_in_part(b, hp):
    solved = grouped(b.reward, hp) >= 1.0
    return solved.any(-1) & ~solved.all(-1)  # eq. 11


def overlong(length, room, share):
    """The punishment of a length among as many tokens as there is room for."""
    cache = jnp.maximum(share * room, 1e-6)
    return jnp.where(share > 0, jnp.clip((room - cache - length) / cache, -1.0, 0.0), 0.0)  # eq. 13


def shaped(b, hp):
    R = b.reward + overlong(b.mask.sum(-1), b.mask.shape[1], hp.cache)
    return group_advantage(grouped(R, hp)).reshape(-1)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip_higher, shaped, token_mean, keep=solved_in_part)
