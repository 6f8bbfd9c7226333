"""CaT. Chane-Sane, Leziart, Flayols, Stasse, Souères, Mansard 2024 (IROS), arXiv 2403.18765.

Constraints as terminations. A violated constraint, c_k > 0, ends what can still be earned with
probability
  δ_t = max_k p clip(c_k / c_k^max, 0, 1),    c_k^max a moving average of the largest c_k of a step
and PPO maximises, in expectation over these ends, the rewards that are left (r >= 0):
  max_π E[ Σ_t (Π_{u<t} γ (1 - δ_u)) (1 - δ_t) r_t ].
The episode itself goes on. In GAE δ stands where a flag `done` would: 0 is PPO, 1 an end.

From PPO-Lagrangian it differs in having neither budgets nor multipliers nor critics of costs.

p grows, 1/p going linearly from 1/p_start to 1/p_max, as in the authors' code. Checked: that code
(δ, c^max at every step over environments, the rewards clipped at 0, p). The text from memory. Not
checked: Solo-12; constraints of the style of a gait. On safe/circle it costs no less than a
Lagrangian of a small budget (0.28 and 0.25 an episode), and earns nearly twice as much.
"""

import jax
import jax.numpy as jnp

from jaxrl import returns
from jaxrl.core import Part
from jaxrl.families.on_policy import sgd, standardise
from jaxrl.families.safe import Safe, costs, safe
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "cat",
    "id": 295,
    "title": "CaT: Constraints as Terminations for Legged Locomotion Reinforcement Learning",
    "year": 2024,
    "arxiv": "2403.18765",
    "chapter": "safe",
    "hyper": "CaT",
    "parent": "ppo",
    "changes": "a violated constraint ends, with some probability, what can still be earned",
    "claim": "it comes to violate next to nothing, and earns more than penalties that get as far",
    "check": {
        "on": {"safe/circle": 120_000},
        "tune": {"p_start": [0.25, 0.5, 1.0]},
        "by": "-last episode_cost",
        "arms": {
            "penalty": {
                "paper": "ppo_lagrangian",
                "hyper": {"dual_lr": 0.0},
                "tune": {"price": [3.0, 10.0, 30.0]},
            },
            "lagrangian": {
                "paper": "ppo_lagrangian",
                "hyper": {"budget": 0.5},
                "tune": {"dual_lr": [0.02, 0.05, 0.2]},
            },
        },
        "says": [
            "last episode_cost < 1.0",
            "last episode_return > penalty",
            "last episode_cost of lagrangian < 1.0",
            "last episode_return > lagrangian",
        ],
    },
    "inert": {"budget": "no violation is allowed, and each ends something"},
}


@hyper
class CaT(Safe):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    p_start: float = arg(0.25, "p at first", "(0, 1]")
    p_max: float = arg(1.0, "p at last: 1 is hard, less is soft", "(0, 1]")
    keep: float = arg(0.95, "of c^max, the share that a step keeps", "[0, 1)")


def largest(before, cost, keep):
    """c^max at each step [T, k], from costs [T, N, k] and what it was (0: nothing seen yet)."""

    def step(seen, now):
        seen = jnp.where(seen > 0, keep * seen + (1 - keep) * now, now)
        return seen, seen

    return jax.lax.scan(step, before, jnp.maximum(cost.max(1), 1e-6))


def probability(cost, most, p):
    """δ [T, N]."""
    return (p * jnp.clip(cost / most[:, None], 0.0, 1.0)).max(-1)


def terminated_gae(b, delta, hp):
    """GAE with ends of probability δ [T, N]: advantages and targets."""
    reward = jnp.maximum((1 - delta) * b.reward[..., 0], 0.0)
    cuts, gamma = (b.terminated, b.done), hp.gamma * (1 - delta)
    A = returns.gae(reward, b.value, b.next_value, *cuts, gamma, hp.lam)
    target = A + b.value
    return b.replace(advantage=standardise(A) if hp.normalise_advantage else A, target=target)


def constraints_as_terminations(slot, s, b, t, hp, world):
    slot, most = largest(slot, b.reward[..., 1:], hp.keep)
    u = jnp.minimum(t / hp.horizon, 1.0)
    p = 1 / ((1 - u) / hp.p_start + u / hp.p_max)
    return slot, terminated_gae(b, probability(b.reward[..., 1:], most, p), hp)


def make(world, network=Network()):
    policy = policy_for(world, network)
    begin = lambda key, s, hp, world: jnp.zeros(len(costs(world)))
    update = sgd(policy, clip, sequences=network.memory > 0)
    return safe(world, policy, update, advantage=Part(begin, constraints_as_terminations))
