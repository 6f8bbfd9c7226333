"""PPO that begins as a clone of recorded data: what diffusion policies are compared with.

Behavioural cloning by maximum likelihood, min E[-log π(a|s)] over the data, then PPO
(arXiv 1707.06347) in the environment. As the Gaussian of DPPO's comparisons (arXiv 2409.00588).

From PPO it differs in where it begins.
"""

import jax.numpy as jnp

from jaxrl.families.diffusion import FineTuned, cloned
from jaxrl.families.on_policy import on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch

PAPER = {
    "slug": "bc_ppo",
    "reference": True,
    "title": "PPO from a cloned Gaussian",
    "year": 2024,
    "arxiv": "2409.00588",
    "chapter": "diffusion",
    "hyper": "BCPPO",
    "parent": "ppo",
    "changes": "the policy begins as a clone of recorded data",
    "claim": "it improves on what it cloned, and sooner than PPO from nothing",
    "check": {
        "on": {"experiments/datasets/pendulum-mixed.npz": 50_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "by": "mean episode_return",
        "arms": {
            "cloned": {"hyper": {"lr": 0.0}, "tune": {"clone_lr": [3e-4, 1e-3, 3e-3]}},
            "from_nothing": {"hyper": {"clone_steps": 0}},
        },
        "says": [
            "last episode_return > cloned",
            "mean episode_return > from_nothing",
        ],
    },
}


@hyper
class BCPPO(FineTuned):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")


def likelihood(policy):
    """-E[log π(a|s)] of the data."""

    def loss(params, b, key, hp):
        start = jnp.ones(b.reward.shape, bool)
        record = dict(raw=b.action, log_prob=jnp.zeros(start.shape))
        batch = Batch(obs=b.obs, action=b.action, record=record, start=start, old=record)
        return -policy.judge(params, params, batch, key).log_prob.mean()

    return loss


def make(world, network=Network()):
    policy = policy_for(world, network)
    algo = on_policy(policy, clip, sequences=network.memory > 0)
    return cloned(algo, likelihood(policy))
