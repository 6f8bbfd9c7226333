"""PG-Rainbow. Jeon, Lee, Lee 2024, arXiv 2407.13146.

PPO whose critic sees quantiles of the return that an implicit quantile network (IQN, Dabney et al.
2018, arXiv 1806.06923) learns from the last rollouts, before each update:
  V(s) = f( V_θ(s) ⊙ q(s) ),  q_k(s) = Z(s, a*, τ_k),  τ_k = (k - ½)/K,  a* = argmax_a Σ_k Z
  L = Σ_i mean_j |τ_i - 1[δ_ij < 0]| huber(δ_ij),  δ_ij = r + γ Z'(s', a*, τ'_j) - Z(s, a, τ_i)
with τ, τ' ~ U(0, 1) and Z' the Z before these steps: as many as PPO's, as large, at its rate.
From PPO it differs in what the critic sees. PPO's gradient stops at q; without `distil` it alone
shapes q. Not checked: the text (no code is out). V is as summaries have it, the rest our choice.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl import heads
from jaxrl.core import Part
from jaxrl.errors import InputError
from jaxrl.families.on_policy import on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.networks import ActorCritic, dense, seen
from jaxrl.optim import adam
from jaxrl.papers.on_policy.hyper_plus_plus import switched
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.papers.on_policy.props import props_sampler
from jaxrl.policies import TORSOS, Network, feedforward
from jaxrl.rollout import judged, unjudged

PAPER = {
    "slug": "pg_rainbow", "id": 21, "year": 2024, "arxiv": "2407.13146", "chapter": "on_policy",
    "title": "PG-Rainbow: Using Distributional Reinforcement Learning in Policy Gradient Methods",
    "hyper": "PGRainbow", "parent": "ppo",
    "changes": "the critic sees return quantiles that an IQN learns off-policy",
    "claim": "the quantiles make PPO better than it is, and than it is with as many parameters",
    "check": {
        "on": {"CartPole-v1": 50_000, "Acrobot-v1": 50_000},
        "hyper": {"normalise_reward": True}, "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {"same_size": {"hyper": {"distil": False}}, "ppo": {"paper": "ppo"}},
        "says": ["mean episode_return > same_size", "mean episode_return > ppo"],
    },
}  # fmt: skip
K, COSINES = 8, 16  # quantiles, and τ drawn for L; of the embedding of τ
greedy = lambda Z: jnp.take_along_axis(Z, Z.mean(1).argmax(-1)[:, None, None], -1)[..., 0]  # a*'s


@hyper
class PGRainbow(PPO):
    normalise_reward: bool = True
    distil: bool = arg(True, "the IQN learns quantiles; otherwise PPO's gradient shapes q")
    buffer: int = arg(8, "rollouts that the IQN learns from, the newest among them", "[1, inf)")


class Rainbow(nn.Module):  # (head inputs, V), or given τ [M, N] the IQN alone: Z [M, N, actions]
    size: int
    torso: partial
    distil: bool

    @nn.compact
    def __call__(self, obs, tau=None):
        y, mid = self.torso(name="iqn")(seen(obs, critic=True)), (jnp.arange(K) + 0.5) / K
        cosines = jnp.cos(jnp.pi * jnp.arange(COSINES) * (mid if tau is None else tau)[..., None])
        Z = dense(self.size, 1.0)(y[:, None] * nn.relu(dense(y.shape[-1])(cosines)))
        if tau is not None:
            return Z
        q = jax.lax.stop_gradient(greedy(Z)) if self.distil else greedy(Z)
        x, v = ActorCritic(self.size, self.torso, values=K)(obs)
        return x, dense(1, 1.0)(nn.relu(dense(64)(v * q)))[..., 0]


def quantile_huber(z, tau, draws):
    """L [M] of quantiles z at τ, [M, N], for draws [M, N'] of what they are the quantiles of."""
    delta = draws[:, None] - z[..., None]
    return (jnp.abs(tau[..., None] - (delta < 0)) * optax.losses.huber_loss(delta)).mean(-1).sum(-1)


def replay(policy, net):
    """A sampler that keeps the last rollouts, as PROPS does, and teaches the IQN from them."""

    def loss(params, old, b, key, hp):
        tau, tau2 = jax.random.uniform(key, (2, len(b.action), K))
        z = jnp.take_along_axis(net.apply(params, b.obs, tau), b.action[:, None, None], -1)[..., 0]
        ahead = greedy(net.apply(old, b.next_value, tau2)) * ~b.terminated[:, None]  # s' is there
        return quantile_huber(z, tau, b.reward[:, None] + hp.gamma * ahead).mean()

    def sample(D, s, _, t, hp, world):
        key, k, k_judge, k_iqn = jax.random.split(s.key, 4)
        stage, b, metrics = unjudged(policy, s.params, s.stage, k, hp, world, hp.num_steps)
        D = jax.tree.map(lambda x, y: jnp.concatenate([x[len(y) :], y]), D, b)
        rows, n = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), D), b.start.size
        oldest, opt, old = n * jnp.maximum(hp.buffer - 1 - t, 0), adam(hp, t), s.params["net"]

        def step(carry, key):
            (own, state), k = carry, jax.random.split(key)
            i = jax.random.randint(k[0], (n // hp.minibatches,), oldest, n * hp.buffer)
            g = jax.grad(loss)(own, old, jax.tree.map(lambda x: x[i], rows), k[1], hp)
            updates, state = opt.update(g, state)
            return (optax.apply_updates(own, updates), state), None

        keys = jax.random.split(k_iqn, hp.distil * hp.epochs * hp.minibatches)
        (own, _), _ = jax.lax.scan(step, (old, opt.init(old)), keys)
        s = s.replace(params=s.params | dict(net=own), key=key, stage=stage)
        return D, (s, judged(policy, s.params, b, k_judge), metrics)

    return Part(props_sampler(policy).init, sample)


def make(world, network=Network(), surrogate=clip):
    if network.memory:
        raise InputError(f"memory: {network.memory}: pg_rainbow has none; use 0")
    head = heads.for_space(world.action_space, network.head)
    torso = partial(TORSOS[network.torso], network.hidden, network.activation)

    def build(hp):
        policy = feedforward(net := Rainbow(head.size, torso, hp.distil), head)
        return on_policy(policy, surrogate, value_loss=clipped_value, sampler=replay(policy, net))

    return switched(build)
