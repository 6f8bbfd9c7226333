"""A2C is a special case of PPO. Huang, Kanervisto, Raffin, Wang, Ontañón, Dossa 2022, 2205.09123.

With one epoch of one minibatch π is π_old while the gradient is taken, so r = 1, the clip is idle,
  ∇ min(r A, clip(r, 1-ε, 1+ε) A) = ∇r A = ∇log π(a|s) A,
and with A2C's other settings (advantages as they are, λ = 1, few steps) PPO is A2C.

This is PPO, which carries an A2C along: the same rollouts, its own parameters and optimiser. `gap`
is the largest |θ_PPO - θ_A2C|.

Checked: the authors' code, which also gives PPO A2C's optimiser, RMSprop; here both have Adam. A
Gaussian's r is off 1 by a last bit: on Pendulum, 1250 iterations drew them 0.03 apart.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part, Policy
from jaxrl.families.on_policy import on_policy, sgd
from jaxrl.hyper import hyper
from jaxrl.papers.on_policy.ppo import PPO, clip
from jaxrl.policies import Network, policy_for
from jaxrl.surrogate import policy_gradient

PAPER = {
    "slug": "a2c_as_ppo",
    "id": 36,
    "title": "A2C is a special case of PPO",
    "year": 2022,
    "arxiv": "2205.09123",
    "chapter": "studies",
    "hyper": "A2CAsPPO",
    "parent": "ppo",
    "changes": "PPO with A2C's settings, and an A2C carried along",
    "claim": "they learn the same parameters, and with a second epoch they do not",
    "check": {
        "on": {"CartPole-v1": 100_000, "Acrobot-v1": 100_000},
        "arms": {"two_epochs": {"hyper": {"epochs": 2}}},
        "says": ["max gap < 1e-7", "max gap < two_epochs"],
    },
    "inert": {
        "eps": "the clip is idle",
        "vf_clip": "the critic's change is 0 while the gradient is taken",
    },
}


@hyper
class A2CAsPPO(PPO):
    num_steps: int = 5
    lam: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    normalise_advantage: bool = False


def carried(policy: Policy, ppo: Part, a2c: Part) -> Part:
    """PPO's update, and A2C's of parameters of its own, the slot: out = (state, metrics)."""

    def update(slot, s, b, t, hp, world):
        # r is 1 to the last bit only if π_old is computed as π is, and not while acting
        b = b.replace(old=policy.judge(s.params, s.params, b, s.key).record)
        _, (other, _) = a2c.apply((), s.replace(params=slot[0], opt=slot[1]), b, t, hp, world)
        _, (s, stats) = ppo.apply((), s, b, t, hp, world)
        apart = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), s.params, other.params)
        stats["gap"] = jnp.stack(jax.tree.leaves(apart)).max()
        return (other.params, other.opt), (s, stats)

    return Part(lambda key, s, hp, world: (s.params, s.opt), update)


def make(world, network=Network()):
    policy, sequences = policy_for(world, network), network.memory > 0
    ppo, a2c = (sgd(policy, f, sequences=sequences) for f in (clip, policy_gradient))
    return on_policy(policy, update=carried(policy, ppo, a2c))
