"""VC-PPO. Yuan, Yue, Zhu, Fan, Yan 2025, arXiv 2503.01491 (What's Behind PPO's Collapse in
Long-CoT?).

PPO on tokens loses the reward of a long completion on its way to the first tokens, as λ^(T-t), and
begins with a critic that is wrong. So

    decoupled GAE       the critic's targets with λ_critic = 1, returns; the policy's advantages
                        with λ_actor = 0.95
    value pretraining   at first only the critic learns, from completions of the fixed policy

Here the critic is a head on the policy's trunk, that begins at 0 and not with a reward model. It
alone learns for `value_first` iterations, which count as steps. Read in VAPO's account of it and in
implementations. A few tokens have little to decay: the claim is only that nothing is lost.
"""

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.reasoning.token_ppo import TokenPPO, over_tokens
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "vc_ppo",
    "id": 11,
    "title": "What's Behind PPO's Collapse in Long-CoT? Value Optimization Holds the Secret",
    "year": 2025,
    "arxiv": "2503.01491",
    "chapter": "reasoning",
    "hyper": "VCPPO",
    "parent": "token_ppo",
    "changes": "the critic has a λ of its own, 1, and learns for some iterations alone",
    "claim": "it solves as many held-out sums as PPO on tokens",
    "check": {"says": ["final sampled > token_ppo - 0.05"]},
    "battery": {"hyper": {"value_first": 1}},
}


@hyper
class VCPPO(TokenPPO):
    value_first: int = 5
    lam_critic: float = arg(1.0, "λ of the critic's targets", "[0, 1]")


def decoupled(b, hp):
    targets = over_tokens(b, hp.replace(lam=hp.lam_critic)).target
    return over_tokens(b, hp).replace(target=targets)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, decoupled, token_mean, reference=True, critic=True)
