"""SPOT: supported policy optimisation. Wu, Wu, Qiu, Wang, Long 2022 (NeurIPS), arXiv 2202.06239.

TD3 on a dataset, whose actor keeps to actions that the data's policy μ may take: max E[Q₁(s, π(s))]
so that log μ(π(s)|s) > ε, of which the mean over states and a multiplier make
  L_π = E_s[ -Q₁(s, π(s)) / mean |Q₁(s, π(s))| - λ log μ̂(π(s)|s) ]
The mean, over the batch, is not differentiated. -log μ̂ is the negative ELBO of a conditional VAE,
q(z|s, a) and p(a|s, z) = N(u(s, z), β / 4), with two numbers in z for each in a,
  -log μ(a|s) <= E_{z~q}[ -log p(a|s, z) ] + KL(q(z|s, a) || N(0, 1))
or, of `samples` L, log L - log Σ_l p(a|s, z_l) p(z_l) / q(z_l|s, a), which is -log μ as L grows.
It learns in the first `pretrain` steps and is frozen then. Online, λ falls in a line, to `end` λ.
From TD3 it differs in this loss and in its batches. As in the released code, the ELBO's loss is
E[mean (u - a)²] + β mean KL: nats times β / 2d, less a constant. Left out: dropout, part sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jaxrl.critics import ActionValue
from jaxrl.families.off_policy import actions, fit, optimisers, torso
from jaxrl.families.offline import OfflineToOnline, offline_to_online
from jaxrl.hyper import arg, hyper
from jaxrl.papers.off_policy import td3
from jaxrl.policies import Network

PAPER = {
    "slug": "spot",
    "id": 285,
    "title": "Supported Policy Optimization for Offline Reinforcement Learning",
    "year": 2022,
    "arxiv": "2202.06239",
    "chapter": "offline",
    "hyper": "SPOT",
    "parent": "td3",
    "changes": "actions pay for being rare among the data's, by a VAE's estimate",
    "claim": "it beats cloning mixed data; TD3 without the penalty fails on an expert's",
    "check": {
        "on": {
            "experiments/datasets/pendulum-mixed.npz": 6000,
            "experiments/datasets/pendulum-expert.npz": 4000,
        },
        "hyper": {"batch_size": 64},
        "tune": {"lam": [0.02, 0.1, 0.3]},
        "arms": {
            "bc": {"paper": "bc", "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
            "without": {"hyper": {"lam": 0.0, "pretrain": 0}, "tune": {"lr": [3e-4, 1e-3, 3e-3]}},
        },
        "says": [
            "final_return > bc on experiments/datasets/pendulum-mixed.npz",
            "final_return > without on experiments/datasets/pendulum-expert.npz",
        ],
    },
    "battery": {"hyper": {"online": 0.5, "pretrain": 6}},
}


@hyper
class SPOT(OfflineToOnline):
    online: float = 0.0
    lam: float = arg(0.1, "λ, the weight of rare actions against values", "[0, inf)")
    end: float = arg(0.2, "the least share of λ that is left online", "[0, 1]")
    beta: float = arg(0.5, "β of the VAE: four times its actions' variance", "(0, inf)")
    pretrain: int = arg(1000, "gradient steps of the VAE, before all others", "[0, inf)")
    samples: int = arg(0, "L, latents that are weighed by importance; 0: the ELBO", "[0, inf)")
    sigma: float = arg(0.1, "deviation of the exploration's noise, online", "[0, inf)")
    smooth: float = arg(0.2, "σ̃, deviation of the target action's noise", "[0, inf)")
    clip: float = arg(0.5, "c, the most of that noise", "[0, inf)")
    delay: int = arg(2, "d, gradient steps of the critics to one of the actor", "[1, inf)")


def learner(world, network):
    d = actions(world)
    encoder: Any = ActionValue(4 * d, torso(network))
    decoder: Any = ActionValue(d, torso(network))

    def rarity(p, obs, a, key, hp):  # -log μ̂(a|s), [M]
        mean, log_std = jnp.split(encoder.apply(p["encoder"], obs, a), 2, -1)
        log_std = jnp.clip(log_std, -4.0, 15.0)
        noise = jax.random.normal(key, (max(hp.samples, 1), *mean.shape))
        z = mean + jnp.exp(log_std) * noise  # [L, M, 2d]
        u = jnp.tanh(jax.vmap(decoder.apply, (None, None, 0))(p["decoder"], obs, z))
        if hp.samples:
            log_p = norm.logpdf(a, u, jnp.sqrt(hp.beta) / 2).sum(-1)
            log_p += (norm.logpdf(z) - norm.logpdf(noise) + log_std).sum(-1)
            return jnp.log(hp.samples) - jax.nn.logsumexp(log_p, 0)
        kl = (jnp.square(mean) + jnp.exp(2 * log_std) - 1) / 2 - log_std
        return jnp.square(u - a).mean((0, 2)) + hp.beta * kl.mean(-1)

    def actor_loss(a, q, b, params, key, hp):
        size = jnp.abs(jax.lax.stop_gradient(q[0])).mean()
        return -q[0].mean() / size + hp.lam * rarity(params["vae"], b.obs, a, key, hp).mean()

    inner = td3.learner(world, network, actor_loss=actor_loss)

    def init(key, obs, hp):
        z = jnp.zeros((jax.tree.leaves(obs)[0].shape[0], 2 * d))
        k, k_in, k_out = jax.random.split(key, 3)
        vae = dict(encoder=encoder.init(k_in, obs, z[:, :d]), decoder=decoder.init(k_out, obs, z))
        return inner.init(k, obs, hp) | dict(vae=vae)

    def update(params, opt, b, key, t, i, hp):
        def loss(p):
            L = rarity(p, b.obs, b.action, key, hp.replace(samples=0)).mean()
            return L, dict(vae_loss=L, critic_loss=0.0, q=0.0, actor_loss=0.0)

        def learn():
            left = jnp.minimum((hp.horizon - t) / jnp.maximum(hp.online * hp.horizon, 1.0), 1.0)
            now = hp.replace(lam=hp.lam * jnp.maximum(left, hp.end))
            *out, stats = inner.update(params, opt, b, key, t, i, now)
            return *out, stats | dict(vae_loss=0.0)

        return jax.lax.cond(i < hp.pretrain, lambda: fit(params, opt, "vae", loss, hp, t), learn)

    return inner._replace(init=init, opt=optimisers("actor", "critic", "vae"), update=update)


def make(world, network=Network()):
    return offline_to_online(learner(world, network))
