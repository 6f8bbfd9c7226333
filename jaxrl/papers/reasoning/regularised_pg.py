"""RPG. Zhang, Liu, Yuan, Yuan, Gu, Yao 2025, arXiv 2505.17508.

Policy gradients with a KL to the policy π_old that sampled, of the right weights off it: four
objectives J = E_π[R] - β D, each with a surrogate whose gradient is J's. With w = π/π_old all are

    ∇J = E_old[w Â ∇log π]        Â = R - b - β c(w)
    forward KL(π_old || π)        c = -1/w                                          (prop. E.1)
    reverse KL(π || π_old)        c = log w + 1                                     (prop. E.3)
    unnormalised forward KL       c = 1 - 1/w                                       (prop. 3.2)
    unnormalised reverse KL       c = log w                                         (prop. 3.6)

The unnormalised ones are the estimator k3 seen from either side; GRPO's penalty is k3 without w.
Â is held constant, as REINFORCE's, and w is clipped on two sides of it (eq. 4.1, algorithm 2): no
gradient above 1+ε_high where Â >= 0, or below 1-ε or above `most` where Â < 0. Advantages are in
units of their group's deviation. The paper's β = 1e-4 is of rewards as here, but of far longer
completions; its KL also is to the last iteration's policy, which is the one that samples.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import clipped, token_mean

PAPER = {
    "slug": "regularised_pg",
    "id": 371,
    "title": "On the Design of KL-Regularized Policy Gradient Algorithms for LLM Reasoning",
    "year": 2025,
    "arxiv": "2505.17508",
    "chapter": "reasoning",
    "hyper": "RPG",
    "parent": "grpo",
    "changes": "the KL is to the policy that sampled, and weighed by the ratio as its gradient is",
    "claim": "it solves as many held-out sums as GRPO",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [1.25e-4, 2.5e-4, 5e-4]},
        "says": ["final sampled > grpo - 0.05"],
    },
    "battery": {"hyper": {"most": 1.2}},
}

PULL = {  # c(w), of log w
    "forward": lambda d: -jnp.exp(-d),
    "reverse": lambda d: d + 1,
    "unnormalised_forward": lambda d: -jnp.expm1(-d),
    "unnormalised_reverse": lambda d: d,
}


@hyper
class RPG(Tokens):
    minibatches: int = 8
    kl: str = arg("unnormalised_reverse", "which divergence D is", tuple(PULL))
    beta: float = arg(0.01, "β, weight of the KL", "[0, inf)")
    eps: float = arg(0.2, "ε, clip range of the ratio below 1", "(0, inf]")
    eps_high: float = arg(0.28, "that above 1", "(0, inf]")
    most: float = arg(10.0, "the ratio up to which bad tokens count", "(1, inf]")


def regularised(w, b, hp):
    A = stop_gradient(b.advantage - hp.beta * PULL[hp.kl](jnp.clip(w.log_ratio, -10.0, 10.0)))
    inside = clipped(jnp.exp(w.log_ratio), A, hp.eps, hp.eps_high)
    return -jnp.where(A < 0, jnp.maximum(inside, hp.most * A), inside)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, regularised, normalised, token_mean)
