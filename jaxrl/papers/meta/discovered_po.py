"""DPO, Discovered Policy Optimisation. Lu, Kuba, Letcher, Metz, Schroeder de Witt, Foerster 2022
(NeurIPS), arXiv 2210.05639.

Mirror learning: maximise E[ r A - f(r, A) ], r = π(a|s) / π_old(a|s), with a drift f >= 0 that is 0
and flat at r = 1. That of DPO was read off a learned one (`lpo`):
  f = ReLU( (r-1) A - α tanh((r-1) A / α) )       where A >= 0
  f = ReLU( log(r) A - β tanh(log(r) A / β) )     where A < 0

From PPO it differs in a smooth drift instead of the clip, ReLU( (r - clip(r, 1-ε, 1+ε)) A ): a good
action is held back late and never stopped, a bad one is rolled back.
Checked: the authors' later code, where V is clipped at ε. Not: the equations' numbers, Brax.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.on_policy import OnPolicy, make_with
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "discovered_po",
    "id": 88,
    "title": "Discovered Policy Optimisation",
    "year": 2022,
    "arxiv": "2210.05639",
    "chapter": "meta",
    "hyper": "DPO",
    "parent": "ppo",
    "changes": "a drift in closed form, distilled from a learned one, instead of the clip",
    "claim": "it beats no drift at the same epochs and does as well as PPO",
    "check": {
        "on": {"CartPole-v1": 50_000, "Acrobot-v1": 50_000, "Pendulum-v1": 75_000},
        "tune": {"lr": [3e-4, 1e-3, 2.5e-3]},
        "arms": {
            "ppo": {"paper": "ppo"},
            "driftless": {"paper": "ppo", "hyper": {"eps": "inf"}},
        },
        "says": ["final_return > driftless", "final_return > ppo - 0.05"],
    },
}


@hyper
class DPO(OnPolicy):
    alpha: float = arg(2.0, "α, where the drift of good actions sets in", "(0, inf)")
    beta: float = arg(0.6, "β, where that of bad ones does", "(0, inf)")


def excess(x, a):
    """ReLU(x - a tanh(x / a)): nothing below 0, about x³ / 3a² and then x - a above."""
    return jax.nn.relu(x - a * jnp.tanh(x / a))


def drift(log_ratio, A, hp):
    good = excess(jnp.expm1(log_ratio) * A, hp.alpha)
    bad = excess(log_ratio * A, hp.beta)
    return jnp.where(A >= 0, good, bad)


def mirror(w, b, hp):
    return drift(w.log_ratio, b.advantage, hp) - jnp.exp(w.log_ratio) * b.advantage


make = make_with(mirror)
