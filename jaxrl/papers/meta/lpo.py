"""LPO, Learnt Policy Optimisation. Lu, Kuba, Letcher, Metz et al. 2022 (NeurIPS), arXiv 2210.05639.

Mirror learning, E[ r A - f(r, A) ] (see `discovered_po`), with a learned drift
  f = ReLU( ReLU((r - clip(r, 1-ε, 1+ε)) A) + tanh([y, A y] W₁) w₂ - ξ ),
  y = (log r, log² r, 1-r, (1-r)²),
a drift whatever φ = (W₁, w₂) is: at r = 1 all of it is 0. An iteration is a generation of OpenES:
members φ ± σe each train a policy from nothing, and Adam ascends E[rank e] / σ, the rank that of a
member's return in the last quarter of its run.
With w₂ = 0 it is PPO's, or none (ε = inf): from PPO it differs in a drift learned from whole runs.
Checked: the authors' code, where fitness is a last evaluation, z-scored, and all members share a
seed. Not: the text, how φ starts (here w₂ = 0), Brax, transfer to other environments.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxrl.core import Algo, train
from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import together

PAPER = {
    "slug": "lpo",
    "reference": True,
    "title": "Discovered Policy Optimisation (the learned drift)",
    "year": 2022,
    "arxiv": "2210.05639",
    "chapter": "meta",
    "hyper": "LPO",
    "parent": "ppo",
    "changes": "the drift is a network, learned by evolution over whole training runs",
    "claim": "from no drift, evolution raises the return that a training run reaches",
    "check": {
        "on": {"CartPole-v1": 460_000},
        "hyper": {"eps": "inf"},
        "arms": {"driftless": {"hyper": {"sigma": 0.0}}},
        "says": ["last fitness > driftless"],
    },
    "battery": {"env_params": {"max_steps": 64}, "hyper": {"pairs": 2, "inner": 2, "hidden": 4}},
}
XI = 1e-4  # ξ: what the network says of next to nothing is nothing


@hyper
class LPO(OnPolicy):
    lr: float = 5e-3
    num_envs: int = 8
    num_steps: int = 32
    pairs: int = arg(4, "antithetic pairs of members a generation", "[1, inf)")
    inner: int = arg(16, "iterations of a member's training run", "[1, inf)")
    hidden: int = arg(128, "units of the drift's network", "[1, inf)")
    sigma: float = arg(0.1, "σ, how far members are from the mean", "[0, inf)")
    meta_lr: float = arg(0.05, "Adam's step size on the drift", "[0, inf)")
    eps: float = arg(0.2, "ε of PPO's drift, to which the network adds; inf: none", "(0, inf]")

    @property
    def steps_per_iteration(self) -> int:
        return 2 * self.pairs * self.inner * super().steps_per_iteration


class State(struct.PyTreeNode):
    phi: jax.Array  # [9, hidden]: W₁ and, as its last row, w₂
    opt: Any
    agent: Any  # the state of the last generation's best member
    key: jax.Array


def drift(phi, log_ratio, A, hp):
    r = jnp.exp(log_ratio)
    y = jnp.stack([log_ratio, jnp.square(log_ratio), 1 - r, jnp.square(1 - r)], -1)
    x = jnp.concatenate([y, A[..., None] * y], -1)
    ppo = jax.nn.relu((r - jnp.clip(r, 1 - hp.eps, 1 + hp.eps)) * A)
    return jax.nn.relu(ppo + jnp.tanh(x @ phi[:-1]) @ phi[-1] - XI)


def mirror(phi, w, b, hp):
    return drift(phi, w.log_ratio, b.advantage, hp) - jnp.exp(w.log_ratio) * b.advantage


def centred_ranks(F):
    """[n] in (-1/2, 1/2): half of the share that is worse less that better; NaN ties with all."""
    better = F[:, None] > F
    return (better.mean(1) - better.mean(0)) / 2


def make(world, network=Network()):
    policy = policy_for(world, network)
    agent = lambda phi: on_policy(policy, partial(mirror, phi), sequences=network.memory > 0)

    def init(key, hp, world):
        key, k_phi, k = jax.random.split(key, 3)
        phi = (jax.random.normal(k_phi, (9, hp.hidden)) / jnp.sqrt(8)).at[-1].set(0)
        return State(phi, optax.adam(hp.meta_lr).init(phi), agent(phi).init(k, hp, world), key)

    def step(s, t, hp, world):
        key, k_noise, k_run = jax.random.split(s.key, 3)
        e = jax.random.normal(k_noise, (hp.pairs, *s.phi.shape))
        e = jnp.concatenate([e, -e])
        keys = jnp.tile(jax.random.split(k_run, hp.pairs), 2)  # a pair shares its luck
        live = lambda phi, key: train(agent(phi), key, hp, world, hp.inner)
        agents, m = jax.vmap(live)(s.phi + hp.sigma * e, keys)
        m = {k: v for k, v in m.items() if k.startswith("episode")}
        late = {k: v[:, -max(1, hp.inner // 4) :] for k, v in m.items()}
        F = jax.vmap(together)(late)["episode_return"]
        ascent = jnp.tensordot(centred_ranks(F), e, 1) / (len(F) * jnp.maximum(hp.sigma, 1e-8))
        updates, opt = optax.adam(hp.meta_lr).update(-ascent, s.opt)
        best = jax.tree.map(lambda x: x[jnp.argmax(jnp.nan_to_num(F, nan=-jnp.inf))], agents)
        metrics = together(jax.tree.map(jnp.ravel, m)) | dict(fitness=jnp.nanmean(F))
        return State(s.phi + updates, opt, best, key), metrics

    def act(s, obs, memory, key, hp):
        return agent(s.phi).act(s.agent, obs, memory, key, hp)

    return Algo(init, step, act, policy.memory)
