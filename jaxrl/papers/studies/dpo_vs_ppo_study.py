"""Is DPO superior to PPO? Xu, Fu, Gao, Ye, Liu, Mei, Wang, Yu, Wu 2024 (ICML), arXiv 2404.10719.

The policies that are best for a reward fitted to pairs are among those with the least DPO loss, and
these are more (theorem 4.1): DPO's may be anywhere on what is in no pair, whereas PPO samples there
and pays the KL (eq. 2). PPO then needs three things, in this order (section 5):

    advantages normalised over the batch,  a large batch,  a reference that follows, π_ref <- EMA(π)

Here PPO is of tokens with a model of rewards, as `rlhf`, each of the three a switch. The paper's
text was read; it does not say how fast the average moves. In a table DPO's gradient on what is in
no pair is 0, so that it takes shared parameters to see the theorem: the claim's policies are
transformers. The paper's own ladder of the three is not monotone everywhere.
"""

import optax

from jaxrl.completions import learned
from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.preference.rlhf import RLHF
from jaxrl.papers.reasoning.token_ppo import over_tokens
from jaxrl.rollout import choose
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "dpo_vs_ppo_study",
    "id": 84,
    "title": "Is DPO Superior to PPO for LLM Alignment? A Comprehensive Study",
    "year": 2024,
    "arxiv": "2404.10719",
    "chapter": "studies",
    "hyper": "DPOvsPPO",
    "parent": "rlhf",
    "changes": "PPO with advantages normalised, large batches and a reference that follows",
    "claim": "DPO puts more on what is in no pair than PPO, which has more reward; each part helps",
    "check": {
        "on": {"preference/gibbs": 102_400},
        "env_params": {"coverage": 0.25},
        "network": {"table": False, "hidden": [16, 16]},
        "hyper": {"beta": 0.1},
        "tune": {"lr": [5e-4, 1e-3, 2e-3]},
        "by": "last episode_return",
        "arms": {
            "dpo": {"paper": "dpo", "steps": 2000, "hyper": {"sets": 1024}},
            "frozen": {"hyper": {"decay": 1.0}},
            "small": {"hyper": {"decay": 1.0, "prompts": 16}},
            "raw": {"hyper": {"decay": 1.0, "prompts": 16, "normalise": False}},
        },
        "says": [
            "final uncovered of dpo > dpo_vs_ppo_study",
            "final expected > dpo",
            "final expected of small > raw",
            "final expected of frozen > small",
            "final expected > frozen",
        ],
    },
}


@hyper
class DPOvsPPO(RLHF):
    normalise: bool = arg(True, "advantages in units of their mean and deviation over the batch")
    decay: float = arg(0.99, "of the reference, an iteration; 1: frozen", "[0, 1]")


def advantages(b, hp):
    b = over_tokens(b, hp)
    return b if hp.normalise else b.replace(advantage=b.target - b.value)


def follow(s, t, hp):
    """π_ref, so much nearer to π."""
    near = optax.incremental_update(learned(s.params), s.ref, 1 - hp.decay)
    return choose(t > 0, near, s.ref)


def make(world, network=Tokens.network_for("")):
    how = world, network, clip, advantages, token_mean
    return tokens(*how, reference=True, critic=True, refs=follow)
