"""Nash-MP. Tiapkin, Calandriello, Belomestny, Moulines, Naumov, Rasul, Valko, Ménard 2025,
arXiv 2505.19731v1. (Version 2 has another title and another method.)

Mirror prox on the game P(π > π') - β KL(π || π_ref) + β KL(π' || π_ref). Both proximal steps are
near π_k; the second is against what the first ended with:

    π_{k+1/2} = argmin_π P(π_k > π)       + β KL(π || π_ref) + (β/η) KL(π || π_k)
    π_{k+1}   = argmin_π P(π_{k+1/2} > π) + β KL(π || π_ref) + (β/η) KL(π || π_k)

and, solved, π ∝ [π_k π_ref^η exp((η/β) P(y > opponent))]^(1/(1+η)). With η = 2β the KL to the Nash
policy falls by 1 + 2β at least in an iteration, however many responses there are. Each step is
approximated by policy gradients, `updates` of them, on the responses of its opponent, each weighed
by how much likelier it has become.

From EGPO, which for a table is the same update, it differs in these inner steps. The rate was read
in the abstract; the steps are from memory and the closed form was derived. The paper's recipe for
language models, with an average of parameters as the centre, was not found and is not here.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Twice, nash, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "nash_mp",
    "id": 10,
    "title": "Accelerating Nash Learning from Human Feedback via Mirror Prox",
    "year": 2025,
    "arxiv": "2505.19731",
    "chapter": "preference",
    "hyper": "NashMP",
    "parent": "inpo",
    "changes": "each step is taken twice, the second time against what the first led to",
    "claim": (
        "where the KL counts for little its last policy is nearer to the Nash policy of a game than"
        " that of INPO's mirror descent, at equal gradient steps and comparisons"
    ),
    "check": {
        "on": {"preference/game": 4_000},
        "env_params": {"length": 2},
        "hyper": {"beta": 0.05},
        "by": "-last gap",
        "tune": {"eta": [0.1, 0.3, 1.0]},
        "arms": {
            "inpo": {
                "paper": "inpo",
                "hyper": {"sets": 3072},
                "tune": {"eta": [0.5, 1.5, 5.0]},
            }
        },
        "says": ["last gap < inpo"],
    },
}


@hyper
class NashMP(Twice):
    """Those of the family, and mirror prox's step."""

    eta: float = arg(1.0, "η, a proximal step; in the theorem 2β", "(0, inf)")


def loss(w, b, hp):
    """The expectation over π of the objective, from responses of another policy; P(π_k > y) is
    taken from its mean, which changes no gradient but its noise."""
    near = hp.beta * (w.log_ratio + (w.policy - w.old) / hp.eta)
    return (jnp.exp(w.policy - b.sampler) * (0.5 - b.win + near)).mean(1)


def make(world, network=NashMP.network_for("preference")):
    return preference(world, network, loss, versus="policy", again=True, optimum=nash)
