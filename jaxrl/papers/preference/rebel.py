"""REBEL. Gao, Chang, Zhan, Oertell, Swamy, Brantley, Joachims, Bagnell, Lee, Sun 2024 (NeurIPS),
arXiv 2404.16767.

The step of mirror descent π_{t+1} ∝ π_t exp(η r) says r up to a constant of the prompt, which pairs
cancel, so that it is what minimises a regression of relative rewards:

    L = E_{y, y' ~ π_t}[(1/η (log π(y|x)/π_t(y|x) - log π(y'|x)/π_t(y'|x)) - (r(x,y) - r(x,y')))²]

No critic, no clipping, no ratios. As the released code has it the reward is of π_t and constant,

    r(x, y) = R(x, y) - β log π_t(y|x)/π_ref(y|x)

so that iterates come to π_ref exp(R / β); at β = 0 it is the paper's, and they go to the best
response. From DPO it differs in that pairs are the policy's own, with rewards in place of labels.
The code's loss is η² times this. It was read in that code, with β = 0.05 and η = 1; the paper's
equations are from memory. Their other setting, of win rates in place of rewards, is not here.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, margin, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "rebel",
    "id": 3,
    "title": "REBEL: Reinforcement Learning via Regressing Relative Rewards",
    "year": 2024,
    "arxiv": "2404.16767",
    "chapter": "preference",
    "hyper": "REBEL",
    "parent": "dpo",
    "changes": "regresses relative rewards of the policy's own pairs, from one iterate to the next",
    "claim": "of as many pairs in as many steps it comes to a higher objective than DPO",
    "check": {
        "tune": {"lr": [0.001, 0.003, 0.01, 0.03]},
        "hyper": {"sets": 64},
        "arms": {"dpo": {"paper": "dpo", "hyper": {"sets": 12_800}}},
        "says": ["last objective > dpo"],
    },
}


@hyper
class REBEL(Preference):
    beta: float = arg(0.5, "β, weight of the KL in the reward; 0: the paper's own", "[0, inf)")
    eta: float = arg(1.0, "η, the step of mirror descent", "(0, inf)")


def loss(w, b, hp):
    r = b.score - hp.beta * (w.old - w.ref)
    return jnp.square(margin(w.policy - w.old) / hp.eta - margin(r))


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss)
