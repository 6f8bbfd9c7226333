"""DNO. Rosset, Cheng, Mitra, Santacroce, Awadallah, Xie 2024, arXiv 2404.03715.

Towards the minimax winner, argmax_π min_π' P(π > π') (eq. 3), by π_{t+1} ∝ π_t exp(r_t / η) (eq. 9)
with the policy's own win rate as the reward, r_t(y) = E_{y'~π_t}[P(y > y')]. Each step is a
regression of pairs (eq. 8), against the π_t that the iteration began with:

    L = -E[σ(r_t(y1) - r_t(y2)) log σ(d) + σ(r_t(y2) - r_t(y1)) log σ(-d)]
    d = η log π(y1)/π_t(y1) - η log π(y2)/π_t(y2)

It is the mean of all policies that comes near. With β > 0 this is appendix A's regularised form,
option I, with π_t^(1 - β/η) π_ref^(β/η) in the place of π_t, whose last policy comes to a Nash
policy. From DPO it differs in the target, which is a win rate and not one answer, and in who draws.
All equations were read. r_t is the mean of `opponents` answers. The practical recipe, pairs of a
large margin with a teacher's responses among them, is not here.
"""

import jax

from jaxrl.families.preference import Preference, margin, preference
from jaxrl.hyper import arg, hyper
from jaxrl.papers.preference.inpo import h

PAPER = {
    "slug": "dno",
    "id": 79,
    "title": (
        "Direct Nash Optimization: Teaching Language Models to Self-Improve with General"
        " Preferences"
    ),
    "year": 2024,
    "arxiv": "2404.03715",
    "chapter": "preference",
    "hyper": "DNO",
    "parent": "dpo",
    "changes": "the target is the win rate against the policy itself, which is also the reference",
    "claim": (
        "where preferences go in circles the mean of its policies is less exploitable than DPO's,"
        " at equal gradient steps and comparisons"
    ),
    "check": {
        "on": {"preference/game": 2_000},
        "env_params": {"length": 2},
        "hyper": {"sets": 256},
        "by": "-last gap_average_plain",
        "tune": {"eta": [1.0, 3.0, 10.0]},
        "arms": {
            "dpo": {
                "paper": "dpo",
                "hyper": {"sets": 460_800},
                "tune": {"beta": [0.1, 0.3, 1.0]},
            }
        },
        "says": ["last gap_average_plain < dpo"],
    },
}


@hyper
class DNO(Preference):
    """Those of the family."""

    beta: float = arg(0.0, "τ, weight of the KL to the reference", "[0, inf)")
    eta: float = arg(3.0, "η, the inverse of a step", "(0, inf)")
    opponents: int = 4


def loss(w, b, hp):
    d, s = hp.eta * h(w, hp), jax.nn.sigmoid(margin(b.win))
    return -(s * jax.nn.log_sigmoid(d) + (1 - s) * jax.nn.log_sigmoid(-d))  # (8)


def make(world, network=DNO.network_for("preference")):
    return preference(world, network, loss, versus="policy", optimum=None)
