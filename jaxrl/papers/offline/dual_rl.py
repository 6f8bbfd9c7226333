"""f-DVL, of Dual RL. Sikchi, Zheng, Zhang, Niekum 2023 (ICLR 2024), arXiv 2302.08560.

Offline RL as a choice of visitations d that maximise E_d[r] - α D_f(d || data): the dual of that
is over values alone. With Q for r + γ V(s'), and a weight λ for α and the initial states, it is
  L_V = E_D[ (1 - λ) V(s) + λ f*_p(Q'(s, a) - V(s)) ],    f*_p(y) = max_{w >= 0} w y - f(w)
  L_Q = E_D[ (r + γ V(s') - Q(s, a))² ],    L_π = -E_D[ exp(β (Q'(s, a) - V(s))) log π(a|s) ]
f is Pearson's (w - 1)², total variation's |w - 1| / 2, or reverse KL's w log w - w + 1, by which it
is XQL: at λ = 1/2 Gumbel regression, exp y - y - 1. The others' f* don't grow exponentially.
Where `flat`, f*_p(max(y, 0)) is in place of f*_p(y). V is then, as the paper has it, the data's
best Q as λ goes to 1, with total variation their quantile (2 λ - 1) / λ; else it ends above.
`alpha` is the unit of V's errors, y.

From IQL it differs in V's loss. (Pearson's f*_p itself at λ = 1/2 has IQL's V at τ = 1/2, a mean.)

Checked against the released code, whose max(y + y²/4, 0) for Pearson's f is the same above y = -4,
and below rises again. Left out: its Huber loss of Q and random actions in L_V, for some tasks; and
ReCOIL, the paper's imitation: a world's data do not tell an expert's transitions from others.
"""

import jax.numpy as jnp

from jaxrl.families.offline import Offline, offline
from jaxrl.hyper import arg, hyper
from jaxrl.papers.offline import iql
from jaxrl.policies import Network

PAPER = {
    "slug": "dual_rl",
    "id": 209,
    "title": "Dual RL: Unification and New Methods for Reinforcement and Imitation Learning",
    "year": 2023,
    "arxiv": "2302.08560",
    "chapter": "offline",
    "hyper": "DualRL",
    "parent": "iql",
    "changes": "values by the conjugate of an f-divergence",
    "claim": "it is better than cloning the data, and not worse than XQL's exponential loss",
    "check": {
        "on": {
            "experiments/datasets/pendulum-medium.npz": 4000,
            "experiments/datasets/pendulum-mixed.npz": 4000,
        },
        "tune": {"beta": [0.3, 1.0, 3.0]},
        "arms": {
            "bc": {"paper": "bc", "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
            "xql": {"hyper": {"f": "kl", "lam": 0.5, "flat": False}},
        },
        "says": ["final_return > bc", "final_return > xql - 0.05"],
    },
}

CONJUGATES = {  # f*_p
    "pearson": lambda y: jnp.square(jnp.maximum(y + 2.0, 0.0)) / 4.0 - 1.0,
    "tv": lambda y: jnp.maximum(y, -0.5),  # goes on in a line where, above 1/2, there is none
    "kl": jnp.expm1,
}


@hyper
class DualRL(Offline):
    f: str = arg("pearson", "the divergence from the data", tuple(CONJUGATES))
    flat: bool = arg(True, "f*_p is 0 where Q < V")
    lam: float = arg(0.8, "λ, how near V is to the data's best", "[0.5, 1)")
    alpha: float = arg(1.0, "what V's errors are measured in, a temperature", "(0, inf)")
    beta: float = arg(3.0, "β, how sharply better actions are preferred", "[0, inf)")


def value_loss(u, hp):
    """Of u = Q'(s, a) - V(s), less what no V changes."""
    y = u / hp.alpha
    conjugate = CONJUGATES[hp.f](jnp.maximum(y, 0.0) if hp.flat else y)
    return hp.lam * conjugate - (1 - hp.lam) * y


def make(world, network=Network()):
    return offline(iql.learner(world, network, value_loss))
