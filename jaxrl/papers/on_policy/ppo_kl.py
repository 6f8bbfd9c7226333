"""PPO with an adaptive KL penalty: section 4 of Schulman et al. 2017, arXiv 1707.06347.

Penalised (eq. 8): L = E[ r A - β KL(π_old(.|s) || π(.|s)) ],   r = π(a|s) / π_old(a|s)
After each update, d = E[KL(π_old || π)]:  β <- β/2 if d < d_targ/1.5;  β <- 2β if d > 1.5 d_targ

From PPO's clip it differs in holding the policy near π_old by a price on the distance.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.families.on_policy import OnPolicy, on_policy, sgd
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network, policy_for

PAPER = {
    "slug": "ppo_kl",
    "reference": True,
    "title": "Proximal Policy Optimization Algorithms (adaptive KL penalty)",
    "year": 2017,
    "arxiv": "1707.06347",
    "chapter": "on_policy",
    "hyper": "PPOKL",
    "parent": "ppo",
    "changes": "a price on the KL instead of the clip",
    "claim": "it holds the KL of an update near d_targ; it does worse than the clip",
}

RANGE = 1e-6, 1e6  # of β, so that it stays a number however long d is 0


@hyper
class PPOKL(OnPolicy):
    d_targ: float = arg(0.01, "the KL that an update should cost, in nats", "(0, inf)")
    beta: float = arg(1.0, "the penalty's first weight", "[1e-6, 1e6]")


def penalty(w, b, hp):
    return -(jnp.exp(w.log_ratio) * b.advantage - b.dual * w.kl())  # eq. 8


def adaptive(policy, inner):
    """An update that adapts β, its slot, to what the inner update cost."""

    def update(beta, s, b, t, hp, world):
        _, (new, stats) = inner.apply((), s, b.replace(dual=beta), t, hp, world)
        key, k = jax.random.split(new.key)
        d = policy.judge(new.params, s.params, b, k).kl().mean()
        stats |= dict(kl=d, beta=beta)
        beta = jnp.where(d < hp.d_targ / 1.5, beta / 2, beta)
        beta = jnp.where(d > hp.d_targ * 1.5, beta * 2, beta)
        return jnp.clip(beta, *RANGE), (new.replace(key=key), stats)

    return Part(lambda key, s, hp, world: jnp.float32(hp.beta), update)


def make(world, network=Network()):
    policy = policy_for(world, network)
    inner = sgd(policy, penalty, sequences=network.memory > 0)
    return on_policy(policy, update=adaptive(policy, inner))
