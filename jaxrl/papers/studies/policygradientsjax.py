"""The Definitive Guide to Policy Gradients. Lehmann 2024, arXiv 2401.13662.

One theorem, ∇J = E[ ∇log π(a|s) A ] (up to the weights of time), and what REINFORCE, A2C, TRPO, PPO
and V-MPO make of it: the same gradient at π_old, and different ways not to trust it far from there.
The study runs them side by side, on the same networks and rollouts; what it finds to matter is
regularisation: a bound on the step by a clip, a constraint or a penalty.

This file adds no method: each has its own, and `make` is PPO's, which the study finds best.
Checked: the authors' code. Not checked: its MuJoCo tasks at 8M steps, its ablations.
"""

from jaxrl.papers.on_policy.ppo import PPO as PPO
from jaxrl.papers.on_policy.ppo import make as make

PAPER = {
    "slug": "policygradientsjax",
    "id": 80,
    "title": "The Definitive Guide to Policy Gradients in Deep Reinforcement Learning: "
    "Theory, Algorithms and Implementations",
    "year": 2024,
    "arxiv": "2401.13662",
    "chapter": "studies",
    "hyper": "PPO",
    "parent": "reinforce",
    "changes": "nothing: five methods side by side",
    "claim": "methods that bound their step (PPO, TRPO, V-MPO) beat those that do not",
    "check": {
        "on": {"CartPole-v1": 80_000, "Pendulum-v1": 80_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {
            "trpo": {"paper": "trpo"},
            "vmpo": {"paper": "vmpo"},
            "a2c": {"paper": "a2c"},
            "reinforce": {"paper": "reinforce", "tune": {"lr": [3e-3, 1e-2, 3e-2]}},
        },
        "says": [
            "final_return > a2c",
            "final_return > reinforce",
            "final_return of trpo > a2c",
            "final_return of vmpo > a2c",
        ],
    },
}
