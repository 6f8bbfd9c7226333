"""Lite PPO. Liu, Liu, He et al. 2025, arXiv 2508.08221 (Part I: Tricks or Traps?).

Of the tricks around GRPO that the study takes apart two are enough, on PPO's clipped loss without
a critic. Advantages have their group's mean and the whole batch's standard deviation,

    Âᵢ = (rᵢ - mean_group(r)) / std_batch(r)

since a group's own is near 0 where rewards are nearly all the same; and all tokens count the same.
No wider clip, no filter of groups or lengths, no penalty. Read in the documentation of ROLL, the
authors' framework, and of AReaL, not in the paper itself. The deviation is that of the rewards, as
in TRL; AReaL's is that of the advantages, less by what prompts differ.
"""

from jaxrl.families.tokens import Tokens, centred, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "lite_ppo",
    "id": 146,
    "title": "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning",
    "year": 2025,
    "arxiv": "2508.08221",
    "chapter": "studies",
    "hyper": "LitePPO",
    "parent": "grpo",
    "changes": "the batch's standard deviation, not the group's; the mean over tokens",
    "claim": "two tricks are enough to solve more held-out sums than GRPO and DAPO",
    "check": {
        "arms": {"grpo": {"paper": "grpo"}, "dapo": {"paper": "dapo"}},
        "says": ["final sampled > grpo", "final sampled > dapo"],
    },
}


@hyper
class LitePPO(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")


def batch_scaled(b, hp):
    return centred(b, hp) / (b.reward.std(ddof=1) + 1e-4)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, batch_scaled, token_mean)
