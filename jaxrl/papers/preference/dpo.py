"""DPO. Rafailov, Sharma, Mitchell, Ermon, Manning, Finn 2023 (NeurIPS), arXiv 2305.18290.

What maximises E_π[r] - β KL(π || π_ref) is π* ∝ π_ref exp(r / β) (eq. 4), so that a policy is a
reward, r = β log(π* / π_ref) + β log Z (eq. 5), and Bradley-Terry's likelihood of preferences needs
no other (eq. 7):

    L = -E[log σ(β log π(y_w|x)/π_ref(y_w|x) - β log π(y_l|x)/π_ref(y_l|x))]

No reward model and no samples: a classification of fixed pairs. Equation 7, and that its
log-probabilities are sums over tokens, were read in the authors' code; the numbers of the others
are from memory.
"""

import jax

from jaxrl.families.preference import Preference, margin, preference
from jaxrl.hyper import hyper

PAPER = {
    "slug": "dpo",
    "id": 282,
    "title": "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    "year": 2023,
    "arxiv": "2305.18290",
    "chapter": "preference",
    "hyper": "DPO",
    "parent": "rlhf",
    "changes": "the policy is its own reward model: a classification of fixed pairs",
    "claim": "of many pairs it comes near the optimum of the KL objective, above what cloning does",
    "check": {
        "hyper": {"sets": 32_768},
        "arms": {"sft": {"paper": "sft"}},
        "says": ["last objective > sft", "last tv < 0.25"],
    },
}


@hyper
class DPO(Preference):
    """Those of the family."""


def loss(w, b, hp):
    return -jax.nn.log_sigmoid(hp.beta * margin(w.log_ratio))


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True)
