"""SPO. Swamy, Dann, Kidambi, Wu, Agarwal 2024 (ICML), arXiv 2401.04056.

The minimax winner, argmax_π min_π' P(π > π'), is found by a policy that plays against itself, as
the game is symmetric: K responses are drawn, and each one's reward is how often it wins,

    r(y_i) = 1 / (K - 1) Σ_{j≠i} 1[y_i > y_j],

from which any method learns that has no regret. Then the gap of the mean of all policies falls as
the regret does, as 1 / √T; that of the last one need not. The method here is PPO's clip:

    L = -E[min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)],   A = r - 1/2,   ρ = π/π_old of each token.

There is no reward model and no reference. From RLHF it differs in its reward. Only the abstract
could be read, and the theory as DNO's paper has it; the paper's own experiments are of continuous
control, with a queue of trajectories and SAC as its method. That part is missing: it needs whole
trajectories to be compared, for which the control families have no seam.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import clipped

PAPER = {
    "slug": "self_play_po",
    "id": 142,
    "title": "A Minimaximalist Approach to Reinforcement Learning from Human Feedback",
    "year": 2024,
    "arxiv": "2401.04056",
    "chapter": "preference",
    "hyper": "SelfPlay",
    "parent": "ppo",
    "changes": "the reward is how often a sample wins against the policy's others",
    "claim": (
        "where preferences go in circles the mean of its policies is less exploitable than with a"
        " reward model of Bradley and Terry in the place of who is asked"
    ),
    "check": {
        "on": {"preference/game": 2_000},
        "env_params": {"length": 2},
        "by": "-last gap_average_plain",
        "arms": {
            "reward_model": {"paper": "self_play_po", "hyper": {"reward_pairs": 307_200}},
        },
        "says": ["last gap_average_plain < reward_model"],
    },
    "inert": {"beta": "there is no reference; it is only what `gap` and `objective` are taken at"},
}


@hyper
class SelfPlay(Preference):
    """Those of the family, and PPO's ε."""

    sets: int = 256
    responses: int = 4
    candidates: int = 4
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")


def loss(w, b, hp):
    ratio = jnp.exp(w.each.policy - w.each.old)
    A = (b.win - 0.5)[..., None]
    return -(clipped(ratio, A, hp.eps) * b.mask).sum(-1).mean(1)


def make(world, network=SelfPlay.network_for("preference")):
    return preference(world, network, loss, draw=("policy",), optimum=None)
