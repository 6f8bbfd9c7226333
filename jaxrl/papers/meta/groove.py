"""GROOVE. Jackson, Jiang, Parker-Holder, Vuorio, Lu, Farquhar, Whiteson, Foerster 2023 (NeurIPS),
arXiv 2310.02782.

LPG, whose levels are those on which it is still behind: by the algorithmic regret
  AR(level) = return of a policy that A2C trained there - return of one that LPG trained there
of equally long lives. A buffer keeps the levels of highest regret (prioritised level replay): each
pair's level is, with probability `replay`, drawn from it by softmax(AR / temperature), without
replacement, and else new. A level that was lived on is scored by its pair's better member.

From LPG it differs in the levels; at `replay` 0 it is LPG, with a buffer that nobody reads.

Checked: the authors' code (the antagonist, the pair's better member, what is replayed; as its
default it takes the highest scores instead of drawing, and resets the lowest whatever came after).
Not checked: the text, generalisation to MinAtar and Atari, thousands of levels.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.meta import Curriculum, Rule, evolution, fresh_levels
from jaxrl.hyper import arg, hyper
from jaxrl.papers.meta import lpg
from jaxrl.papers.meta.lpg import LPG
from jaxrl.papers.on_policy import a2c
from jaxrl.policies import Network
from jaxrl.rollout import choose as either

PAPER = {
    "slug": "groove",
    "id": 145,
    "title": "Discovering General Reinforcement Learning Algorithms with Adversarial Environment "
    "Design",
    "year": 2023,
    "arxiv": "2310.02782",
    "chapter": "meta",
    "hyper": "GROOVE",
    "parent": "lpg",
    "changes": "it learns on the levels where A2C is still better",
    "claim": "on new levels its rule does better than one from uniform levels, and than none",
    "check": {
        "on": {"levels/grid": 1_638_400},
        "arms": {
            "uniform": {"paper": "lpg"},
            "untrained": {"paper": "lpg", "hyper": {"meta_lr": 0.0}},
        },
        "says": ["last fresh_fitness > untrained", "last fresh_fitness > uniform"],
    },
}

NONE = -1e9  # the regret of a level that nobody lived on: finite, as a run's state has to be


@hyper
class GROOVE(LPG):
    ent_coef: float = 0.01
    buffer: int = arg(64, "levels that are kept", "[1, inf)")
    replay: float = arg(0.5, "probability of a level from the buffer", "[0, 1]")
    temperature: float = arg(0.2, "of the regret, by which they are drawn", "(0, inf)")

    @classmethod
    def smallest(cls):
        small = super().smallest()
        return small | dict(hyper=small["hyper"] | dict(buffer=8, ent_coef=0.3))

    def problem(self) -> str:
        if self.buffer < self.pairs:
            return f"buffer: {self.buffer} is below pairs = {self.pairs}"
        return super().problem()


def begin(key, hp):
    """(levels [buffer, ...], their regrets): none were lived on yet."""
    return fresh_levels(key, hp.buffer), jnp.full(hp.buffer, NONE)


def choose(slot, key, hp):
    levels, regret = slot
    k_new, k_draw, k_replay = jax.random.split(key, 3)
    noise = jax.random.gumbel(k_draw, regret.shape)
    ids = jax.lax.top_k(regret / hp.temperature + noise, hp.pairs)[1]
    known = regret[ids] > NONE
    fresh = ~(known & (jax.random.uniform(k_replay, ids.shape) < hp.replay))
    new = fresh_levels(k_new, hp.pairs)
    return either(fresh, new, jax.tree.map(lambda x: x[ids], levels)), ids, fresh


def keep(slot, levels, ids, fresh, regret):
    """The buffer with replayed levels' new regrets, and of it and new levels the highest."""
    kept, old = slot
    old = old.at[ids].set(jnp.where(fresh, old[ids], regret))
    every = jnp.concatenate([old, jnp.where(fresh, regret, NONE)])
    best = jax.lax.top_k(every, len(old))[1]
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y])[best], kept, levels), every[best]


def tell(slot, levels, ids, fresh, returns, live, key, hp):
    antagonist = lambda world: a2c.make(world, Network(hidden=()))
    keys = jax.random.split(key, hp.pairs)
    best = jax.vmap(lambda level, key: live(antagonist, level, key, hp))(levels, keys)
    regret = best - returns
    slot = keep(slot, levels, ids, fresh, regret)
    high = jnp.where(slot[1] > NONE, slot[1], 0).mean()
    return slot, dict(regret=regret.mean(), kept_regret=high, antagonist=best.mean())


def make(world, network=Network(hidden=())):
    rule = Rule(lpg.init, lpg.agent)
    return evolution(rule, Curriculum(begin, choose, tell), network, world)
