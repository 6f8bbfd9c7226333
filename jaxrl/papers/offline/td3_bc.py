"""TD3+BC. Fujimoto, Gu 2021 (NeurIPS), arXiv 2106.06860.

TD3 on a dataset, whose actor is also held to the data's actions:
  π = argmax E_{(s,a)~D}[ λ Q₁(s, π(s)) - (π(s) - a)² ],    λ = α / mean |Q₁(s, π(s))|
The mean is over the batch and is not differentiated; α weighs the two terms whatever the scale of
rewards. Observations are normalised, (s - μ) / (σ + 10⁻³), by the data's mean and deviation.

From TD3 it differs in this term and in where its batches come from.

As in the released code, the squared distance is a mean over an action's numbers, not their sum, and
λ is taken at π(s), not at the data's a. On Pendulum's mixed data, which hold every action, TD3
without the penalty is better still (-155 against -532).
"""

import jax
import jax.numpy as jnp

from jaxrl.families.offline import Offline, offline
from jaxrl.hyper import arg, hyper
from jaxrl.papers.off_policy import td3
from jaxrl.policies import Network

PAPER = {
    "slug": "td3_bc",
    "reference": True,
    "title": "A Minimalist Approach to Offline Reinforcement Learning",
    "year": 2021,
    "arxiv": "2106.06860",
    "chapter": "offline",
    "hyper": "TD3BC",
    "parent": "td3",
    "changes": "a penalty for leaving the data's actions, at a scale of its own",
    "claim": "it beats cloning mixed data; TD3 without the penalty fails on an expert's",
    "check": {
        "on": {
            "experiments/datasets/pendulum-mixed.npz": 8000,
            "experiments/datasets/pendulum-expert.npz": 3000,
        },
        "hyper": {"batch_size": 64},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {"bc": {"paper": "bc"}, "without": {"hyper": {"alpha": 1e4}}},
        "says": [
            "final_return > bc on experiments/datasets/pendulum-mixed.npz",
            "final_return > without on experiments/datasets/pendulum-expert.npz",
        ],
    },
}


@hyper
class TD3BC(Offline):
    alpha: float = arg(2.5, "α, the weight of values against the data's actions", "[0, inf)")
    smooth: float = arg(0.2, "σ̃, deviation of the target action's noise", "[0, inf)")
    clip: float = arg(0.5, "c, the most of that noise", "[0, inf)")
    delay: int = arg(2, "d, gradient steps of the critics to one of the actor", "[1, inf)")

    sigma = 0.0  # nothing explores


def actor_loss(a, q, b, params, key, hp):
    lam = hp.alpha / jnp.abs(jax.lax.stop_gradient(q[0])).mean()
    return -lam * q[0].mean() + jnp.square(a - b.action).mean()


def make(world, network=Network()):
    return offline(td3.learner(world, network, actor_loss=actor_loss))
