"""XPO. Xie, Foster, Krishnamurthy, Rosset, Awadallah, Rakhlin 2024 (ICLR 2025), arXiv 2405.21046.

Online DPO and one term more. In each round y ~ π_t and ỹ ~ π_ref answer a prompt, the pair is
labelled, and of all rounds so far (algorithm 1)

    L = -E[log σ(β log π(y₊)/π_ref(y₊) - β log π(y₋)/π_ref(y₋))] + α E[log π(ỹ)]

As β log(π*/π_ref) = r - V*, less probability of what π_ref says is a larger implied V: optimism.
α = 0 is online DPO, of the same pairs. The loss, its sign and who draws what were read in two
implementations (TRL's and oat's), that all rounds are learned from is the paper's from memory:
`remember` says how many. The paper gives out its best iterate, this its last.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper
from jaxrl.papers.preference import dpo

PAPER = {
    "slug": "xpo",
    "id": 226,
    "title": "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for "
    "Sample-Efficient RLHF",
    "year": 2024,
    "arxiv": "2405.21046",
    "chapter": "preference",
    "hyper": "XPO",
    "parent": "dpo",
    "changes": "online pairs of policy and reference, and a bonus against what the reference says",
    "claim": "where the reference avoids what is good it needs fewer labels than online DPO",
    "check": {
        "env_params": {"tilt": 2.0},
        "hyper": {"sets": 16, "beta": 0.1},
        "tune": {"lr": [0.03, 0.1, 0.3], "alpha": [1e-4, 1e-3, 1e-2]},
        "by": "mean objective",
        "arms": {
            "online_dpo": {
                "hyper": {"alpha": 0.0},
                "tune": {"lr": [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3]},
            }
        },
        "says": ["mean objective > online_dpo", "last objective > online_dpo"],
    },
}


@hyper
class XPO(Preference):
    alpha: float = arg(0.01, "α, weight of the optimism", "[0, inf)")
    remember: int = arg(64, "rounds that are learned from", "[1, inf)")

    @classmethod
    def smallest(cls):
        small = super().smallest()
        return small | dict(hyper=small["hyper"] | dict(remember=2))


def optimism(w, b, hp):
    """log π of the reference's response."""
    return jnp.where(b.drawn == 1, w.policy, 0.0).sum(-1)


def loss(w, b, hp):
    return dpo.loss(w, b, hp) + hp.alpha * optimism(w, b, hp)


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, draw=("policy", "ref"))
