"""W-REINFORCE. Zhu, Xia, Wei, Chen, Chen, Meng 2025, arXiv 2506.01347.

A verifier's ±1 splits the objective into right completions reinforced and wrong ones penalised,

    L = λ L_PSR + L_NSR,    L_PSR = -E[Σ_{y: r=1} π(y|x)],    L_NSR = E[Σ_{y: r=-1} π(y|x)]

λ = 0 is NSR, which gives to other tokens as likely as they were: answers stay diverse. Read in a
review of the paper, and in the authors' code λ = 0.1, PPO's clip and that tokens count the same.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "nsr",
    "id": 214,
    "title": "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning",
    "year": 2025,
    "arxiv": "2506.01347",
    "chapter": "reasoning",
    "hyper": "NSR",
    "parent": "reinforce",
    "changes": "right completions count a tenth of wrong ones",
    "claim": "answers are more diverse than PSR's, and more prompts are solved by one of eight",
    "check": {
        "arms": {"psr": {"hyper": {"positive": 1.0, "negative": 0.0}}},
        "says": ["last entropy > psr", "final pass_at_8 > psr"],
    },
    "battery": {"run": {"env": "tokens/parity"}, "env_params": {"length": 4}},
}


@hyper
class NSR(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    positive: float = arg(0.1, "λ, weight of right completions; 0: NSR", "[0, inf)")
    negative: float = arg(1.0, "that of wrong ones; 0: PSR", "[0, inf)")


def apart(b, hp):
    return jnp.where(b.reward >= 1.0, hp.positive, -hp.negative)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, apart, token_mean)
