"""L1. Aggarwal, Welleck 2025, arXiv 2503.04697, section 3: length controlled policy optimization.

A prompt says how many tokens n_gold its answer should take. GRPO with a reward that knows it, for
an answer y of n_y tokens:

    LCPO-Exact    r = I(y = y_gold) - α |n_gold - n_y|                                     (eq. 1)
    LCPO-Max      r = I(y = y_gold) clip(α (n_gold - n_y) + δ, 0, 1)                       (eq. 2)

Exact wants the length itself, of wrong answers too; Max (`most`) wants no more than it.

Equations read in the authors' released reward (α = 1/3000 and 1/1000, δ = 1/2), and their numbers
from secondary sources, not in the paper itself. Its lengths are up to 4000 tokens, so that α times
the largest deviation is about 1; α here is so for lengths up to 7. n_y counts all tokens and END.
Max begins here from where Exact begins, there from what Exact has learned.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.reasoning.grpo import GRPO
from jaxrl.surrogate import k3, sequence_mean

PAPER = {
    "slug": "l1",
    "id": 311,
    "title": "L1: Controlling How Long A Reasoning Model Thinks With Reinforcement Learning",
    "year": 2025,
    "arxiv": "2503.04697",
    "chapter": "reasoning",
    "hyper": "L1",
    "parent": "grpo",
    "changes": "the reward falls with a length's distance from what the prompt asks for",
    "claim": "lengths come nearer to those that prompts ask for, as they do not by GRPO",
    "check": {
        "on": {"tokens/wish": 51_200},
        "by": "-last off_wish",
        "says": ["last off_wish < grpo"],
    },
    "inert": {"delta": "LCPO-Max's alone"},
    "battery": {"run": {"env": "tokens/wish"}, "env_params": {"length": 3}},
}


@hyper
class L1(GRPO):
    most: bool = arg(False, "LCPO-Max, for which the length is a budget; else LCPO-Exact")
    alpha: float = arg(0.2, "α, reward that a token more or less costs", "[0, inf)")
    delta: float = arg(0.5, "δ, share of the reward that is paid at the budget", "[0, 1]")


def rewarded(b, hp):
    left = b.wish - b.mask.sum(-1)
    if hp.most:
        return b.reward * jnp.clip(hp.alpha * left + hp.delta, 0.0, 1.0)  # eq. 2
    return b.reward - hp.alpha * jnp.abs(left)  # eq. 1


def controlled(b, hp):
    return normalised(b.replace(reward=rewarded(b, hp)), hp)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, controlled, sequence_mean, penalty=k3)
