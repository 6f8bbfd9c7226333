"""DPO: decentralised policy optimisation. Su, Lu 2022 (TMLR 2024), arXiv 2211.03032.

Each agent i of a team, with networks of its own, maximises a bound that needs nothing of the others
  E[ rᵢ Aᵢ ] - β₁ᵢ E[ √KL(πᵢ_old || πᵢ) ] - β₂ᵢ E[ KL(πᵢ_old || πᵢ) ]
and if all do, the joint policy's return does not fall, for weights that are large enough. In
practice both adapt, as PPO's penalty does: β doubles where its term is over 1.5 d, and halves where
it is under d / 1.5, with d for the KL and √d for its root.

From IPPO it differs in the two penalties, where IPPO clips, and in separate networks.

Checked against a code of the authors' method (the loss, the rule for β, their limits); there the
root is of each action's term of the KL, as here it is of the KL. Not checked: the text's numbers.
"""

import jax
import jax.numpy as jnp

from jaxrl.core import Part
from jaxrl.families.multi_agent import Teams, separate, team, which
from jaxrl.families.on_policy import on_policy, sgd
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "decentralized_po",
    "id": 112,
    "title": "Decentralized Policy Optimization",
    "year": 2022,
    "arxiv": "2211.03032",
    "chapter": "multi_agent",
    "hyper": "DPO",
    "parent": "ippo",
    "changes": "penalties by the KL and by its root instead of a clip, for each agent",
    "claim": "it does as well as IPPO with networks of its own, or better",
    "check": {
        "on": {"agents/spread": 100_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {"ippo": {"paper": "ippo"}},
        "says": ["final_return > ippo - 2.0"],
    },
}

TINY = 1e-8  # under the root, whose slope at 0 has no end
RANGE = 1e-3, 1e3  # of β


@hyper
class DPO(Teams):
    d_targ: float = arg(0.01, "d, the KL that an update should cost, in nats", "(0, inf)")
    beta_root: float = arg(1.0, "β₁ at first, of the root of the KL", "[1e-3, 1e3]")
    beta: float = arg(1.0, "β₂ at first, of the KL", "[1e-3, 1e3]")


def root(kl):
    return jnp.sqrt(jnp.maximum(kl, 0.0) + TINY)


def penalties(w, b, hp):
    mine, kl = b.dual[:, which(b.obs)], w.kl()
    return mine[0] * root(kl) + mine[1] * kl - jnp.exp(w.log_ratio) * b.advantage


def adaptive(policy, n):
    """An update with weights [2, agents], its slot, of the root of the KL and of the KL."""
    inner = sgd(policy, penalties)

    def update(beta, s, b, t, hp, world):
        _, (new, stats) = inner.apply((), s, b.replace(dual=beta), t, hp, world)
        key, k = jax.random.split(new.key)
        kl = policy.judge(new.params, s.params, b, k).kl()
        share = jax.nn.one_hot(which(b.obs), n) / (kl.size / n)  # [T, N, n]: each agent's mean
        cost = jnp.stack([jnp.einsum("tn,tni->i", x, share) for x in (root(kl), kl)])
        stats |= dict(kl=cost[1].mean(), beta_root=beta[0].mean(), beta=beta[1].mean())
        goal = jnp.stack([jnp.sqrt(hp.d_targ), hp.d_targ])[:, None]
        beta = jnp.where(cost < goal / 1.5, beta / 2, jnp.where(cost > goal * 1.5, beta * 2, beta))
        return jnp.clip(beta, *RANGE), (new.replace(key=key), stats)

    first = lambda key, s, hp, world: jnp.outer(jnp.stack([hp.beta_root, hp.beta]), jnp.ones(n))
    return Part(first, update)


def make(world, network=Network()):
    policy = separate(world, network)
    return on_policy(policy, update=adaptive(policy, team(world)))
