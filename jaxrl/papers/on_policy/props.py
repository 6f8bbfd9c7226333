"""PROPS, Proximal Robust On-Policy Sampling. Corrado, Hanna 2023, arXiv 2311.08290.

A behaviour policy φ collects what D, the last b rollouts, lacks of π_θ's actions. From φ = θ, by
Adam, until KL(π_θ || π_φ) > δ (algorithm 2), with ρ = π_φ(a|s) / π_θ(a|s):
  maximise E_D[ min(-ρ, -clip(ρ, 1-ε, 1+ε)) - λ KL(π_θ || π_φ) ] (eqs. 4, 5)
then m steps by φ join D, until D has a new rollout (algorithm 1). PPO learns from all of D.

From PPO it differs in who collects, and in keeping old rollouts, which θ's policy and critic judge
anew. `sampling_error` is KL(π_D || π_θ) ≈ E_D[log π_D - log π_θ], π_D fitted to D from θ. Empty
slots repeat the newest rollout. Checked: the authors' code, whose KL is sampled (discrete) or the
other way round (continuous), whose Adam outlives φ, and whose PPO has a target KL. Not: the text.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.errors import InputError
from jaxrl.families.on_policy import descent, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.optim import stopping
from jaxrl.papers.on_policy.ppo import PPO, clip, clipped_value
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import judged, together, unjudged
from jaxrl.surrogate import clipped

PAPER = {
    "slug": "props",
    "id": 26,
    "title": "On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
    "year": 2023,
    "arxiv": "2311.08290",
    "chapter": "on_policy",
    "hyper": "PROPS",
    "parent": "ppo",
    "changes": "a behaviour policy collects the actions that a buffer of rollouts lacks",
    "claim": "lower sampling error than on-policy sampling, and better data efficiency than PPO",
    "check": {
        "on": {"CartPole-v1": 50_000, "Acrobot-v1": 50_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {
            "buffer": {"hyper": {"behaviour_epochs": 0}},
            "ppo": {"hyper": {"behaviour_epochs": 0, "buffer": 1}},
        },
        "says": ["mean sampling_error < buffer", "final_return > buffer", "final_return > ppo"],
    },
    "battery": {"hyper": {"behaviour_lr": 0.1, "kl_coef": 1.0, "target_kl": 0.3}},
}


@hyper
class PROPS(PPO):
    UNREAD = {"accumulate": "the bound is of a minibatch as a whole"}
    buffer: int = arg(2, "b, the rollouts to learn from, the newest among them", "[1, inf)")
    behaviour_steps: int = arg(4, "m, steps of each environment by one behaviour", "[1, inf)")
    behaviour_epochs: int = arg(4, "passes over the buffer for each; 0: on-policy", "[0, inf)")
    behaviour_lr: float = arg(1e-3, "step size of the behaviour policy", "[0, inf)")
    behaviour_eps: float = arg(0.3, "clip range of its ratio to the policy; inf: off", "(0, inf]")
    kl_coef: float = arg(0.1, "λ, the price of its KL from the policy", "[0, inf)")
    target_kl: float = arg(0.03, "δ, the KL at which it stops; inf: never", "(0, inf]")
    fit_epochs: int = arg(8, "passes of the fit for sampling_error; 0: none, it is 0", "[0, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.num_steps % (m := self.behaviour_steps):
            return f"behaviour_steps: {m} does not divide num_steps = {self.num_steps}"
        return super().problem()


def behaviour(w, b, hp):
    """PPO's clip with an advantage of -1 for each action in D. Beyond δ there is no gradient."""
    r, A, kl = jnp.exp(w.log_ratio), b.advantage, w.kl()
    near = -(A * kl).mean() <= hp.target_kl
    return near * (-clipped(r, A, hp.behaviour_eps) - hp.kl_coef * A * kl)  # eqs. 4, 5


def props_sampler(policy):
    adapt = descent(policy, behaviour, stopping)
    fit = descent(policy, lambda w, b, hp: -w.log_prob)  # maximum likelihood

    def init(key, s, hp, world):
        first = lambda: unjudged(policy, s.params, s.stage, key, hp, world, hp.num_steps)[1]
        room = lambda x: jnp.zeros((hp.buffer * x.shape[0], *x.shape[1:]), x.dtype)
        return jax.tree.map(room, jax.eval_shape(first))

    def sample(D, s, _, t, hp, world):
        b, T = hp.buffer, hp.num_steps
        oldest, time = (b - 1) * T - t * T, jnp.arange(b * T)[:, None]
        D = jax.tree.map(lambda x: jnp.roll(x, -T, 0), D)

        def some(carry, end):
            key, stage, D = carry
            key, k_judge, k_adapt, k = jax.random.split(key, 4)
            seen = ((time >= oldest) & (time < end)) * jnp.ones(hp.num_envs)
            data = judged(policy, s.params, D, k_judge)
            data = data.replace(advantage=-seen / jnp.maximum(seen.mean(), 1e-8))
            phi = adapt(s, data, k_adapt, hp, world, hp.behaviour_lr, hp.behaviour_epochs)
            stage, new, metrics = unjudged(policy, phi, stage, k, hp, world, hp.behaviour_steps)
            put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, end, 0)
            return (key, stage, jax.tree.map(put, D, new)), metrics

        ends = (b - 1) * T + jnp.arange(0, T, hp.behaviour_steps)
        (key, stage, D), metrics = jax.lax.scan(some, (s.key, s.stage, D), ends)
        key, k_judge, k_fit, k = jax.random.split(key, 4)
        slots = jnp.where(jnp.arange(b) < b - 1 - t, b - 1, jnp.arange(b))
        beside = lambda x: jnp.concatenate(list(x.reshape(b, T, *x.shape[1:])[slots]), 1)
        out = judged(policy, s.params, jax.tree.map(beside, D), k_judge)
        pi_D = fit(s, out, k_fit, hp, world, 1e-3, hp.fit_epochs)
        error = policy.judge(pi_D, s.params, out, k).log_ratio.mean()
        metrics = together(metrics) | dict(sampling_error=error)
        return D, (s.replace(key=key, stage=stage), out, metrics)

    return Part(init, sample)


def make(world, network=Network()):
    if network.memory:
        raise InputError(f"memory: {network.memory}: props judges steps one by one; use 0")
    policy = policy_for(world, network)
    return on_policy(policy, clip, value_loss=clipped_value, sampler=props_sampler(policy))
