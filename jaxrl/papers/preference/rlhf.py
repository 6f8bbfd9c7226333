"""RLHF: PPO on a reward that is fitted to preferences. Stiennon et al. 2020, arXiv 2009.01325,
after Ziegler et al. 2019 and Christiano et al. 2017.

Two stages. A model of rewards by Bradley and Terry's likelihood, L(r) = -E[log σ(r(y_w) - r(y_l))],
of `reward_pairs` pairs; then PPO on tokens with the KL to the reference in its reward,
r(x, y) - β log(π/π_ref). The model is right where its pairs were; the further the policy goes from
there, the less of what it seems to gain is so (over-optimisation: Gao et al. 2022, 2210.10760).
"""

from jaxrl.families.tokens import Tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning import token_ppo

PAPER = {
    "slug": "rlhf",
    "reference": True,
    "title": "Learning to summarize from human feedback",
    "year": 2020,
    "arxiv": "2009.01325",
    "chapter": "preference",
    "hyper": "RLHF",
    "parent": "token_ppo",
    "changes": "a model of rewards, fitted to pairs, is in the verifier's place",
    "claim": "of the same pairs its policy has more gold reward than SFT's and no less than DPO's,"
    " but less than from the gold itself",
    "check": {
        "on": {"preference/gold": 51_200},
        "env_params": {"length": 3},
        "network": {"table": False, "hidden": [32, 32]},
        "tune": {"lr": [2.5e-4, 5e-4, 1e-3]},
        "by": "last episode_return",
        "arms": {
            "sft": {"paper": "sft", "steps": 1000, "hyper": {"sets": 2048}},
            "dpo": {"paper": "dpo", "steps": 1000, "hyper": {"sets": 2048}},
            "gold": {"paper": "token_ppo"},
        },
        "says": ["final expected > sft", "final expected > dpo - 0.1", "final expected < gold"],
    },
}


@hyper
class RLHF(token_ppo.TokenPPO):
    reward_pairs: int = arg(2048, "that the model is fitted to", "[1, inf)")
    reward_models: int = arg(1, "in its ensemble, whose mean it is", "[1, inf)")

    @classmethod
    def smallest(cls):
        small = super().smallest()
        return small | dict(hyper=small["hyper"] | dict(reward_pairs=16))


def make(world, network=Tokens.network_for("")):
    return token_ppo.make(world, network)
