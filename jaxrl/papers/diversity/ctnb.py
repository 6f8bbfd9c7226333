"""CTNB and IPD. Sun, Peng, Dai, Guo, Lin, Zhou 2020, arXiv 2005.10696.

A set of policies for one task, one after the other, each of them a constrained problem (eq. 6):

    max J(π)  subject to  U(π) = min_j E_s[D(π(.|s), π_j(.|s))] >= r₀,   π_j the earlier ones

with D the Wasserstein distance (eqs. 2 and 3), over the states that π visits. Of the gradients f of
the task and g of novelty, the latter of Σ γᵗ min_j D (section 4),

    CTNB  f where U >= r₀, else TNB's (algorithm 2): a feasible direction
    TNB   f/|f| + g/|g| where cos(f, g) > 0, else f/|f| - cos(f, g) g/|g|, as long as (|f| + |g|)/2
    IPD   f, in a world whose episodes end where min_j of the mean of D so far is below r₀
          (algorithm 1), after the first t_S steps: an interior point's barrier
    WSR   α f + (1 - α) g, the weighted sum (eq. 5);    PPO   f

Checked against the text and the authors' code (decisionforce/NPSCO). Eq. 8 as printed adds, where
they conflict, f's part along g; the code takes it away, and so does this. The authors begin with
ten policies of PPO; here with one. They compare means of Gaussians only, and their code sums
novelty over steps before it compares. Actions here are categories: W1 instead of W2.
"""

import jax.numpy as jnp

from jaxrl.families.diversity import Diversity, diversity, two_critics
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "ctnb",
    "id": 278,
    "title": "Novel Policy Seeking with Constrained Optimization",
    "year": 2020,
    "arxiv": "2005.10696",
    "chapter": "diversity",
    "hyper": "CTNB",
    "parent": "ppo",
    "changes": "each policy keeps away from the earlier ones: a constraint, not a second reward",
    "claim": "its policies are more unlike than PPO's at hardly less return, and return more than "
    "those of TNB and of a weighted sum; IPD is the more novel of the two",
    "check": {
        "on": {"rooms/four": 100_000},
        "tune": {"lr": [1e-3, 2.5e-3]},
        "arms": {
            "ipd": {"hyper": {"method": "ipd"}},
            "tnb": {"hyper": {"method": "tnb"}},
            "wsr": {"hyper": {"method": "wsr"}},
            "ppo": {"hyper": {"method": "ppo"}},
        },
        "says": [
            "last set_novelty > ppo",
            "final_return > ppo - 0.05",
            "final_return > tnb",
            "final_return > wsr",
            "last set_novelty of ipd > ctnb",
            "final_return of ipd > ppo - 0.05",
        ],
    },
    "inert": {"weight": "the weighted sum's"},
}


@hyper
class CTNB(Diversity):
    num_envs: int = 32
    num_steps: int = 32
    threshold: float = arg(0.25, "r₀, how unlike the earlier ones a policy must be", "[0, inf)")
    method: str = arg("ctnb", "how it is kept so", ("ctnb", "ipd", "tnb", "wsr", "ppo"))
    weight: float = arg(0.5, "α, of the task in the weighted sum", "[0, 1]")
    grace: int = arg(4, "t_S, steps of an episode before the barrier", "[0, inf)")


def bisector(f, g):
    """TNB: between both, or along f's part that is across g; as long as the mean of both."""
    size = jnp.linalg.norm(f) + 1e-12, jnp.linalg.norm(g) + 1e-12
    u, v = f / size[0], g / size[1]
    cos = u @ v
    p = jnp.where(cos > 0, u + v, u - cos * v)
    return p / (jnp.linalg.norm(p) + 1e-12) * (size[0] + size[1]) / 2


DIRECTIONS = {
    "ctnb": lambda f, g, U, hp: jnp.where(hp.threshold > U, bisector(f, g), f),
    "tnb": lambda f, g, U, hp: bisector(f, g),
    "wsr": lambda f, g, U, hp: hp.weight * f + (1 - hp.weight) * g,
    "ipd": lambda f, g, U, hp: f,
    "ppo": lambda f, g, U, hp: f,
}


def direction(f, g, U, hp):
    return DIRECTIONS[hp.method](f, g, U, hp)


def barrier(hp):
    outside = lambda sums, steps: (steps > hp.grace) & (sums.min(-1) / steps < hp.threshold)
    return outside if hp.method == "ipd" else None


def make(world, network=Network()):
    return diversity(two_critics(world, network), direction, barrier)
