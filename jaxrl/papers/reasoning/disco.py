"""DisCO. Li, Lin, Galanti, Tu, Yang 2025, arXiv 2505.12366.

Scores of right completions are raised above those of a prompt's wrong ones, the highest above all:

    max E_q[ mean_{o right} s(o) - τ log mean_{o' wrong} e^{s(o')/τ} ],    KL(π_old || π) <= δ

    s(o) = 1/|o| Σ_t log π(o_t), or 1/|o| Σ_t π(o_t)/π_old(o_t)

Nothing is clipped, and each prompt that has both counts the same: GRPO's weigh √(p(1-p)) by the
share p that is right. The constraint is β/2 [KL - δ]₊² in the loss. Equations read in the authors'
code, not in the paper itself; defaults are the code's. The KL is that of all tokens that a gradient
is of, by k3: with as few as there are here k1, which the authors' scripts take, is mostly noise.
With `accumulate` above 1 each piece has a constraint of its own.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, grouped, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "disco",
    "id": 244,
    "title": "DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained "
    "Optimization",
    "year": 2025,
    "arxiv": "2505.12366",
    "chapter": "reasoning",
    "hyper": "DisCO",
    "parent": "grpo",
    "changes": "right completions are told from wrong ones, under a constraint on the KL",
    "claim": "it solves more held-out sums than GRPO",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [1.25e-4, 2.5e-4, 5e-4]},
        "says": ["final sampled > grpo"],
    },
}


@hyper
class DisCO(Tokens):
    accumulate: int = 1
    score: str = arg("likelihood", "s: mean log π, or mean ratio", ("likelihood", "ratio"))
    tau: float = arg(10.0, "τ: the lower, the more the highest wrong scores count", "(0, inf)")
    delta: float = arg(1e-4, "δ, bound of the KL", "[0, inf)")
    beta: float = arg(1e3, "β, weight of what is beyond it", "[0, inf)")


def difference(s, right, tau):
    """How far right scores are above wrong ones, of each right one [..., G]; of none that has not
    both. They sum to what each prompt is worth."""
    wrong = ~right
    count = lambda x: jnp.maximum(x.sum(-1, keepdims=True), 1)
    highest = tau * jax.nn.logsumexp(jnp.where(wrong, s / tau, -1e9), -1, keepdims=True)
    highest -= tau * jnp.log(count(wrong))
    both = right.any(-1, keepdims=True) & wrong.any(-1, keepdims=True)
    return jnp.where(both & right, s - highest, 0.0) / count(right)


def discriminate(w, b, hp):
    each = w.log_prob if hp.score == "likelihood" else jnp.exp(w.log_ratio)
    s = (b.mask * each).sum(-1) / jnp.maximum(b.mask.sum(-1), 1)
    gain = difference(grouped(s, hp), grouped(b.reward >= 1.0, hp), hp.tau).reshape(-1)
    kl = (token_mean(b.mask) * w.kl()).sum()
    return -hp.group * gain + hp.beta / 2 * jnp.square(jnp.maximum(kl - hp.delta, 0.0))


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, discriminate, lambda b, hp: b.reward)
