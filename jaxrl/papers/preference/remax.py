"""ReMax. Li, Xu, Zhang, Lin, Yu, Sun, Luo 2023, arXiv 2310.10505.

REINFORCE, with the reward of the prompt's greedy completion for a baseline:

    ∇J = E[Σ_t ∇ log π(a_t|x, a_<t) (r(x, a) - r(x, ā))],    ā_t = argmax π(·|x, ā_<t)

It does not depend on what was sampled: the gradient is unbiased. From a token's advantage its own
KL is taken, β log(π_old / π_ref)_t, not those that follow, and all tokens count the same, as in the
authors' code. They sample one completion a prompt; here there are groups, so that only the baseline
differs, and a greedy completion for each, which no step counts. β is 0.1 there.
"""

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import k1, policy_gradient, token_mean

PAPER = {
    "slug": "remax",
    "id": 63,
    "title": "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for "
    "Aligning Large Language Models",
    "year": 2023,
    "arxiv": "2310.10505",
    "chapter": "preference",
    "hyper": "ReMax",
    "parent": "reinforce",
    "changes": "the reward of the greedy completion is the baseline",
    "claim": "the baseline has it solve more held-out sums than REINFORCE without one",
    "check": {
        "arms": {"plain": {"hyper": {"baseline": 0.0}}},
        "says": ["final sampled > plain"],
    },
}


@hyper
class ReMax(Tokens):
    beta: float = arg(0.01, "β, weight of the KL in the reward", "[0, inf)")
    baseline: float = arg(1.0, "how much of the baseline is taken off: 0 is REINFORCE", "[0, 1]")


def over_greedy(b, hp):
    gain = b.reward - hp.baseline * b.baseline
    return gain[:, None] - hp.beta * k1(b.ref - b.old)


def make(world, network=Tokens.network_for("")):
    parts = policy_gradient, over_greedy, token_mean
    return tokens(world, network, *parts, reference=True, greedy=True)
