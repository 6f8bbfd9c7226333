"""PPO on tokens. Ouyang et al. 2022, arXiv 2203.02155 (InstructGPT), after Stiennon et al. 2020.

Each token is a step of an episode without discount. Its reward is the KL to the reference, and for
the last one the verifier's or the reward model's word as well:

    r_t = R [t is the last] - β (log π_old(o_t) - log π_ref(o_t))                          (eq. 2)

A critic, here a head on the same trunk, is what advantages are measured against: GAE over tokens.
They are normalised over the batch. The critic's change is not clipped.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, token_rewards, tokens, whitened
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.returns import gae
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "token_ppo",
    "reference": True,
    "title": "Training language models to follow instructions with human feedback",
    "year": 2022,
    "arxiv": "2203.02155",
    "chapter": "reasoning",
    "hyper": "TokenPPO",
    "parent": "ppo",
    "changes": "tokens are steps, and the KL to the reference is part of their reward",
    "claim": "it solves as many held-out sums as GRPO",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "arms": {"grpo": {"paper": "grpo"}},
        "says": ["final_return > grpo - 0.05"],
    },
}


@hyper
class TokenPPO(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    beta: float = arg(0.01, "β, weight of the KL in the reward", "[0, inf)")
    lam: float = arg(0.95, "λ of GAE, over tokens", "[0, 1]")
    vf_coef: float = arg(0.5, "weight of the critic's loss", "[0, inf)")


def over_tokens(b, hp):
    time_major = lambda x: jnp.moveaxis(x, 1, 0)
    left = jnp.cumsum(b.mask[:, ::-1], 1)[:, ::-1]
    ahead = jnp.roll(b.value, -1, 1)
    over = left <= 1  # the last token that was chosen, and what stands after it
    steps = map(time_major, (token_rewards(b, hp), b.value, ahead, over, over))
    A = time_major(gae(*steps, 1.0, hp.lam)) * b.mask
    return b.replace(advantage=whitened(A, b.mask), target=A + b.value)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, over_tokens, token_mean, reference=True, critic=True)
