"""EXO. Ji, Lu, Niu, Ke, Wang, Zhu, Tang, Huang 2024 (ICML), arXiv 2402.00856.

Among K responses that π_ref wrote, the policy and the rewards are distributions, and the policy's
is fitted by the reverse KL, as RL does, where DPO's likelihood is the forward one:

    p_θ(i) = softmax_i(β_π log π(y_i|x)/π_ref(y_i|x)),   p_r(i) = softmax_i(r(x, y_i) / β_r)
    L = KL(p_θ || p_r)                                           (EXO-rw)

Labels in place of rewards have p_r = (1 - ε, ε), the preferred one first (EXO-pref, eq. 16). As K
grows the gradient becomes that of J at β_r for the policy p_θ becomes, π itself if β_π = 1. The
optimum is π_ref exp(r / β), β = β_π β_r; with labels it is another, whose margins are (2P - 1)
log((1 - ε)/ε) / β_π where they can be. Losses were read in the authors' code, which has β_π = β_r,
and ε = e^-10, and in TRL, with 1e-3; the theorem is from memory.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "exo",
    "id": 66,
    "title": "Towards Efficient and Exact Optimization of Language Model Alignment",
    "year": 2024,
    "arxiv": "2402.00856",
    "chapter": "preference",
    "hyper": "EXO",
    "parent": "dpo",
    "changes": "the reverse KL to rewards or labels among K responses, in place of the forward one",
    "claim": "a policy too small to fit all rewards has a higher objective by the reverse KL than "
    "by the forward one, and than by DPO",
    "check": {
        "env_params": {"prompts": 16, "length": 2},
        "network": {"table": False, "hidden": [8, 8]},
        "hyper": {"responses": 8, "candidates": 8, "minibatch": 64},
        "tune": {"lr": [1e-4, 3e-4, 1e-3, 3e-3]},
        "arms": {
            "forward": {"hyper": {"forward": True}},
            "dpo": {"paper": "dpo", "hyper": {"responses": 2}},
        },
        "says": ["last objective > forward", "last objective > dpo"],
    },
}


@hyper
class EXO(Preference):
    beta: float = arg(0.5, "β = β_π β_r, weight of the KL to the reference", "(0, inf)")
    beta_pi: float = arg(1.0, "β_π; β_r is β / β_π", "(0, inf)")
    eps: float = arg(0.0, "ε, of labels in place of rewards; 0: rewards", "[0, 0.5)")
    forward: bool = arg(False, "the forward KL, which is DPO's, of rewards or labels")


def target(b, hp):
    """log p_r [B, K]."""
    K = b.score.shape[1]
    others = jnp.maximum(hp.eps, 1e-30) / (K - 1)
    labels = jnp.log(jnp.where(jnp.arange(K) == 0, 1 - hp.eps, others))
    rewards = jax.nn.log_softmax(b.score * hp.beta_pi / hp.beta)
    return jnp.where(hp.eps > 0, labels, rewards)


def loss(w, b, hp):
    log_p, goal = jax.nn.log_softmax(hp.beta_pi * w.log_ratio), target(b, hp)
    if hp.forward:
        return -(jnp.exp(goal) * log_p).sum(-1)
    return (jnp.exp(log_p) * (log_p - goal)).sum(-1)


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, draw=("ref", "ref"), fixed=True)
