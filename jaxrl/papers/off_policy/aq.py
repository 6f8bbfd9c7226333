"""AQ. Omura, Ota, Osa, Mukuta, Harada 2025 (ICML), arXiv 2506.05968.

TD3 (or SAC) whose critics minimise an expectile of the error, on a target without a maximum:
  L = E[ |τ - 1(δ < 0)| δ² ],    δ = r + γ Q'(s', a') - Q(s, a),  a' ~ π
At τ near 1 Q is that of the best actions and of luck (Bellman's optimality operator), at 1/2 that
of the policy; τ goes linearly from there to here: learning is fast first, unbiased last.

From TD3 it differs in the weight of errors, and at τ = 1/2 in nothing.

Here |τ - 1(δ < 0)| is doubled, so that at 1/2 it is TD3's loss at TD3's step size. Checked against
the paper's opening and reviews. Not checked: its schedule's length (here: the whole run).
With SAC: off_policy(sac.learner(world, network, expectile)).
"""

import jax.numpy as jnp

from jaxrl.families.off_policy import off_policy
from jaxrl.hyper import Linear, arg, at, hyper
from jaxrl.papers.off_policy.td3 import TD3, learner
from jaxrl.policies import Network

PAPER = {
    "slug": "aq",
    "id": 344,
    "title": "Gradual Transition from Bellman Optimality Operator to Bellman Operator in Online "
    "Reinforcement Learning",
    "year": 2025,
    "arxiv": "2506.05968",
    "chapter": "off_policy",
    "hyper": "AQ",
    "parent": "td3",
    "changes": "an expectile of the critics' errors, annealed to their mean",
    "claim": "it learns faster than TD3, and overestimates less than an expectile that stays",
    "check": {
        "on": {"Pendulum-v1": 12_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "by": "mean episode_return",
        "arms": {
            "td3": {"paper": "td3"},
            "fixed": {"hyper": {"expectile": 0.9}},
        },
        "says": ["mean episode_return > td3", "last q < fixed", "final_return > fixed"],
    },
}


@hyper
class AQ(TD3):
    expectile: float | Linear = arg(Linear(0.9, 0.5), "τ of the critics' error", "(0, 1)")


def expectile(q, y, t, hp):
    delta = y - q
    return 2.0 * jnp.abs(at(hp.expectile, t, hp) - (delta < 0)) * jnp.square(delta)


def make(world, network=Network()):
    return off_policy(learner(world, network, expectile))
