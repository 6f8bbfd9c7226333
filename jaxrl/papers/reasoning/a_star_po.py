"""A*-PO. Brantley, Chen, Gao, Lee, Sun, Zhan, Zhang 2025, arXiv 2505.20686.

The optimum of KL-regularised reward is π* = π_ref exp((r - V*) / β). First V* of each prompt is
estimated, once, from N completions of the reference; then one completion of a prompt at a time is
enough for a regression on the optimal advantage r - V*:

    V*(x) = β₁ ln(1/N Σᵢ exp(r(x, yᵢ) / β₁)),    yᵢ ~ π_ref
    min_θ E_{y ~ π_t}[(β₂ ln(π(y|x) / π_ref(y|x)) - (r(x, y) - V*(x)))²]

No critic, ratio or clip; β₁ and β₂ differ. Equations and β's are those of the authors' code, not
read in the paper itself. The square is divided by 2 β₂ here, which makes its gradient a policy
gradient's: Adam does not know a loss's scale, but its ε and the clip of gradients do. Where the
reference has solutions never, V* is 0. The N completions of every prompt are not among the steps.
"""

import jax
import jax.numpy as jnp

from jaxrl.completions import model
from jaxrl.core import Part
from jaxrl.families.tokens import Tokens, tokens, tries
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "a_star_po",
    "id": 57,
    "title": "Accelerating RL for LLM Reasoning with Optimal Advantage Regression",
    "year": 2025,
    "arxiv": "2505.20686",
    "chapter": "reasoning",
    "hyper": "AStarPO",
    "parent": "grpo",
    "changes": "a regression on the advantage of the optimum, whose values the reference gives",
    "claim": "with one completion of a prompt, but for the uncounted ones, it solves as many "
    "held-out sums as GRPO with eight",
    "check": {"says": ["final sampled > grpo - 0.05"]},
    "battery": {"hyper": {"group": 1}},
}


@hyper
class AStarPO(Tokens):
    prompts: int = 1024
    group: int = 1
    beta1: float = arg(0.5, "β₁, the temperature of V*", "(0, inf)")
    beta2: float = arg(1e-3, "β₂, weight of the KL to the reference", "(0, inf)")
    first: int = arg(8, "N, completions of every prompt for V*, uncounted", "[1, inf)")


def optimal_values(R, beta):
    """V* of prompts from rewards [prompts, N]."""
    return beta * jax.nn.logsumexp(R / beta - jnp.log(R.shape[-1]), -1)


def regression(w, b, hp):
    implied = hp.beta2 * ((w.log_prob - b.ref) * b.mask).sum(-1)
    return jnp.square(implied - b.advantage[:, 0]) / (2 * hp.beta2)


def make(world, network=Tokens.network_for("")):
    net = model(world, network)

    def init(key, s, hp, world):  # s.params are the reference
        return optimal_values(tries(net, s, key, hp, world, hp.first), hp.beta1)

    track = Part(init, lambda V, s, b, t, hp, world: (V, {}))
    optimal = lambda b, hp: b.reward - b.seen
    return tokens(world, network, regression, optimal, track=track, reference=True)
