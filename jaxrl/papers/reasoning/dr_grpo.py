"""Dr. GRPO. Liu, Chen, Li, Qi, Pang, Du, Lee, Lin 2025, arXiv 2503.20783, section 3.2.

GRPO without its two divisions, by a completion's length and by its group's standard deviation:

    J(θ) = E[1/G Σᵢ Σₜ min(rᵢₜ Âᵢ, clip(rᵢₜ, 1-ε, 1+ε) Âᵢ)],    Âᵢ = Rᵢ - mean(R)

The first made long wrong completions cheap, the second gave most weight to prompts that are too
easy or too hard. Without both it is the plain policy gradient with a baseline. The sum over tokens
is divided by a constant, the most there may be, as in the authors' code; there is no penalty.
"""

from jaxrl.families.tokens import Tokens, centred, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.surrogate import constant_length

PAPER = {
    "slug": "dr_grpo",
    "reference": True,
    "title": "Understanding R1-Zero-Like Training: A Critical Perspective",
    "year": 2025,
    "arxiv": "2503.20783",
    "chapter": "reasoning",
    "hyper": "DrGRPO",
    "parent": "grpo",
    "changes": "neither lengths nor standard deviations divide the advantages",
    "claim": "it solves as many held-out sums as GRPO",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "says": ["final_return > grpo - 0.05"],
    },
}


@hyper
class DrGRPO(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, centred, constant_length)
