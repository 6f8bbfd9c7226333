"""SPO. Xie, Zhang, Yang, Hutter, Xu 2025 (ICML), arXiv 2401.16025.

Maximise E[ r A - |A| / (2ε) (r - 1)² ], r = π(a|s) / π_old(a|s): greatest at r = 1 + ε sign(A).
From PPO it differs in this alone: a sample that left [1-ε, 1+ε] is pulled back, not let go.
Checked: the authors' code (it clips V at ε too, also for PPO). Not: the equation's number.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import make_with
from jaxrl.papers.on_policy.ppo import PPO as PPO
from jaxrl.papers.on_policy.ppo import clipped_value

PAPER = {
    "slug": "spo",
    "id": 5,
    "title": "Simple Policy Optimization",
    "year": 2025,
    "arxiv": "2401.16025",
    "chapter": "on_policy",
    "hyper": "PPO",
    "parent": "ppo",
    "changes": "a quadratic price on the ratio's distance from 1 instead of the clip",
    "claim": "it keeps a deep policy's ratio near 1 where PPO's leaves, at no loss of return",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 200_000},
        "network": {"hidden": [32, 32, 32, 32, 32, 32]},
        "hyper": {"epochs": 10},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "says": ["max ratio_deviation < ppo", "final_return > ppo - 0.05"],
    },
}


def penalty(w, b, hp):
    r, A = jnp.exp(w.log_ratio), b.advantage
    return jnp.abs(A) / (2 * hp.eps) * jnp.square(r - 1) - r * A


make = make_with(penalty, value_loss=clipped_value)
