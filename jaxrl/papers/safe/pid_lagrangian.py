"""PID Lagrangian. Stooke, Achiam, Abbeel 2020 (ICML), arXiv 2007.03964.

The price of a cost is a controller of it (algorithm 2), e = J_c - d:
  λ = [K_P ⟨e⟩ + I + K_D [⟨J_c⟩ - ⟨J_c⟩_delayed]₊]₊,    I' = [I + K_I e]₊,    ⟨.⟩ smoothed
and PPO climbs (J_r - λ J_c) / (1 + λ).

From PPO-Lagrangian, which is its I alone, it differs in a term that answers at once, and damps, and
in one that answers to a rise before the budget is reached.

Checked: the authors' code (the smoothing, the delay, K_I within I; there advantages are as they
are). The text from memory. Not checked: the invariance to the scale of rewards (section 7), Safety
Gym.
"""

from jaxrl import duals
from jaxrl.families.safe import Safe, make_with, priced
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip

PAPER = {
    "slug": "pid_lagrangian",
    "reference": True,
    "title": "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods",
    "year": 2020,
    "arxiv": "2007.03964",
    "chapter": "safe",
    "hyper": "PIDLagrangian",
    "parent": "ppo_lagrangian",
    "changes": "proportional and derivative terms beside the integral of the excess",
    "claim": "it overspends less than a slow integral alone, and no more than a fast one",
    "check": {
        "on": {"safe/circle": 120_000},
        "hyper": {"ki": 0.005},
        "arms": {
            "integral": {"hyper": {"kp": 0.0, "kd": 0.0}},
            "fast": {"hyper": {"ki": 0.05}},
            "fast_integral": {"hyper": {"ki": 0.05, "kp": 0.0, "kd": 0.0}},
        },
        "says": [
            "mean overspent < integral",
            "mean overspent of fast < fast_integral + 0.3",
            "last episode_return > integral - 5.0",
        ],
    },
}


@hyper
class PIDLagrangian(Safe):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    kp: float = arg(0.1, "K_P, price of an excess of 1 an episode", "[0, inf)")
    ki: float = arg(0.02, "K_I, what an excess of 1 adds to the price for good", "[0, inf)")
    kd: float = arg(0.1, "K_D, price of a rise of 1 over the delay", "[0, inf)")
    smooth: float = arg(0.5, "of the averages, the share that is kept; 0: none", "[0, 1)")
    delay: int = arg(5, "iterations that a rise is measured over", "[1, inf)")


def rule(s, cost, budget, hp):
    return duals.pid(s, cost, budget, hp.kp, hp.ki, hp.kd, hp.smooth)


make = make_with(clip, dual=priced(lambda k, hp: duals.PID.begin(k, hp.delay), rule))
