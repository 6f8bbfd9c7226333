"""PolicyFlow. 2026 (ICLR), "Policy Optimization with Continuous Normalizing Flow in RL".

PPO of a flow with a Gaussian around its end: noise x₀ is carried to a₁ and the action is a₁ + δ,
δ ~ N(0, σ²). How the velocity changes along the straight way from x₀ to a₁ stands for how the flow
would change, so that a ratio needs no likelihood along the flow:
  x_t = (1 - t) x₀ + t a₁,    Δv = v(s, x_t, t) - v_old(s, x_t, t),    t one of the sampler's times
  r = N(δ; Δv, σ²) / N(δ; 0, σ_old²)    in PPO's clipped surrogate,
  β E‖(1 - t) v - (x_t - t v_old)‖²: the Brownian regulariser, v drawn to that of a diffusing x,
and the entropy of δ is paid for. From PPO it differs in the policy; with v a function of s alone
and x₀ = 0 it is PPO.

Checked against two adaptations of the authors' code, which agree in all this; not the text. There
a step size adapts to the KL, and AdamW takes it. A mode is what noise of 0 is carried to.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jaxrl.core import Policy, View
from jaxrl.families.diffusion import flow, midpoint, sight
from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network
from jaxrl.types import flat, is_key

PAPER = {
    "slug": "policyflow",
    "id": 194,
    "title": "PolicyFlow: Policy Optimization with Continuous Normalizing Flow in Reinforcement "
    "Learning",
    "year": 2026,
    "chapter": "diffusion",
    "hyper": "PolicyFlow",
    "parent": "ppo",
    "changes": "a flow before the Gaussian; its ratio is of changes of the velocity",
    "claim": "where one mode is not enough it beats a Gaussian, the more with its regulariser",
    "check": {
        "on": {"goals/hidden": 200_000, "Pendulum-v1": 100_000},
        "tune": {"lr": [1e-3, 3e-3], "std": [0.5, 1.0]},
        "by": "last episode_return",
        "arms": {
            "ppo": {"paper": "ppo", "tune": {"lr": [3e-4, 1e-3, 2.5e-3, 5e-3]}},
            "unregularised": {"hyper": {"brownian": 0.0}},
        },
        "says": [
            "last episode_return > ppo + 0.1 on goals/hidden",
            "last episode_return > unregularised on goals/hidden",
            "last episode_return > ppo - 50 on Pendulum-v1",
        ],
    },
    "battery": {"run": {"env": "Pendulum-v1"}},
}


@hyper
class PolicyFlow(OnPolicy):
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")
    brownian: float = arg(0.0025, "β, weight of the regulariser", "[0, inf)")
    std: float = arg(0.5, "σ at first", "(0, inf)")
    flow_steps: int = arg(4, "midpoint steps from noise to an action", "[1, inf)")


def policy(nets, hp):
    def init(key, obs):
        return nets.init(key, obs) | dict(log_std=jnp.log(hp.std) * jnp.ones(nets.size))

    def draw(key, shape):
        x, delta = flat(jax.random.normal, key, (2, *shape, nets.size))
        return dict(x=x, delta=delta)

    def log_prob(delta, mean, std):
        return norm.logpdf(delta, mean, std).sum(-1)

    def act(params, obs, start, memory, key):
        none = jnp.zeros((*start.shape, nets.size))
        z = draw(key, start.shape) if is_key(key) else key or dict(x=none, delta=none)
        std = jnp.exp(params["log_std"])
        prior = midpoint(partial(nets.field, params, sight(obs, start)), z["x"], hp.flow_steps)
        record = dict(x=z["x"], prior=prior, delta=std * z["delta"])
        record |= dict(std=jnp.broadcast_to(std, prior.shape), raw=prior + record["delta"])
        record["log_prob"] = log_prob(record["delta"], 0.0, std)
        return record["raw"], record, nets.value(params, obs, start), memory

    def judge(params, old_params, b, key):
        s, r, last = sight(b.obs, b.start), b.record, 2 * hp.flow_steps
        t = flat(partial(jax.random.randint, minval=0, maxval=last + 1), key, b.start.shape) / last
        u = t[..., None]
        x = (1 - u) * r["x"] + u * r["prior"]
        old = jax.lax.stop_gradient(nets.field(old_params, s, x, t))
        v, std = nets.field(params, s, x, t), jnp.exp(params["log_std"])
        now = log_prob(r["delta"], v - old, std)

        def kl(p, q):  # of Gaussians Δv apart
            return (jnp.log(q / p) + (p**2 + (v - old) ** 2) / (2 * q**2) - 0.5).sum(-1)

        wander = jnp.square((1 - u) * v - (x - u * old)).mean(-1)
        entropy = jnp.log(std * jnp.sqrt(2 * jnp.pi * jnp.e)).sum()
        return View(
            log_ratio=now - b.old["log_prob"],
            log_prob=now,
            value=nets.value(params, b.obs, b.start),
            entropy=lambda: jnp.broadcast_to(entropy, now.shape),
            kl=lambda: kl(b.old["std"], std),
            reverse_kl=lambda: kl(std, b.old["std"]),
            record=r | dict(log_prob=now, std=jnp.broadcast_to(std, v.shape), wander=wander),
        )

    return Policy(init, lambda n: (), act, judge, lambda key, steps, n: draw(key, (steps, n)))


def regularised(w, b, hp):
    return clip(w, b, hp) + hp.brownian * w.record["wander"]


def make(world, network=Network()):
    return on_policy(partial(policy, flow(world, network)), regularised)
