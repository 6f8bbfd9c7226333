"""PPO-Lagrangian. Ray, Achiam, Amodei 2019, Benchmarking Safe Exploration in Deep RL.

  max_π min_{λ >= 0}  J_r(π) - Σ_k λ_k (J_k(π) - d_k)
by turns: λ' = [λ + η (J - d)]₊ from the episodes of a rollout, then clipped steps of PPO with the
advantage (A_r - Σ λ_k A_k) / (1 + Σ λ_k).

From PPO it differs in the price of each cost, which rises for as long as the budget is overspent.

Checked: the authors' code, of which A is (A_r of deviation 1, the costs' only centred), and the
order of the two steps. There λ is the softplus of what Adam moves, the clip is of A_r alone, and
the KL ends epochs early. Not checked: the text, which is not on arXiv; Safety Gym.
"""

import jax.numpy as jnp

from jaxrl import duals
from jaxrl.families.safe import Safe, make_with, priced
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip

PAPER = {
    "slug": "ppo_lagrangian",
    "reference": True,
    "title": "Benchmarking Safe Exploration in Deep Reinforcement Learning (PPO-Lagrangian)",
    "year": 2019,
    "chapter": "safe",
    "hyper": "PPOLagrangian",
    "parent": "ppo",
    "changes": "a price on each cost, by gradient ascent on what exceeds its budget",
    "claim": "it comes to keep every cost within its budget, where PPO is far outside",
    "check": {
        "on": {"safe/circle": 120_000, "safe/navigation": 120_000},
        "tune": {"lr": [1e-3, 2e-3, 4e-3]},
        "by": "-last excess",
        "arms": {"ppo": {"hyper": {"dual_lr": 0.0}}},  # nothing has a price
        "says": ["last excess < 1.0", "last excess of ppo > 20.0"],
    },
}


@hyper
class PPOLagrangian(Safe):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    price: float = arg(0.0, "where each λ starts", "[0, inf)")
    dual_lr: float = arg(0.05, "η, step size of λ for an excess of 1 an episode", "[0, inf)")


def begin(k, hp):
    return jnp.full(k, hp.price)


def rule(lam, cost, budget, hp):
    lam = duals.ascent(lam, cost - budget, hp.dual_lr)
    return lam, lam


make = make_with(clip, dual=priced(begin, rule))
