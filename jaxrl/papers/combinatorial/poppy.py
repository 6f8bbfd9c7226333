"""Poppy. Grinsztajn, Furelos-Blanco, Surana, Bonnet, Barrett 2023 (NeurIPS), arXiv 2210.03475.

A population is worth its best member, J_pop = E[max_k R(τ_k)], and only the winner learns, from
what it is ahead of the second best:

    ∇J_pop = E[ (R(τ_i*) - R(τ_i**)) ∇ log p_i*(τ_i*) ]

So each member comes to specialise in the instances that it wins, without any term for diversity.
There is a winner for each instance and each first item. Training has two phases: one decoder by
POMO, then K copies of it by the above, with the encoder. `baseline` "pomo" weighs the winner by its
return less its own mean over the first items instead, as the authors do on some problems.

Checked against the authors' code (instadeepai/poppy) and summaries of the text, whose theorem and
phases these are; not the text itself. Left out: problems of 100 and
more items, its inference and its separate optimisers. Members are one in the first phase but sample
K solutions from each start, so that an iteration costs as much in both.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.combinatorial import Combinatorial, make_with, shared_baseline
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "poppy",
    "id": 345,
    "title": "Winner Takes It All: Training Performant RL Populations for Combinatorial "
    "Optimization",
    "year": 2023,
    "arxiv": "2210.03475",
    "chapter": "combinatorial",
    "hyper": "Poppy",
    "parent": "pomo",
    "changes": "only the best member on an instance learns, from its lead over the second",
    "claim": "at equal numbers of solutions the population's best is nearer to the optimum than "
    "one policy's and than that of members trained apart, and every member wins somewhere",
    "check": {
        "on": {"combinatorial/tsp": 240_000},
        "hyper": {"starts": 2},  # more of them hide what members add: all find the optimum
        "tune": {"lr": [1e-3, 2e-3]},
        "by": "-last gap",
        "arms": {
            "one": {"paper": "pomo"},
            "apart": {"paper": "pomo", "hyper": {"pretrain": 0.5}},
        },
        "says": [
            "last gap < one",
            "last gap < apart",
            "last least_wins > 0.05",
        ],
    },
}


@hyper
class Poppy(Combinatorial):
    pretrain: float = 0.5
    population: int = arg(4, "K, members", "[2, inf)")
    baseline: str = arg("second", "what the winner is weighed against", ("second", "pomo"))


def winner(R, hp):
    best, second = jnp.moveaxis(jax.lax.top_k(jnp.moveaxis(R, 1, -1), 2)[0], -1, 0)  # [B, M]
    ahead = (best - second)[:, None] if hp.baseline == "second" else shared_baseline(R)
    won = jax.nn.one_hot(R.argmax(1), R.shape[1], axis=1)  # one of those who tie
    return won * ahead


make = make_with(winner)
