"""APA. Zhu, Sharma, Vieira Frujeri, Dong, Zhu, Jordan, Jiao 2023, arXiv 2306.02231.

What maximises E_π[A] - λ KL(π || π_init) in each state is π_init exp(A / λ) / Z. With Z taken as 1,

    L = E_{(s,a) ~ π_old}[(log π(a|s) - log π_init(a|s) - A(s,a) / λ)²]

of each token, with a critic's advantages (GAE). From PPO it differs in the loss: no ratio, no clip,
no KL in the reward, and a gradient that ends where the log-ratio is A / λ. The loss, that
advantages are in units of their standard deviation, and the rest of the loop were read in the
authors' code, of which λ = 0.1 is; numbers of equations were not. As probabilities sum to 1, what
it comes to is that policy only where it samples by itself.
"""

import jax.numpy as jnp

from jaxrl.families.tokens import Tokens, tokens
from jaxrl.hyper import arg, hyper
from jaxrl.papers.reasoning.token_ppo import over_tokens
from jaxrl.surrogate import token_mean

PAPER = {
    "slug": "apa",
    "id": 15,
    "title": "Fine-Tuning Language Models with Advantage-Induced Policy Alignment",
    "year": 2023,
    "arxiv": "2306.02231",
    "chapter": "preference",
    "hyper": "APA",
    "parent": "token_ppo",
    "changes": "a squared error to the reference's log-probability and the advantage",
    "claim": "it gets more reward than PPO and does not collapse to one response",
    "check": {
        "on": {"preference/gibbs": 102_400},
        "tune": {"lr": [0.01, 0.03, 0.1]},
        "by": "last episode_return",
        "arms": {"token_ppo": {"paper": "token_ppo"}},
        "says": ["final expected > token_ppo", "last entropy > token_ppo"],
    },
}


@hyper
class APA(Tokens):
    coef: float = arg(0.1, "λ, weight of the KL to the reference", "(0, inf)")
    lam: float = arg(0.95, "λ of GAE, over tokens", "[0, 1]")
    vf_coef: float = arg(0.5, "weight of the critic's loss", "[0, inf)")
    epochs: int = arg(2, "passes over each iteration's completions", "[1, inf)")

    beta = 0.0  # no KL in the reward


def squared(w, b, hp):
    return jnp.square(w.log_prob - b.ref - b.advantage / hp.coef)


def make(world, network=Tokens.network_for("")):
    return tokens(world, network, squared, over_tokens, token_mean, reference=True, critic=True)
