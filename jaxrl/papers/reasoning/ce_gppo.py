"""CE-GPPO. Su, Pan, Lv, Li, Hu, Zhang, Gai, Zhou 2025, arXiv 2509.20712.

Tokens that PPO's clip leaves out are mostly rare ones, and they move the entropy: those of A > 0
raise it, those of A < 0 lower it. Their gradients are kept, as large as at the border, β times:

    A < 0, r < 1-ε:    β₁ (1-ε) r/sg(r) A
    A > 0, r > 1+ε:    β₂ (1+ε) r/sg(r) A
    else               r A

Without both it is the clip. The form with β = 1 read in eqs. 11 and 12 of the authors' earlier
report (Klear-Reasoner, arXiv 2508.07629), β₁ and β₂ in their code, not in the paper itself. The
code's bound of losses at r > 10 where A < 0 is left out.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "ce_gppo",
    "id": 38,
    "title": "CE-GPPO: Controlling Entropy via Gradient-Preserving Clipping Policy Optimization in "
    "Reinforcement Learning",
    "year": 2025,
    "arxiv": "2509.20712",
    "chapter": "reasoning",
    "hyper": "CEGPPO",
    "parent": "grpo",
    "changes": "tokens outside the clip range keep a bounded gradient",
    "claim": "β₂ raises the entropy and β₁ lowers it; it solves as many held-out sums as clipping",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [5e-4]},
        "arms": {
            "clipped": {"hyper": {"beta1": 0.0, "beta2": 0.0}},
            "rising": {"hyper": {"beta1": 0.0, "beta2": 1.0}},
            "falling": {"hyper": {"beta1": 1.0, "beta2": 0.0}},
        },
        "says": ["final sampled > clipped - 0.05", "mean entropy of rising > falling"],
    },
}


@hyper
class CEGPPO(Tokens):
    minibatches: int = 8
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    beta1: float = arg(0.75, "β₁, weight of bad tokens below the range", "[0, inf)")
    beta2: float = arg(1.0, "β₂, weight of good tokens above it", "[0, inf)")


def preserved(w, b, hp):
    r, A = jnp.exp(w.log_ratio), b.advantage
    one = jnp.exp(w.log_ratio - stop_gradient(w.log_ratio))  # r/sg(r)
    low, high = (A < 0) & (r < 1 - hp.eps), (A > 0) & (r > 1 + hp.eps)
    r = jnp.where(low, hp.beta1 * (1 - hp.eps) * one, r)
    return -jnp.where(high, hp.beta2 * (1 + hp.eps) * one, r) * A


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, preserved, normalised, token_mean)
