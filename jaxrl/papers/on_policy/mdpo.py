"""MDPO, Mirror Descent Policy Optimization. Tomar, Shani, Efroni, Ghavamzadeh 2020, 2005.09814.

On-policy: from π_k, several gradient steps on the mirror-descent problem
  maximise E[ r A ] - (1 / t_k) E[KL(π(.|s) || π_k(.|s))],   r = π(a|s) / π_k(a|s),   t_k = 1 - k/K
for k = 0, ..., K-1. Exactly solved, it gives π ∝ π_k exp(t_k A). The first step does not see the
KL, which is flat at π_k: one step alone is a policy gradient.

From PPO it differs in a price on the reverse KL, ever higher, instead of the clip.
Checked: the authors' code, where t is 1 - (k-1)/K, every step sees the whole rollout, and the
critic has an Adam and epochs of its own. Not: the text, off-policy MDPO, Tsallis, MuJoCo.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, make_with, stateless
from jaxrl.hyper import Linear, arg, at, hyper

PAPER = {
    "slug": "mdpo",
    "id": 121,
    "title": "Mirror Descent Policy Optimization",
    "year": 2020,
    "arxiv": "2005.09814",
    "chapter": "on_policy",
    "hyper": "MDPO",
    "parent": "ppo",
    "changes": "an annealed price on the reverse KL instead of the clip",
    "claim": "many gradient steps on each mirror-descent problem beat one; it does as well as PPO",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000, "Pendulum-v1": 100_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {
            # a policy gradient on the same data
            "single": {
                "hyper": {"epochs": 1, "minibatches": 1},
                "tune": {"lr": [3e-3, 1e-2, 3e-2]},
            },
            "ppo": {"paper": "ppo"},
        },
        "says": ["final_return > single", "final_return > ppo - 0.05"],
    },
}


@hyper
class MDPO(OnPolicy):
    step: float | Linear = arg(
        Linear(1.0, 0.0), "t_k, mirror descent's step size; a:b goes from a to b", "[0, inf)"
    )


# t_k, handed over as `b.dual`
step_size = stateless(lambda s, b, t, hp, world: at(hp.step, t, hp))


def mirror_descent(w, b, hp):
    price = 1 / jnp.maximum(b.dual, 1e-6)
    return price * w.reverse_kl() - jnp.exp(w.log_ratio) * b.advantage


make = make_with(mirror_descent, dual=step_size)
