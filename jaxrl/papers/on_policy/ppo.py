"""PPO. Schulman, Wolski, Dhariwal, Radford, Klimov 2017, arXiv 1707.06347.

Clipped (eq. 7):   L = E[ min(r A, clip(r, 1-ε, 1+ε) A) ],   r = π(a|s) / π_old(a|s)
Penalised (eq. 8): L = E[ r A - β KL(π_old(.|s) || π(.|s)) ], β doubled or halved after each update
Both with - c₁ (V - V_targ)² + c₂ H(π) (eq. 9) over epochs of minibatches of each rollout.

From policy gradients it differs in taking many gradient steps per rollout, kept near π_old.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import clipped

PAPER = {
    "slug": "ppo",
    "id": 1,
    "title": "Proximal Policy Optimization Algorithms",
    "year": 2017,
    "arxiv": "1707.06347",
    "chapter": "on_policy",
    "hyper": "PPO",
    "parent": "a2c",
    "changes": "many epochs on each rollout, by a clipped surrogate",
    "claim": "the clipped surrogate beats no clipping at the same epochs, and A2C",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000, "Pendulum-v1": 200_000},
        "tune": {"lr": [3e-4, 1e-3, 2.5e-3, 5e-3]},
        "arms": {"unclipped": {"hyper": {"eps": "inf"}}, "a2c": {"paper": "a2c"}},
        "says": ["final_return > unclipped", "final_return > a2c"],
    },
}


@hyper
class PPO(OnPolicy):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    vf_clip: float = arg(jnp.inf, "clip range of the critic's change; inf: off", "(0, inf]")


def clip(w, b, hp):
    return -clipped(jnp.exp(w.log_ratio), b.advantage, hp.eps)  # eq. 7


def clipped_value(w, b, hp):
    """The larger of the errors of V and of V held within vf_clip of the V that collected."""
    near = b.value + jnp.clip(w.value - b.value, -hp.vf_clip, hp.vf_clip)
    return 0.5 * jnp.maximum(jnp.square(w.value - b.target), jnp.square(near - b.target))


def make(world, network=Network()):
    policy = policy_for(world, network)
    return on_policy(policy, clip, value_loss=clipped_value, sequences=network.memory > 0)
