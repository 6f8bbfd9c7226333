"""WPO. Zhou, Agrawal, Zhang, Indurthi, Zhao, Song, Xu, Zhu 2024 (EMNLP), arXiv 2406.11827.

Pairs from elsewhere count as much as they might have been the policy's own:

    L = -E[W log σ(β log π(y_w)/π_ref(y_w) - β log π(y_l)/π_ref(y_l))],   W = w(y_w) w(y_l)
    log w(x, y) = 1/|y| Σ_t [log π(y_t|x, y_<t) - log Σ_v π(v|x, y_<t)²]          (eq. 2)

with W of the policy as it is, without a gradient, and at most 1. What is taken off is the mean
probability of a token of the policy's own, so that its own responses have a weight near 1 ("sampled
alignment"). From DPO it differs in W alone. Read in the authors' code; the equation's number is
TRL's. A table that can hold the optimum of soft labels has the same one as DPO's whatever W is: it
counts where prompts share parameters, or pairs are few. Their other weights are not here.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import hyper
from jaxrl.papers.preference import dpo

PAPER = {
    "slug": "wpo",
    "id": 99,
    "title": "WPO: Enhancing RLHF with Weighted Preference Optimization",
    "year": 2024,
    "arxiv": "2406.11827",
    "chapter": "preference",
    "hyper": "WPO",
    "parent": "dpo",
    "changes": "a pair counts as much as it might have been the policy's own",
    "claim": "of the same pairs from elsewhere a shared network comes to a higher objective "
    "than by DPO",
    "check": {
        "env_params": {"prompts": 16, "length": 2},
        "network": {"table": False, "hidden": [16, 16]},
        "hyper": {"minibatch": 64},
        "tune": {"lr": [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]},
        "says": ["last objective > dpo"],
    },
}


@hyper
class WPO(Preference):
    """Those of the family."""


def weight(w, b):
    """W [B]."""
    each = b.mask * (w.each.policy - jnp.log(w.squares))
    log_w = each.sum(-1) / jnp.maximum(b.mask.sum(-1), 1)
    return jax.lax.stop_gradient(jnp.minimum(1, jnp.exp(log_w.sum(-1))))


def loss(w, b, hp):
    return weight(w, b) * dpo.loss(w, b, hp)


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True)
