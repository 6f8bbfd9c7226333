"""CoPG. Flet-Berliac, Grinsztajn, Strub, Choi, Wu, Cremer, Ahmadian, Chandak, Gheshlaghi Azar,
Pietquin, Geist 2024 (EMNLP), arXiv 2406.19185.

Of a policy that maximises E_π[R] - β KL(π || π_ref) all responses have one regularised reward:

    R_β(x, y) = R(x, y) - β log π(y|x)/π_ref(y|x)
    L = E_{y ~ μ, y' ~ μ'}[(R_β(x, y) - R_β(x, y'))²]
    ∇L = -2β E[(R_β(y) - R_β(y')) ∇log π(y) + (R_β(y') - R_β(y)) ∇log π(y')]

a policy gradient whose baseline is the other response, which is right whoever wrote the two: no
importance weights, and the optimum π_ref exp(R / β) for all samplers that reach all responses. Of
K responses it is the sum over all pairs by K - 1. From IPO, which is the case of rewards ±1/4, it
differs in that rewards have a size. No code was found: the square and its K responses were read in
others' accounts; that the paper divides by 2β, which changes a step's size, is from memory and is
left out.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import hyper

PAPER = {
    "slug": "copg",
    "id": 123,
    "title": "Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a "
    "supervised-friendly fashion",
    "year": 2024,
    "arxiv": "2406.19185",
    "chapter": "preference",
    "hyper": "CoPG",
    "parent": "psipo",
    "changes": "the margin is fitted to the difference of rewards in place of a constant",
    "claim": "from the same fixed pairs it comes to a higher objective than DPO and IPO, which see "
    "of their rewards no more than an order",
    "check": {
        "tune": {"lr": [0.001, 0.003, 0.01, 0.03]},
        "arms": {"psipo": {"paper": "psipo"}, "dpo": {"paper": "dpo"}},
        "says": ["last objective > psipo", "last objective > dpo"],
    },
}


@hyper
class CoPG(Preference):
    """Those of the family."""


def loss(w, b, hp):
    R = b.score - hp.beta * w.log_ratio  # R_β [B, K]
    square = jnp.square(R[:, :, None] - R[:, None])
    return square.sum((1, 2)) / 2 / (R.shape[1] - 1)  # each pair is there twice


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True)
