"""SFT: cloning what is preferred, against which DPO and RLHF are measured. Stiennon et al. 2020,
arXiv 2009.01325, begin with it.

    L = -E[log π(y_w|x)]

Of infinitely many pairs it comes to π(y) ∝ μ(y) P(y > μ), μ where the pairs are from: it knows
nothing of how much better, nor of any reference.
"""

import jax.numpy as jnp

from jaxrl import preferences
from jaxrl.families.preference import Preference, of_pairs, preference
from jaxrl.hyper import hyper

PAPER = {
    "slug": "sft",
    "reference": True,
    "title": "Learning to summarize from human feedback",
    "year": 2020,
    "arxiv": "2009.01325",
    "chapter": "preference",
    "hyper": "SFT",
    "parent": "bc",
    "changes": "it clones the preferred of two",
    "claim": "it comes to what is preferred in its pairs, which is not all that the reward offers",
    "check": {
        "hyper": {"sets": 32_768},
        "arms": {"dpo": {"paper": "dpo"}},
        "says": ["last tv < 0.1", "last episode_return < dpo"],
    },
    "inert": {"beta": "there is no reference in its loss"},
}


@hyper
class SFT(Preference):
    """Those of the family."""


def loss(w, b, hp):
    return -w.policy[:, 0]


@of_pairs
def optimum(k, hp):
    return preferences.normalised(k.data + jnp.log(preferences.win_rate(k.P, k.data)))


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True, optimum=optimum)
