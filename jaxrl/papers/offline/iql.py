"""IQL: implicit Q-learning. Kostrikov, Nair, Levine 2021 (ICLR 2022), arXiv 2110.06169.

Values of the best that the data do, without ever asking for an action that they do not hold:
  L_V = E_D[ L₂^τ(Q'(s, a) - V(s)) ],    L₂^τ(u) = |τ - 1(u < 0)| u²                        (eq. 5)
  L_Q = E_D[ (r + γ V(s') - Q(s, a))² ]                                                     (eq. 6)
  L_π = -E_D[ exp(β (Q'(s, a) - V(s))) log π(a|s) ]                                         (eq. 7)
At τ = 1/2 V is the mean over the data's actions, near 1 their best. Q' is the lesser of two.

From BC it differs in the weight of each action, and at β = 0 in nothing.

Checked against the released code: V moves first, then π and Q by the new V; weights are at most
100. It scales locomotion's rewards to returns that span 1000, as β = 3 wants (Pendulum's span about
as much as they are); its actor's step size falls as a cosine (here `lr=a:b`, of all three). On
Pendulum's mixed and medium data values of the mean do as well (0.68 of the range, 0.69 at τ = 0.7).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Learner
from jaxrl.critics import ActionValue, ActionValues, ensemble
from jaxrl.families.off_policy import actions, fit, optimisers, torso, with_targets
from jaxrl.families.offline import Offline, offline
from jaxrl.hyper import arg, hyper
from jaxrl.papers.offline.bc import policy
from jaxrl.policies import Network

PAPER = {
    "slug": "iql",
    "reference": True,
    "title": "Offline Reinforcement Learning with Implicit Q-Learning",
    "year": 2021,
    "arxiv": "2110.06169",
    "chapter": "offline",
    "hyper": "IQL",
    "parent": "bc",
    "changes": "actions are weighed by how much better they are than the data's own value",
    "claim": "it is better than cloning the data; of poor ones because of values above their mean",
    "check": {
        "on": {
            "experiments/datasets/pendulum-random.npz": 3000,
            "experiments/datasets/pendulum-mixed.npz": 3000,
        },
        "tune": {"expectile": [0.7, 0.8, 0.9]},
        "arms": {
            "bc": {"paper": "bc", "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
            "mean": {"hyper": {"expectile": 0.5}, "tune": {"beta": [1.0, 3.0, 10.0]}},
        },
        "says": [
            "final_return > bc",
            "final_return > mean on experiments/datasets/pendulum-random.npz",
        ],
    },
}

MOST = 100.0  # of an action's weight
move = with_targets("critic")


@hyper
class IQL(Offline):
    expectile: float = arg(0.7, "τ of the values", "(0, 1)")
    beta: float = arg(3.0, "β, how sharply better actions are preferred", "[0, inf)")


def expectile_loss(u, tau):
    return jnp.abs(tau - (u < 0)) * jnp.square(u)


def learner(world, network, value_loss=lambda u, hp: expectile_loss(u, hp.expectile)):
    """value_loss: (u [M] = Q' - V, hp) -> [M]."""
    d = actions(world)
    begin, pi, act = policy(world, network)
    init_critic, critics = ensemble(ActionValue(1, torso(network)), 2)
    value = ActionValues(1, 1, torso(network), critic=True)
    out: Any = value.apply
    Q = lambda *args: critics(*args)[..., 0]
    V = lambda p, obs: out(p, obs)[:, 0, 0]

    def init(key, obs, hp):
        k_actor, k_critic, k_value = jax.random.split(key, 3)
        a = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], d))
        params = dict(actor=begin(k_actor, obs), critic=init_critic(k_critic, obs, a))
        return move(params | dict(value=value.init(k_value, obs)), 1.0)

    def update(params, opt, b, key, t, i, hp):
        q = Q(params["target"]["critic"], b.obs, b.action).min(0)

        def of_value(p):
            v = V(p, b.obs)
            L = value_loss(q - v, hp).mean()
            return L, dict(value_loss=L, v=v.mean())

        params, opt, stats = fit(params, opt, "value", of_value, hp, t)
        weight = jnp.minimum(jnp.exp(hp.beta * (q - V(params["value"], b.obs))), MOST)
        y = b.reward + b.discount * V(params["value"], b.next_obs)

        def of_actor(p):
            L = -(weight * pi(p, b.obs).log_prob(b.action)).mean()
            return L, dict(actor_loss=L, weight=weight.mean())

        def of_critic(p):
            now = Q(p, b.obs, b.action)
            L = jnp.square(now - y).mean(1).sum()
            return L, dict(critic_loss=L, q=now.mean())

        params, opt, more = fit(params, opt, "actor", of_actor, hp, t)
        params, opt, last = fit(params, opt, "critic", of_critic, hp, t)
        return move(params, hp.tau), opt, stats | more | last

    def play(params, obs, memory, key, t, hp):
        return act(params["actor"], obs, key), memory

    return Learner(init, optimisers("actor", "critic", "value"), update, play)


def make(world, network=Network()):
    return offline(learner(world, network))
