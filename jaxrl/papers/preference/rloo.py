"""RLOO. Ahmadian, Cremer, Gallé, Fadaee, Kreutzer, Pietquin, Üstün, Hooker 2024, arXiv 2402.14740.

A whole completion is one action, and the others of its prompt are its baseline:

    ∇J = E[1/k Σᵢ (R(yᵢ, x) - 1/(k-1) Σ_{j≠i} R(yⱼ, x)) ∇ log π(yᵢ|x)]
    R(y, x) = r(y, x) - β log(π(y|x) / π_ref(y|x))

No critic, no clip, no tokens as steps; the others' KL is part of the baseline. Equations read in
TRL's and ms-swift's documentation. β is below theirs, of learned rewards, which can be exploited.
"""

from jaxrl.families.tokens import Tokens, grouped, token_rewards, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.returns import leave_one_out

PAPER = {
    "slug": "rloo",
    "id": 14,
    "title": "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human "
    "Feedback in LLMs",
    "year": 2024,
    "arxiv": "2402.14740",
    "chapter": "preference",
    "hyper": "RLOO",
    "parent": "reinforce",
    "changes": "a completion is one action, the others of its prompt are its baseline",
    "claim": "without a critic it solves as many held-out sums as PPO with one",
    "check": {
        "arms": {"token_ppo": {"paper": "token_ppo"}},
        "says": ["final sampled > token_ppo - 0.05"],
    },
}


@hyper
class RLOO(Tokens):
    beta: float = arg(0.01, "β, weight of the KL in the reward", "[0, inf)")


def against_the_others(b, hp):
    R = token_rewards(b, hp).sum(-1)
    return leave_one_out(grouped(R, hp)).reshape(-1)


def whole(w, b, hp):
    return -(b.mask * w.log_prob).sum(-1) * b.advantage[:, 0]


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, whole, against_the_others, reference=True)
