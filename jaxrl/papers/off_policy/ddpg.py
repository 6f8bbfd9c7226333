"""DDPG. Lillicrap et al. 2015 (ICLR 2016), arXiv 1509.02971.

A deterministic actor μ and a critic Q, and slow targets μ', Q' of both (algorithm 1):
  y = r + γ Q'(s', μ'(s')),    L = E[(y - Q(s, a))²]
  ∇J = E[ ∇_a Q(s, a)|_{a=μ(s)} ∇μ(s) ]                                                     (eq. 6)
  θ' <- τ θ + (1 - τ) θ'
Exploration adds an Ornstein-Uhlenbeck process to μ(s): x <- x - θ x + σ N(0, 1).

From DQN it differs in following the critic's gradient where DQN takes a maximum over actions.

Left out: batch normalisation, weight decay of the critic, actions from its second layer on.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValue
from jaxrl.families.off_policy import (
    OffPolicy,
    actions,
    fit,
    off_policy,
    optimisers,
    torso,
    with_targets,
)
from jaxrl.hyper import arg, hyper
from jaxrl.networks import Actor
from jaxrl.policies import Network

PAPER = {
    "slug": "ddpg",
    "id": 310,
    "title": "Continuous control with deep reinforcement learning",
    "year": 2015,
    "arxiv": "1509.02971",
    "chapter": "off_policy",
    "hyper": "DDPG",
    "parent": "dqn",
    "changes": "an actor follows the critic's gradient, instead of a maximum over actions",
    "claim": "it swings up the pendulum, and target networks matter for it",
    "check": {
        "on": {"Pendulum-v1": 20_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {"without_targets": {"hyper": {"tau": 1.0}}},
        "says": ["final_return > -180", "final_return > without_targets"],
    },
}

move = with_targets("actor", "critic")


@hyper
class DDPG(OffPolicy):
    theta: float = arg(0.15, "how fast the exploration's noise returns to 0", "[0, 1]")
    sigma: float = arg(0.2, "deviation of what it is driven by", "[0, inf)")


def learner(world, network):
    d = actions(world)
    actor, critic = Actor(d, torso(network), bounded=True), ActionValue(1, torso(network))
    mu: Any = actor.apply
    q: Any = critic.apply
    Q = lambda *args: q(*args)[..., 0]

    def init(key, obs, hp):
        k_actor, k_critic = jax.random.split(key)
        a = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], d))
        return move(dict(actor=actor.init(k_actor, obs), critic=critic.init(k_critic, obs, a)), 1.0)

    def update(params, opt, b, key, t, i, hp):
        target = params["target"]
        y = b.reward + b.discount * Q(target["critic"], b.next_obs, mu(target["actor"], b.next_obs))

        def critic_loss(p):
            q = Q(p, b.obs, b.action)
            error = jnp.square(y - q).mean()
            return error, dict(critic_loss=error, q=q.mean())

        def actor_loss(p):
            q = Q(params["critic"], b.obs, mu(p, b.obs)).mean()
            return -q, dict(actor_loss=-q)

        params, opt, stats = fit(params, opt, "critic", critic_loss, hp, t)
        params, opt, more = fit(params, opt, "actor", actor_loss, hp, t)
        return move(params, hp.tau), opt, stats | more

    def act(params, obs, memory, key, t, hp):
        a = mu(params["actor"], obs)
        if key is None:
            return a, memory
        memory += hp.sigma * jax.random.normal(key, a.shape) - hp.theta * memory
        return jnp.clip(a + memory, -1.0, 1.0), memory

    opt = optimisers("actor", "critic")
    return Learner(init, opt, update, act, lambda n: jnp.zeros((n, d)))


def make(world, network=Network()):
    return off_policy(learner(world, network))
