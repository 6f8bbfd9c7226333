"""IPO. Liu, Ding, Liu 2020 (AAAI), arXiv 1910.09615.

  max_θ  L_CLIP(θ) + Σ_k log(d_k - J_k(θ)) / t,    L_CLIP the surrogate of PPO
a logarithmic barrier before each budget, the steeper the larger t is. J_k(θ) is what an episode
cost, and its change to first order, T E[r A_k], r = π/π_old, T the steps of an episode.

From PPO-Lagrangian it differs in having no multiplier: a cost's price is T / (t (d_k - J_k)).

The logarithm ends: with less room than `room` it goes on as its tangent, where the paper asks for a
feasible policy to start from. r A_k is clipped as r A is. Checked: OmniSafe's code (the price). The
text from memory. Not checked: its tasks; constraints on means.
"""

import jax.numpy as jnp

from jaxrl.families.on_policy import stateless
from jaxrl.families.safe import Safe, make_with, separate
from jaxrl.hyper import arg, hyper
from jaxrl.surrogate import clipped

PAPER = {
    "slug": "ipo",
    "reference": True,
    "title": "IPO: Interior-point Policy Optimization under Constraints",
    "year": 2020,
    "arxiv": "1910.09615",
    "chapter": "safe",
    "hyper": "IPO",
    "parent": "ppo_lagrangian",
    "changes": "a logarithmic barrier before each budget in place of multipliers",
    "claim": "it stays inside the budget, at a distance that t sets, and overspends less before",
    "check": {
        "on": {"safe/circle": 120_000},
        "tune": {"lr": [2e-3, 3e-3, 5e-3]},
        "by": "-mean overspent",
        "arms": {
            "lagrangian": {"paper": "ppo_lagrangian"},
            "sharp": {"hyper": {"sharpness": 100.0}},
        },
        "says": [
            "last excess < 0.0",
            "mean overspent < lagrangian",
            "last excess < sharp",
            "last episode_return of sharp > lagrangian - 5.0",
        ],
    },
}


@hyper
class IPO(Safe):
    UNREAD = {"accumulate": "the barrier is of a minibatch as a whole"}
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    sharpness: float = arg(20.0, "t, by which the barrier is divided", "(0, inf)")
    room: float = arg(1.0, "below this distance from the budget the barrier is a line", "(0, inf)")


def log_barrier(x, room):
    """log x, and its tangent at `room` below that."""
    return jnp.log(jnp.maximum(x, room)) + jnp.minimum(x - room, 0.0) / room


def interior_point(w, b, hp):
    """L_IPO: what is common to all samples is added to each."""
    r, A = jnp.exp(w.log_ratio), b.advantage
    change = -clipped(r[..., None], -A[..., 1:], hp.eps) - A[..., 1:]
    cost = b.dual.cost + b.dual.length * change.mean(tuple(range(r.ndim)))  # J_k(θ)
    barrier = log_barrier(jnp.asarray(hp.budget) - cost, hp.room).sum() / hp.sharpness
    return -clipped(r, A[..., 0], hp.eps) - barrier


make = make_with(interior_point, advantage=stateless(separate))
