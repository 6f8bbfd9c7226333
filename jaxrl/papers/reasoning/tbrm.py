"""TBRM. Yuan, Chen, Jia, Rakhlin, Xie 2025, arXiv 2505.15311.

The model's logits are read as Q values, so that V(s) = ln Σ_a exp Q(s, a) and ln π = Q - V. Along
a whole completion the Bellman residuals of KL-regularised reward add up to one, and its square is
the loss:

    L(θ) = E_τ[(ln π(τ) - ln π_ref(τ) - R(τ) / β + V(s_1))²]

V is differentiated too; any policy may have written τ. The square is times β / 2, for gradients in
units of the reward; β V(s_1) begins near its mean. Read where another paper cites it.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "tbrm",
    "id": 326,
    "title": "Trajectory Bellman Residual Minimization: A Simple Value-Based Method for LLM "
    "Reasoning",
    "year": 2025,
    "arxiv": "2505.15311",
    "chapter": "reasoning",
    "hyper": "TBRM",
    "parent": "grpo",
    "changes": "logits are values: one squared Bellman residual of a completion",
    "claim": "with one completion of a prompt it solves as many held-out sums as GRPO with eight",
    "check": {"says": ["final sampled > grpo - 0.05"]},
}


@hyper
class TBRM(Tokens):
    prompts: int = 1024
    group: int = 1
    beta: float = arg(0.05, "β, weight of the KL to the reference", "(0, inf)")


def residual(w, b, hp):
    ratio = ((w.log_prob - b.ref) * b.mask).sum(-1)
    V = jax.nn.logsumexp(w.logits[:, 0], -1)  # before the first token
    return hp.beta / 2 * jnp.square(ratio - b.reward / hp.beta + V)


def make(world, network=Tokens.network_for("")):
    outcome = lambda b, hp: b.reward
    return tokens(world, network, residual, outcome, reference=True)
