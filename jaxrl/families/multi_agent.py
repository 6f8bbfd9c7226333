"""What methods for teams share: how agents, which are rows of a world, are seen and told apart.

A world with several `agents` has a row for each (`envs/base.py`), so that every on-policy method
trains a team, with one network for all. Observations are dictionaries: "agent", one-hot, says which
it is, and critics alone read "privileged", the state of all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl.core import Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import OnPolicy
from jaxrl.hyper import hyper
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import agents


@hyper
class Teams(OnPolicy):
    """What every on-policy method for teams needs."""

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        return super().smallest() | dict(run=dict(env="agents/spread"))


def team(world: Any) -> int:
    """How many agents a world has. InputError where it is one."""
    if agents(world) < 2:
        raise InputError(f"env: {world.name} has one agent; agents/spread has several")
    return agents(world)


def which(obs: dict) -> jax.Array:
    """Whose observations [..., *] these are, by number; running moments don't change that."""
    return obs["agent"].argmax(-1)


def local(policy: Policy) -> Policy:
    """A policy whose critic, too, sees no more than its agent does."""

    def own(obs):
        return {k: x for k, x in obs.items() if k != "privileged"}

    def judge(params, old_params, b, key):
        return policy.judge(params, old_params, b.replace(obs=own(b.obs)), key)

    return policy._replace(
        init=lambda key, obs: policy.init(key, own(obs)),
        act=lambda params, obs, *rest: policy.act(params, own(obs), *rest),
        judge=judge,
    )


class Separate(NamedTuple):
    """A network for each agent, behind `init` and `apply`. All see every row, as agents are few and
    minibatches mix them, and of each row that of its agent counts."""

    net: Any
    agents: int

    def init(self, key, obs):
        return jax.vmap(self.net.init, (0, None))(jax.random.split(key, self.agents), obs)

    def apply(self, params, obs):
        out = jax.vmap(self.net.apply, (0, None))(params, obs)
        rows = jnp.arange(len(obs["agent"]))
        return jax.tree.map(lambda x: x[which(obs), rows], out)


def separate(world: Any, network: Network) -> Policy:
    """A policy with a network for each agent, which sees what the agent does.

    InputError for a network with memory.
    """
    n = team(world)
    if network.memory:
        raise InputError(f"memory: {network.memory}; networks of separate agents have none")
    return local(policy_for(world, network, wrap=lambda net: Separate(net, n)))
