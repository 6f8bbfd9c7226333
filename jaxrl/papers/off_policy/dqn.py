"""DQN. Mnih et al. 2015 (Nature 518), arXiv 1312.5602 for its first form.

Q-learning with a network, from a replay buffer and towards a target network θ⁻:
  L(θ) = E[ (r + γ max_a' Q(s', a'; θ⁻) - Q(s, a; θ))² ]                                    (eq. 2)
Acting is ε-greedy, ε going linearly from 1 to its end over a share of the run; θ⁻ <- θ every so
many gradient steps. With `double` the target's action is θ's (van Hasselt et al. 2016, 1509.06461).

The paper clips the error's gradient to [-1, 1]: here `loss = huber`, and not the default, since our
rewards are not clipped. What is learned then is nearly a median, which rare terminal states do not
hold down: on CartPole values went past a million in each of 4 seeds.
With τ below 1 targets move a part of the way.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValues, huber, regression, squared
from jaxrl.families.off_policy import (
    OffPolicy,
    allowed,
    anything,
    choices,
    fit,
    off_policy,
    optimisers,
    torso,
    with_targets,
)
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "dqn",
    "reference": True,
    "title": "Human-level control through deep reinforcement learning",
    "year": 2015,
    "chapter": "off_policy",
    "hyper": "DQN",
    "changes": "Q-learning with a network, a replay buffer and a target network",
    "claim": "it learns CartPole and Acrobot as in CleanRL (489 and -92 after 500,000 steps)",
    "check": {
        "on": {"CartPole-v1": 500_000, "Acrobot-v1": 500_000},
        "hyper": {"updates": 1, "learning_starts": 10_000},  # as the peer's, its rate among ours
        "network": {"hidden": [120, 84]},
        "tune": {"lr": [2.5e-4, 5e-4, 1e-3]},
        "arms": {},
        "says": ["final_return > 475 on CartPole-v1", "final_return > -92 on Acrobot-v1"],
    },
}

move = with_targets("critic")


@hyper
class DQN(OffPolicy):
    lr: float | Linear = Linear(2e-3, 0.0)
    num_envs: int = 10
    updates: int = 2
    buffer_size: int = 10_000
    tau: float = 1.0
    eps: float = arg(0.05, "ε that exploration ends with", "[0, 1]")
    explore: float = arg(0.5, "share of the run in which ε falls to it", "(0, 1]")
    target_every: int = arg(50, "gradient steps between updates of the target", "[1, inf)")
    double: bool = arg(False, "the target's action is the parameters' own")
    loss: str = arg("squared", "how values are learned", ("squared", "huber"))

    @classmethod
    def smallest(cls):
        small = super().smallest()
        own = dict(target_every=2, tau=0.5)
        return small | dict(run=dict(env="CartPole-v1"), hyper=small["hyper"] | own)


def error(hp):
    return squared if hp.loss == "squared" else regression(huber)


def learner(world, network, size=1, critic=error):
    """critic: hp -> the `Critic`, of such a size, by which values are learned."""
    n = choices(world)
    net = ActionValues(n, size, torso(network))
    outputs: Any = net.apply

    def init(key, obs, hp):
        return move(dict(critic=net.init(key, obs)), 1.0)

    def update(params, opt, b, key, t, i, hp):
        Q = lambda p, obs: critic(hp).value(outputs(p, obs))
        ahead = Q(params["target"]["critic"], b.next_obs)
        q = Q(params["critic"], b.next_obs) if hp.double else ahead
        best = allowed(q, b.next_obs).argmax(-1)
        y = b.reward + b.discount * jnp.take_along_axis(ahead, best[:, None], 1)[:, 0]

        def loss(p):
            out = outputs(p, b.obs)[jnp.arange(len(y)), b.action]
            L = critic(hp).loss(out, y).mean()
            return L, dict(critic_loss=L, q=critic(hp).value(out).mean())

        params, opt, stats = fit(params, opt, "critic", loss, hp, t)
        now = (i + 1) % hp.target_every == 0
        return jax.lax.cond(now, move, lambda p, _: p, params, hp.tau), opt, stats

    def act(params, obs, memory, key, t, hp):
        greedy = allowed(critic(hp).value(outputs(params["critic"], obs)), obs).argmax(-1)
        if key is None:
            return greedy, memory
        k, k_any = jax.random.split(key)
        eps = 1 - (1 - hp.eps) * jnp.minimum(t / (hp.explore * hp.horizon), 1.0)
        any_ = anything(world.action_space, obs, k_any, len(greedy))
        return jnp.where(jax.random.uniform(k, greedy.shape) < eps, any_, greedy), memory

    return Learner(init, optimisers("critic"), update, act)


def make(world, network=Network()):
    return off_policy(learner(world, network))
