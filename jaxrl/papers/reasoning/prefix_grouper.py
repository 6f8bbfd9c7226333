"""Prefix Grouper. Liu, Yue, Tang, Guo, Cai, Liu, Chen, Liu 2025, arXiv 2506.05433.

GRPO whose group is learned from with its prompt read once. Attention is in two parts, of a prompt's
P tokens among themselves, and of completions' queries to the prompt's keys and values and their own

    O_prefix = Attn(Q_p, K_p, V_p),    O_suffix,i = Attn(Q_i, [K_p; K_i], [V_p; V_i])

Outputs and gradients are those of G whole sequences: P + G L tokens in place of G (P + L).
Read in the authors' code, not in the paper. Prompts are filled up on the left with blanks, which
nothing sees; a prompt's last token is read with each completion. It is an option of the family.
"""

from jaxrl.families.tokens import Tokens, normalised, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.reasoning.grpo import GRPO
from jaxrl.surrogate import k3, sequence_mean

PAPER = {
    "slug": "prefix_grouper",
    "id": 120,
    "title": "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward",
    "year": 2025,
    "arxiv": "2506.05433",
    "chapter": "reasoning",
    "hyper": "PrefixGrouper",
    "parent": "grpo",
    "changes": "a group's prompt is read once in learning, not once for each completion",
    "claim": "it solves as many held-out sums as where each completion has its own prompt",
    "check": {
        "tune": {"lr": [1e-3]},
        "arms": {"repeated": {"hyper": {"share_prefix": False}}},
        "says": [
            "final sampled > repeated - 0.05",
            "final sampled < repeated + 0.05",
            "last episode_return > repeated - 0.05",
            "last episode_return < repeated + 0.05",
        ],
    },
    "battery": {"run": {"env": "tokens/parity"}, "env_params": {"length": 4}},
}


@hyper
class PrefixGrouper(GRPO):
    share_prefix: bool = arg(True, "read a group's prompt once, not for each completion")


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, clip, normalised, sequence_mean, penalty=k3)
