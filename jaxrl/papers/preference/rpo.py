"""RPO. Liu, Lu, Zhang, Liu, Guo, Yang, Blanchet, Wang 2024 (NeurIPS), arXiv 2405.16436.

The best policy for the worst of the rewards that explain the preferences,

    max_π min_r {η E_{y ~ π, y' ~ π_base}[r(x,y) - r(x,y') - β KL(π || π_ref)] + L_D(r)}

L_D being Bradley-Terry's loss, is where π_r ∝ π_ref exp(r / β) is least in

    L = η β E_{y ~ π_base}[-log π(y|x)] + L_DPO

so that DPO with a supervised loss is a pessimist: what no pair covers loses probability, as DPO's
gradient does not say. π_base is what the preferred responses are from, as in the authors' code,
where the loss was read, log-probabilities being sums over tokens; the rest is from memory, the step
from the first line to the second derived again. η is 0.005 there, of responses of hundreds of
tokens; at 0 this is DPO. TRL's `rpo_alpha` is another paper's.
"""

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper
from jaxrl.papers.preference import dpo

PAPER = {
    "slug": "rpo",
    "id": 133,
    "title": "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an "
    "Adversarial Regularizer",
    "year": 2024,
    "arxiv": "2405.16436",
    "chapter": "preference",
    "hyper": "RPO",
    "parent": "dpo",
    "changes": "a supervised loss of the preferred responses is added",
    "claim": "of few pairs that half of the responses are in it lets the preferred ones lose less "
    "probability than DPO and comes to a higher objective",
    "check": {
        "tune": {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]},
        "env_params": {"coverage": 0.5},
        "hyper": {"sets": 256},
        "says": ["last chosen > dpo", "last objective > dpo"],
    },
}


@hyper
class RPO(Preference):
    eta: float = arg(0.2, "η: η β is the weight of the supervised loss; 0 is DPO", "[0, inf)")


def loss(w, b, hp):
    return dpo.loss(w, b, hp) - hp.eta * hp.beta * w.policy[:, 0]


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True, optimum=None)
