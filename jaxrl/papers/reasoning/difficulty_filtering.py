"""Balanced online difficulty filtering. Bae, Hong, Lee, Kim, Nam, Kwak 2025, arXiv 2504.03380.

GRPO on the prompts that the policy solves about half of the time, as it is now: a group counts if

    T_low ≤ p(x) ≤ T_high,    p(x) the share of its completions that are right

The authors sample until the batch is full; here `oversample` times the prompts are tried, and it
may be smaller. The abstract alone was read; the thresholds are from a catalogue's notes.
"""

from jaxrl.families.tokens import Tokens, grouped, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.reasoning.grpo import GRPO
from jaxrl.surrogate import k3, sequence_mean

PAPER = {
    "slug": "difficulty_filtering",
    "id": 218,
    "title": "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning",
    "year": 2025,
    "arxiv": "2504.03380",
    "chapter": "reasoning",
    "hyper": "DifficultyFiltering",
    "parent": "grpo",
    "changes": "only groups count of which about half is right",
    "claim": "of as many completions, kept or not, it solves more held-out sums than GRPO",
    "check": {"says": ["final sampled > grpo"]},
    "battery": {
        "run": {"env": "tokens/parity"},
        "env_params": {"length": 4},
        "hyper": {"oversample": 2},
    },
}


@hyper
class DifficultyFiltering(GRPO):
    oversample: int = 2
    low: float = arg(0.25, "T_low, the least share that is right", "[0, 1]")
    high: float = arg(0.75, "T_high, the most", "[0, 1]")


def balanced(b, hp):
    p = (grouped(b.reward, hp) >= 1.0).mean(-1)
    return (hp.low <= p) & (p <= hp.high)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, normalised, sequence_mean, penalty=k3, keep=balanced)
