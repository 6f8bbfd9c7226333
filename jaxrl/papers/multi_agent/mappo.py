"""MAPPO. Yu, Velu, Vinitsky, Gao, Wang, Bayen, Wu 2022 (NeurIPS), arXiv 2103.01955.

PPO for a team whose critic sees the state of all, where its actors see what they can:
  J(θ) = E[ min(r A, clip(r, 1-ε, 1+ε) A) ] + σ E[ H(π(.|o)) ],   over all agents' steps
  L(φ) = E[ max( h(V(s) - R), h(clip(V(s), V_old ± ε) - R) ) ],   h Huber's loss, up to δ
and, of its five suggestions: targets are normalised by their running mean and deviation, and what
the critic says is in that scale; the critic sees the agent's observation beside the state; few
epochs, one minibatch, ε at most 0.2.

From IPPO it differs in what the critic sees, and in these.

Checked against the released code (value loss, its clip by ε, the normaliser: there one that forgets
at 10⁻⁵ an update, here one that does not). Left out: masks of agents that died (ours don't).
"""

import jax.numpy as jnp

from jaxrl import normalise
from jaxrl.core import Part
from jaxrl.critics import huber
from jaxrl.families.multi_agent import Teams, team
from jaxrl.families.on_policy import gae, make_with
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.policies import Network

PAPER = {
    "slug": "mappo",
    "id": 6,
    "title": "The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games",
    "year": 2022,
    "arxiv": "2103.01955",
    "chapter": "multi_agent",
    "hyper": "MAPPO",
    "parent": "ippo",
    "changes": "a critic that sees the state of all, and normalised values",
    "claim": "it does as well as IPPO or better; normalised values and few epochs help",
    "check": {
        "on": {"agents/spread": 100_000},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {
            "ippo": {"paper": "ippo"},
            "raw": {"hyper": {"value_norm": False}},
            "greedy": {"hyper": {"epochs": 30}},
        },
        "says": ["final_return > ippo - 2.0", "final_return > raw - 2.0", "final_return > greedy"],
    },
    "battery": {"hyper": {"delta": 0.1}},
}


@hyper
class MAPPO(Teams):
    eps: float = arg(0.2, "clip range of the ratio, and of the critic's change", "(0, inf]")
    delta: float = arg(10.0, "δ, up to which the critic's loss is a square", "(0, inf)")
    value_norm: bool = arg(True, "the critic speaks of normalised values")


def value_loss(w, b, hp):
    near = b.value + jnp.clip(w.value - b.value, -hp.eps, hp.eps)
    loss = lambda v: jnp.square(hp.delta) * huber((v - b.target) / hp.delta)
    return jnp.maximum(loss(w.value), loss(near))


def normalised_gae(m, s, b, t, hp, world):
    """GAE of values in the rewards' scale, targets in the critic's; m, the slot, has moments."""
    if not hp.value_norm:
        return m, gae(s, b, t, hp, world)
    scale = jnp.sqrt(m.var + normalise.EPS)
    meant = lambda v: v * scale + m.mean
    real = gae(s, b.replace(value=meant(b.value), next_value=meant(b.next_value)), t, hp, world)
    m = normalise.update(m, real.target, 2)
    target = normalise.normalise(m, real.target, jnp.inf)
    return m, b.replace(advantage=real.advantage, target=target)


def make(world, network=Network()):
    team(world)
    advantage = Part(lambda *_: normalise.moments(jnp.zeros(())), normalised_gae)
    build = make_with(clip, advantage=advantage, value_loss=value_loss)
    return build(world, network)
