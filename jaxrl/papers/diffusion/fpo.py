"""FPO. McAllister et al. 2025, arXiv 2507.21053.

PPO of a policy whose actions are carried from noise by a velocity, with a ratio that needs no
likelihood: of conditional flow-matching losses, over the same pairs (ε_i, t_i) before and after,
  r = exp( L_old(a|s) - L(a|s) ),   L(a|s) = 1/N Σᵢ ℓ(εᵢ, tᵢ),   a_t = (1 - t) ε + t a
  ℓ = mean_d (v(s, a_t, t) - (a - ε))²,  or of the noise that v implies, (a_t - t v - ε)² = t² ℓ
which stands for the ratio of evidence lower bounds. The pairs are drawn when the action is.

From PPO it differs in the policy and in what stands for log π(a|s), and in nothing else.

Checked: the text; the released code, whose noise is at t = 1, and whose defaults these are (ℓ of
the noise, N = 8, 10 steps, ε = 0.05). An entropy is not known: there is no bonus of it. A mode is
what noise of 0 is carried to; the code's evaluations draw noise.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import Policy, View
from jaxrl.families.diffusion import euler, flow, sight
from jaxrl.families.on_policy import OnPolicy, on_policy
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network
from jaxrl.types import flat, is_key

PAPER = {
    "slug": "fpo",
    "id": 56,
    "title": "Flow Matching Policy Gradients",
    "year": 2025,
    "arxiv": "2507.21053",
    "chapter": "diffusion",
    "hyper": "FPO",
    "parent": "ppo",
    "changes": "a flow instead of a Gaussian; its ratio is of flow-matching losses",
    "claim": "it learns from scratch, and where one mode is not enough it beats a Gaussian",
    "check": {
        "on": {"goals/hidden": 200_000, "Pendulum-v1": 100_000},
        "tune": {"lr": [1e-3, 3e-3, 1e-2]},
        "by": "last episode_return",
        "arms": {"ppo": {"paper": "ppo"}},
        "says": [
            "last episode_return > ppo + 0.1 on goals/hidden",
            "last episode_return > ppo - 50 on Pendulum-v1",
        ],
    },
    "battery": {"run": {"env": "Pendulum-v1"}},
    "inert": {"ent_coef": "no entropy of a flow is known"},
}


@hyper
class FPO(OnPolicy):
    eps: float = arg(0.05, "clip range of the ratio; inf: off", "(0, inf]")
    samples: int = arg(8, "N, pairs (ε, t) of an action", "[1, inf)")
    flow_steps: int = arg(10, "Euler's steps from noise to an action", "[1, inf)")
    error: str = arg("noise", "what the loss is of", ("noise", "velocity"))


def policy(nets, hp):
    d, n = nets.size, hp.samples

    def draw(key, shape):
        k_x, k_eps, k_t = jax.random.split(key, 3)
        eps = flat(jax.random.normal, k_eps, (*shape, n, d))
        t = flat(jax.random.uniform, k_t, (*shape, n))
        return dict(x=flat(jax.random.normal, k_x, (*shape, d)), eps=eps, t=t)

    def loss(params, s, a, eps, t):
        """L(a|s) [...], over pairs [..., N]."""
        s, a = (jnp.broadcast_to(x[..., None, :], (*t.shape, x.shape[-1])) for x in (s, a))
        a_t = (1 - t[..., None]) * eps + t[..., None] * a
        wrong = nets.field(params, s, a_t, t) - (a - eps)
        return jnp.square(wrong if hp.error == "velocity" else t[..., None] * wrong).mean((-1, -2))

    def act(params, obs, start, memory, key):
        s, z = sight(obs, start), draw(key, start.shape) if is_key(key) else key
        x = jnp.zeros((*start.shape, d)) if z is None else z["x"]
        a = euler(partial(nets.field, params, s), x, hp.flow_steps)
        record = {}
        if z is not None:
            record = dict(raw=a, eps=z["eps"], t=z["t"], loss=loss(params, s, a, z["eps"], z["t"]))
        return a, record, nets.value(params, obs, start), memory

    def judge(params, old_params, b, key):
        drawn = b.record["raw"], b.record["eps"], b.record["t"]
        L = loss(params, sight(b.obs, b.start), *drawn)
        log_ratio = b.old["loss"] - L
        k3 = jnp.expm1(log_ratio) - log_ratio
        return View(
            log_ratio=log_ratio,
            log_prob=-L,  # but for what does not depend on the parameters, a bound of it
            value=nets.value(params, b.obs, b.start),
            entropy=lambda: jnp.zeros_like(L),
            kl=lambda: k3,
            reverse_kl=lambda: jnp.exp(log_ratio) * log_ratio - jnp.expm1(log_ratio),
            record=b.record | dict(loss=L),
        )

    return Policy(nets.init, lambda n: (), act, judge, lambda key, steps, n: draw(key, (steps, n)))


def make(world, network=Network()):
    return on_policy(partial(policy, flow(world, network)), clip)
