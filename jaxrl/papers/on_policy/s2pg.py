"""S2PG. Al-Hafez, Zhao, Peters, Tateo 2023, arXiv 2311.04082.

The internal state z joins the state, and the next, z' ~ N(μ(s, z), σ²), joins the action:
  ∇J = E[ Σ_t ∇ log π(a_t, z_t+1 | s_t, z_t) Q(s_t, z_t, a_t, z_t+1) ],  the critic is V(s, z)

From PPO with a recurrent network it differs in judging z' like an action, row by row: no gradient
goes back through time. Checked: the authors' code, which also sees the last action, has no entropy
bonus (here: on a's alone) and starts σ, a parameter, at 0.02 (here e⁻¹). Not checked: the text.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl import heads
from jaxrl.core import Policy
from jaxrl.families.on_policy import on_policy
from jaxrl.networks import dense, orthogonal, seen
from jaxrl.papers.on_policy.ppo import PPO as PPO
from jaxrl.papers.on_policy.ppo import clip, clipped_value
from jaxrl.policies import TORSOS, Network, feedforward

PAPER = {
    "slug": "s2pg",
    "id": 367,
    "title": "Time-Efficient Reinforcement Learning with Stochastic Stateful Policies",
    "year": 2023,
    "arxiv": "2311.04082",
    "chapter": "on_policy",
    "hyper": "PPO",
    "parent": "ppo",
    "changes": "a random internal state that is drawn and judged like an action",
    "claim": "it remembers where a policy without memory cannot, about as well as BPTT",
    "check": {
        "on": {"MemoryChain-bsuite": 100_000},
        "network": {"memory": 16},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {"ppo": {"paper": "ppo", "network": {"memory": 0}}, "bptt": {"paper": "ppo"}},
        "says": ["final_return > ppo", "final_return > bptt - 0.1"],
    },
}


class Both:
    """The distribution of (a, z'), independent given (s, z). Noise in z' is no entropy to seek."""

    def __init__(self, a, z):
        self.a, self.z, self.entropy = a, z, a.entropy

    def sample(self, seed):
        k = jax.random.split(seed)
        return dict(a=self.a.sample(seed=k[0]), z=self.z.sample(seed=k[1]))

    def mode(self):
        return dict(a=self.a.mode(), z=self.z.mode())

    def log_prob(self, x):
        return self.a.log_prob(x["a"]) + self.z.log_prob(x["z"])

    def kl_divergence(self, other):
        return self.a.kl_divergence(other.a) + self.z.kl_divergence(other.z)


def extended(a: heads.Head, units: int) -> heads.Head:
    """The head of (a, z'): the environment receives a."""
    z, n = heads.gaussian(units, log_std=-1.0), a.size

    def output(own, x, s):
        return dict(a=a.output(own["a"], x[..., :n], s[0]), z=z.output(own["z"], x[..., n:], s))

    init = lambda: dict(a=a.init(), z=z.init())
    both = lambda out: Both(a.distribution(out["a"]), z.distribution(out["z"]))
    return heads.Head(n + units, init, output, both, lambda raw: a.action(raw["a"]))


class Stateful(nn.Module):
    """(obs, z) [M, ...] -> (inputs of the extended head [M, size + units], V(s, z) [M])."""

    size: int
    torso: partial  # (name=) -> a module
    units: int

    @nn.compact
    def __call__(self, s):
        (obs, z), beside = s, lambda x, y: jnp.concatenate([x, y], -1)
        x = self.torso(name="actor")(seen(obs, critic=False))
        y = beside(self.torso(name="critic")(seen(obs, critic=True)), z)
        cell = nn.GRUCell(self.units, kernel_init=orthogonal(), recurrent_kernel_init=orthogonal())
        mean = cell(z, x)[0]
        value = dense(1, 1.0)(nn.tanh(dense(y.shape[-1])(y)))[..., 0]
        return beside(dense(self.size, 0.01)(beside(x, mean)), mean), value


def stateful(world, network: Network, units: int) -> Policy:
    """A policy without memory in the world whose states are (s, z) and whose actions (a, z')."""
    head = heads.for_space(world.action_space, network.head)
    torso = partial(TORSOS[network.torso], network.hidden, network.activation)
    memory = lambda n: jnp.zeros((n, units))
    inner = feedforward(Stateful(head.size, torso, units), extended(head, units))

    init = lambda key, obs: inner.init(key, (obs, memory(len(jax.tree.leaves(obs)[0]))))

    def act(params, obs, start, z, key):
        z = jnp.where(start[..., None], 0.0, z)
        action, record, value, _ = inner.act(params, (obs, z), start, (), key)
        return action, record | dict(z=z), value, record["raw"]["z"]

    def judge(params, old_params, batch, key):
        s = (batch.obs, batch.record["z"])
        w = inner.judge(params, old_params, batch.replace(obs=s), key)
        return w._replace(record=w.record | dict(z=s[1]))

    return Policy(init, memory, act, judge)


def make(world, network=Network()):
    policy = stateful(world, network, network.memory or 16)
    return on_policy(policy, clip, value_loss=clipped_value)
