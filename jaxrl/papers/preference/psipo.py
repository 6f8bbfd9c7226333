"""ΨPO and IPO. Azar, Rowland, Piot, Guo, Calandriello, Valko, Munos 2023 (AISTATS 2024),
arXiv 2310.12036.

    max_π E_{y~π, y'~μ}[Ψ(P(y > y'|x))] - τ KL(π || π_ref)          (eq. 6)

With Ψ the logit this is DPO's objective, which a sure preference sends to infinity, so that the KL
counts for nothing. IPO takes P itself. Its optimum is π* ∝ π_ref exp(P(y > μ) / τ), and in pairs

    L = E_{(y_w, y_l)}[(h(y_w, y_l) - 1 / (2τ))²]                   (eq. 17)
    h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)

τ is `beta`. From DPO it differs in the square: the margin has a target. Eq. 17 was read in the code
of DPO's authors and in TRL, and derived again from eq. 6; the numbers of the others are from
memory. Log-probabilities are sums over tokens, as the paper's π(y|x); TRL has their means.
"""

import jax.numpy as jnp

from jaxrl import preferences
from jaxrl.families.preference import Preference, margin, of_pairs, preference
from jaxrl.hyper import hyper

PAPER = {
    "slug": "psipo",
    "id": 114,
    "title": "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    "year": 2023,
    "arxiv": "2310.12036",
    "chapter": "preference",
    "hyper": "IPO",
    "parent": "dpo",
    "changes": "the margin is fitted to 1 / (2τ) in place of the likelihood",
    "claim": "where preferences are sure it stays near its reference, and DPO goes to one response",
    "check": {
        "on": {"preference/sure": 2_000},
        "says": ["last tv < 0.02", "last entropy of dpo < 0.1", "last kl_ref < dpo - 0.3"],
    },
}


@hyper
class IPO(Preference):
    """Those of the family; β is τ."""


def loss(w, b, hp):
    return jnp.square(margin(w.log_ratio) - 1 / (2 * hp.beta))


@of_pairs
def optimum(k, hp):
    return preferences.gibbs(k.ref, preferences.win_rate(k.P, k.data), hp.beta)


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True, optimum=optimum)
