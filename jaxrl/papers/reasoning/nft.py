"""NFT. Chen, Zheng, Zhang, Cui, Yuan, Cui, Ye, Lin, Liu, Zhu, Wang 2025, arXiv 2505.18116.

Maximum likelihood of what is right and of what is wrong. What sampled is a mixture, by the share
r_q of a prompt's completions that are right, of a policy of right ones, which π is to become, and
one of wrong ones, which is then known too: π⁻ = (π_old - r_q π) / (1 - r_q). With R = π/π_old of a
token,

    L = -ω(q) log R,    of a completion that is right
    L = -ω(q) log max((1 - r_q R) / (1 - r_q), ε),    of one that is wrong

with a gradient through the max as if it were not there. With ω = √((1-r)/r) the gradient is GRPO's
where R = 1, with 1 - r Dr. GRPO's; as there, losses are summed over tokens. Without wrong ones it
is rejection sampling and fine-tuning. Prompts that are always or never solved are left out.
Equations read in the authors' code, not in the paper itself; defaults are the code's. There r_q is
held within [0.02, 0.98] too, and log R below 10.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxrl.families.tokens import Tokens, grouped, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning.dapo import solved_in_part
from jaxrl.surrogate import constant_length

PAPER = {
    "slug": "nft",
    "id": 240,
    "title": "Bridging Supervised Learning and Reinforcement Learning in Math Reasoning",
    "year": 2025,
    "arxiv": "2505.18116",
    "chapter": "reasoning",
    "hyper": "NFT",
    "parent": "grpo",
    "changes": "right and wrong completions have likelihoods, in place of advantages",
    "claim": "it solves more held-out sums than fine-tuning on what is right, and as many as GRPO",
    "check": {
        "hyper": {"minibatches": 8},
        "tune": {"lr": [1.25e-4, 2.5e-4, 5e-4]},
        "arms": {
            "rft": {"hyper": {"negatives": 0.0}},
            "grpo": {"paper": "grpo"},
        },
        "says": ["final sampled > rft", "final sampled > grpo - 0.05"],
    },
}


@hyper
class NFT(Tokens):
    weight: str = arg("dr_grpo", "ω: 1 - r, or √((1-r)/r)", ("dr_grpo", "grpo"))
    negatives: float = arg(1.0, "weight of wrong completions; 0: only right ones", "[0, inf)")
    floor: float = arg(1.0, "ε, the least that the ratio of wrong ones counts as", "(0, inf)")


def right(b):
    return b.reward >= 1.0


def share_right(b, hp):
    """ω(q) as the advantage, and r_q beside it."""
    r = grouped(right(b), hp).mean(-1, keepdims=True) * jnp.ones(hp.group)
    r = jnp.clip(r, 0.02, 0.98).reshape(-1)
    omega = 1 - r if hp.weight == "dr_grpo" else jnp.sqrt((1 - r) / r)
    return b.replace(advantage=omega, extra=r)


def both_likelihoods(w, b, hp):
    r, log_R = b.extra[:, None], jnp.minimum(w.log_ratio, 10.0)
    other = (1 - r * jnp.exp(log_R)) / (1 - r)  # π⁻ / π_old
    other += stop_gradient(jnp.maximum(other, hp.floor) - other)
    wrong = hp.negatives * jnp.log(other)
    return -b.advantage * jnp.where(right(b)[:, None], log_R, wrong)


def make(world, network=Tokens.network_for("")):
    return tokens(
        world, network, both_likelihoods, share_right, constant_length, keep=solved_in_part
    )
