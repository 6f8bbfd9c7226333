"""SPO. Xie, Zhang, Yang, Hutter, Xu 2025 (ICML), arXiv 2401.16025.

Maximise E[ r A - |A| / (2ε) (r - 1)² ], r = π(a|s) / π_old(a|s): greatest at r = 1 + ε sign(A).
From PPO it differs in this alone: a sample that left [1-ε, 1+ε] is pulled back, not let go.
As the authors' code has it, but for `vf_clip` = ε and A standardised by minibatch, which that code
does for PPO too. Not checked: the equation's number; the results on Atari and MuJoCo.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import on_policy
from jaxrl.papers.on_policy.ppo import PPO, clipped_value
from jaxrl.policies import Network, policy_for

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
        "arms": {"ppo": {"paper": "ppo"}},
        "says": ["max ratio_deviation < ppo", "final_return > ppo - 0.05"],
    },
}


def penalty(w, b, hp):
    r, A = jnp.exp(w.log_ratio), b.advantage
    return jnp.abs(A) / (2 * hp.eps) * jnp.square(r - 1) - r * A


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, penalty, value_loss=clipped_value, sequences=network.memory > 0)
