"""POMO. Kwon, Choo, Kim, Yoon, Gwon, Min 2020 (NeurIPS), arXiv 2010.16011.

From each of M first items of an instance x a solution τ_m is sampled, and REINFORCE has one
baseline for all of them, their mean:

    ∇J = 1/M Σ_m (R(τ_m) - b(x)) ∇ log p(τ_m | x),    b(x) = 1/M Σ_m R(τ_m)        (eqs. 2 and 3)

Solutions of one problem from many sides cannot all be good or bad by the luck of their start, so
that the baseline has little variance and costs nothing. At inference the best of them is taken.
The first items are given and have no probability of their own.

Here `population` K solutions are sampled from each start, by members that are one while `pretrain`
lasts. Starts are a random part of the items unless `starts` is their number. The network is a small
one of attention, without batch normalisation; augmentation by symmetries at inference is left out.
Checked against the authors' code (yd-kwon/POMO).
"""

from jaxrl.families.combinatorial import Combinatorial, make_with, shared_baseline
from jaxrl.hyper import hyper

PAPER = {
    "slug": "pomo",
    "reference": True,
    "title": "POMO: Policy Optimization with Multiple Optima for Reinforcement Learning",
    "year": 2020,
    "arxiv": "2010.16011",
    "chapter": "combinatorial",
    "hyper": "POMO",
    "parent": "reinforce",
    "changes": "solutions from many starts of one instance share their mean as the baseline",
    "claim": "the best of its tours of ten cities is within 1 % of the optimum "
    "(the authors' of a hundred: 0.14 %, after far more tours)",
    "check": {
        "on": {"combinatorial/tsp": 120_000},
        "hyper": {"population": 1},
        "tune": {"lr": [1e-3, 2e-3, 4e-3]},
        "by": "-last gap",
        "arms": {},
        "says": ["last gap < 0.01"],
    },
}


@hyper
class POMO(Combinatorial):
    pass


make = make_with(shared_baseline)
