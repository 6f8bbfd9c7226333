"""TD3. Fujimoto, van Hoof, Meger 2018 (ICML), arXiv 1802.09477.

DDPG with three repairs of the critic's overestimation (algorithm 1):
  ã = μ'(s') + ε,  ε ~ clip(N(0, σ̃), -c, c)                           a smoothed target action
  y = r + γ min_{i=1,2} Q'ᵢ(s', ã),    L = Σᵢ E[(y - Qᵢ(s, a))²]       the lesser of two critics
  the actor, by ∇_a Q₁(s, a)|_{a=μ(s)}, and all targets move at every d-th step only

From DDPG it differs in these, and in exploring by N(0, σ) alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValue, ensemble
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
    "slug": "td3",
    "reference": True,
    "title": "Addressing Function Approximation Error in Actor-Critic Methods",
    "year": 2018,
    "arxiv": "1802.09477",
    "chapter": "off_policy",
    "hyper": "TD3",
    "parent": "ddpg",
    "changes": "two critics, a smoothed target action, a delayed actor",
    "claim": "it swings up the pendulum as in the RL Zoo (-152 in 20,000 steps)",
    "check": {
        "on": {"Pendulum-v1": 20_000},
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {},
        "says": ["final_return > -170"],
    },
}

move = with_targets("actor", "critic")


@hyper
class TD3(OffPolicy):
    sigma: float = arg(0.1, "deviation of the exploration's noise", "[0, inf)")
    smooth: float = arg(0.2, "σ̃, deviation of the target action's noise", "[0, inf)")
    clip: float = arg(0.5, "c, the most of that noise", "[0, inf)")
    delay: int = arg(2, "d, gradient steps of the critics to one of the actor", "[1, inf)")


def squared_error(q, y, t, hp):
    return jnp.square(q - y)


def policy_gradient(a, q, b, params, key, hp):
    """-Q₁(s, μ(s)), for actions a = μ(s) [M, d] and their values q [2, M]."""
    return -q[0].mean()


def learner(world, network, critic_loss=squared_error, actor_loss=policy_gradient):
    """critic_loss: (q [2, M], y [M], t, hp) -> [2, M]. actor_loss: as `policy_gradient`."""
    d = actions(world)
    actor = Actor(d, torso(network), bounded=True)
    init_critic, critics = ensemble(ActionValue(1, torso(network)), 2)
    mu: Any = actor.apply
    Q = lambda *args: critics(*args)[..., 0]

    def init(key, obs, hp):
        k_actor, k_critic = jax.random.split(key)
        a = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], d))
        return move(dict(actor=actor.init(k_actor, obs), critic=init_critic(k_critic, obs, a)), 1.0)

    def update(params, opt, b, key, t, i, hp):
        target, (k_smooth, k_actor) = params["target"], jax.random.split(key)
        noise = jnp.clip(hp.smooth * jax.random.normal(k_smooth, b.action.shape), -hp.clip, hp.clip)
        ahead = jnp.clip(mu(target["actor"], b.next_obs) + noise, -1.0, 1.0)
        y = b.reward + b.discount * Q(target["critic"], b.next_obs, ahead).min(0)

        def loss(p):
            q = Q(p, b.obs, b.action)
            error = critic_loss(q, y, t, hp).mean(1).sum()
            return error, dict(critic_loss=error, q=q.mean())

        def improve(params, opt):
            def loss(p):
                a = mu(p, b.obs)
                value = actor_loss(a, Q(params["critic"], b.obs, a), b, params, k_actor, hp)
                return value, dict(actor_loss=value)

            params, opt, stats = fit(params, opt, "actor", loss, hp, t)
            return move(params, hp.tau), opt, stats

        params, opt, stats = fit(params, opt, "critic", loss, hp, t)
        now, wait = (i + 1) % hp.delay == 0, lambda *args: (*args, dict(actor_loss=0.0))
        params, opt, more = jax.lax.cond(now, improve, wait, params, opt)
        return params, opt, stats | {k: hp.delay * x for k, x in more.items()}

    def act(params, obs, memory, key, t, hp):
        a = mu(params["actor"], obs)
        if key is None:
            return a, memory
        return jnp.clip(a + hp.sigma * jax.random.normal(key, a.shape), -1.0, 1.0), memory

    return Learner(init, optimisers("actor", "critic"), update, act)


def make(world, network=Network()):
    return off_policy(learner(world, network))
