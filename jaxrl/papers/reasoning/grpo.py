"""GRPO. Shao et al. 2024, arXiv 2402.03300 (DeepSeekMath), section 4.1.

Of each prompt q a group of G completions is sampled, and each is weighed against its group:

    J(θ) = E[1/G Σᵢ 1/|oᵢ| Σₜ min(rᵢₜ Âᵢ, clip(rᵢₜ, 1-ε, 1+ε) Âᵢ) - β D(π || π_ref)ᵢₜ]       (eq. 3)
    D = π_ref/π - log π_ref/π - 1,    Âᵢ = (Rᵢ - mean(R)) / std(R)                 (eq. 4, 4.1.2)

with r the ratio to the policy that sampled. No critic is learned. Â is the same for all tokens: a
reward for the outcome.
"""

from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.surrogate import k3, sequence_mean

PAPER = {
    "slug": "grpo",
    "reference": True,
    "title": "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    "year": 2024,
    "arxiv": "2402.03300",
    "chapter": "reasoning",
    "hyper": "GRPO",
    "parent": "ppo",
    "changes": "completions of one prompt are each other's baseline, in place of a critic",
    "claim": "it raises the share of held-out sums that are solved, by the mode, and by samples "
    "above the best temperature of the start",
    "check": {
        "on": {"tokens/add": 102_400},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "arms": {"start": {"hyper": {"lr": 0.0}, "tune": {"temperature": [0.25, 0.5, 1.0]}}},
        "says": ["final_return > start", "last episode_return > start"],
    },
}


@hyper
class GRPO(Tokens):
    eps: float = arg(0.2, "ε, clip range of the ratio", "(0, inf)")
    beta: float = arg(0.04, "β, weight of the KL to the reference", "[0, inf)")


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, normalised, sequence_mean, penalty=k3)
