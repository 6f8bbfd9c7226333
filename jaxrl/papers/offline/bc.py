"""BC: behaviour cloning. Pomerleau 1991 (Neural Computation 3).

Supervised learning of what was done: the maximum likelihood of the data's actions,
  L(π) = -E_{(s,a)~D}[ log π(a|s) ]
A softmax over discrete actions; over a box a Gaussian with mean tanh(f(s)) and a deviation that no
state changes, clipped to [e⁻⁵, e²] (the policy of IQL's released code).

Rewards play no part in it. With `--env-param best=0.1` the data are the best tenth of the episodes,
by return: "10 % BC" (Chen et al. 2021, arXiv 2106.01345), for this or any other method.
"""

from typing import Any

import jax
import jax.numpy as jnp

from envs.spaces import Box
from jaxrl import heads, policies
from jaxrl.core import Learner
from jaxrl.families.off_policy import fit, optimisers, torso
from jaxrl.families.offline import Offline, offline
from jaxrl.hyper import hyper
from jaxrl.networks import Actor
from jaxrl.policies import Network

PAPER = {
    "slug": "bc",
    "reference": True,
    "title": "Efficient Training of Artificial Neural Networks for Autonomous Navigation",
    "year": 1991,
    "chapter": "offline",
    "hyper": "BC",
    "changes": "the maximum likelihood of the data's actions",
    "claim": "it does as well as its expert, and no better than a bad teacher",
    "check": {
        "on": {
            "experiments/datasets/pendulum-expert.npz": 5000,
            "experiments/datasets/pendulum-random.npz": 5000,
        },
        "tune": {"lr": [3e-4, 1e-3, 3e-3]},
        "arms": {},
        "says": [
            "final_return > -200 on experiments/datasets/pendulum-expert.npz",
            "final_return < -900 on experiments/datasets/pendulum-random.npz",
        ],
    },
    "inert": {"gamma": "nothing is bootstrapped", "tau": "there are no targets"},
}


@hyper
class BC(Offline):
    pass


def policy(world, network):
    """Of a world's actions: `init(key, obs) -> params`, `pi(params, obs) -> a distribution` of
    actions [M, ...], and `act(params, obs, key) -> actions`, by its mode where key is None."""
    space = world.action_space
    head = heads.for_space(space, network.head)
    net = Actor(head.size, torso(network), bounded=isinstance(space, Box))
    apply: Any = net.apply

    def init(key, obs):
        return dict(net=net.init(key, obs), head=head.init())

    def out(params, obs):
        own = jax.tree.map(lambda x: jnp.clip(x, -5.0, 2.0), params["head"])
        return head.output(own, apply(params["net"], obs), obs)

    def act(params, obs, key):
        a = policies.choose(head, out(params, obs), key)[0]
        return jnp.clip(a, -1.0, 1.0) if isinstance(space, Box) else a

    return init, lambda params, obs: head.distribution(out(params, obs)), act


def learner(world, network):
    begin, pi, act = policy(world, network)

    def update(params, opt, b, key, t, i, hp):
        def loss(p):
            dist = pi(p, b.obs)
            L = -dist.log_prob(b.action).mean()
            return L, dict(actor_loss=L, entropy=dist.entropy().mean())

        return fit(params, opt, "actor", loss, hp, t)

    return Learner(
        lambda key, obs, hp: dict(actor=begin(key, obs)),
        optimisers("actor"),
        update,
        lambda params, obs, memory, key, t, hp: (act(params["actor"], obs, key), memory),
    )


def make(world, network=Network()):
    return offline(learner(world, network))
