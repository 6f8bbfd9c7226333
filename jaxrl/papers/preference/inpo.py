"""INPO. Zhang, Yu, Peng, Song, Tian, Huo, Jiang, Mi, Yu 2024 (ICLR 2025), arXiv 2407.00617.

Online mirror descent on l_t(π) = -P(π > π_t) + τ KL(π || π_ref), with a step of 1 / η (eq. 5):

    π_{t+1} ∝ exp(P(y > π_t) / η) π_ref^(τ/η) π_t^(1 - τ/η)

which is the one minimiser, with no win rate to estimate, of (eq. 8)

    L_t = E_{y, y' ~ π_t}[(h_t(y_w, y_l) - 1 / (2η))²]
    h_t = log π(y_w)/π(y_l) - (τ/η) log π_ref(y_w)/π_ref(y_l) - (1 - τ/η) log π_t(y_w)/π_t(y_l)

τ is `beta`; an iteration's `updates` are the steps towards one minimiser. From online IPO it
differs in π_t, which it stays near. That π_t draws both is what the identity needs; the paper's
experiments take the best and the worst of eight, which is not done here. All equations were read.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, margin, nash, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "inpo",
    "id": 34,
    "title": (
        "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret"
        " Learning"
    ),
    "year": 2024,
    "arxiv": "2407.00617",
    "chapter": "preference",
    "hyper": "INPO",
    "parent": "online_ipo",
    "changes": "the margin starts from the policy's own of the iteration before",
    "claim": "where preferences go in circles its last policy is less exploitable than DPO's",
    "check": {
        "on": {"preference/game": 2_000},
        "env_params": {"length": 2},
        "by": "-last gap_plain",
        "tune": {"eta": [0.15, 0.5, 1.5]},
        "hyper": {"beta": 0.05},
        "arms": {
            "dpo": {
                "paper": "dpo",
                "hyper": {"sets": 204_800},
                "tune": {"beta": [0.1, 0.3, 1.0]},
            }
        },
        "says": ["last gap_plain < dpo"],
    },
}


@hyper
class INPO(Preference):
    """Those of the family; β is τ, which in the paper is η / 3."""

    eta: float = arg(1.5, "η, the inverse of mirror descent's step", "(0, inf)")


def h(w, hp):
    """What a pair's margin has more than that of π_ref^(β/η) π_t^(1 - β/η)."""
    near = hp.beta / hp.eta * w.ref + (1 - hp.beta / hp.eta) * w.old
    return margin(w.policy - near)


def loss(w, b, hp):
    return jnp.square(h(w, hp) - 1 / (2 * hp.eta))  # (8)


def make(world, network=INPO.network_for("preference")):
    return preference(world, network, loss, optimum=nash)
