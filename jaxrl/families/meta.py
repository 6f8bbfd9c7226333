"""The meta family: a rule of learning that is evolved, by whole training runs under it.

    algo = evolution(rule, curriculum, network, world)

A `Rule` makes an algorithm of its parameters φ. An iteration is a generation of evolution
strategies: a curriculum gives a level to each pair of members φ ± σe, each of which trains a policy
there from nothing; who of a pair is better decides which way e counts. The world given plays no
part in this: each generation also trains a policy in it under φ, from nothing, and `act` plays that
one. So what is evaluated is what the rule makes of a world that it was not evolved on.

Pairs share their level and their luck, as in the code of "Discovering General Reinforcement
Learning Algorithms with Adversarial Environment Design" by Jackson et al. 2023, arXiv 2310.02782.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree

from envs.base import AutoReset, TimeLimit
from envs.levels import draw
from jaxrl.core import Algo, train
from jaxrl.families.on_policy import OnPolicy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network
from jaxrl.rollout import together
from jaxrl.types import Key


@hyper
class Meta(OnPolicy):
    """What every rule's evolution needs; the rest is of the policies that are trained."""

    lr: float = 0.05
    num_envs: int = 4
    num_steps: int = 20
    epochs: int = 1
    minibatches: int = 1
    max_grad_norm: float = 1.0
    pairs: int = arg(16, "pairs of members a generation, each with a level", "[1, inf)")
    inner: int = arg(16, "iterations of a training run", "[1, inf)")
    sigma: float = arg(0.1, "σ, how far members are from the mean", "[0, inf)")
    meta_lr: float = arg(0.03, "Adam's step size on the rule", "[0, inf)")

    @classmethod
    def for_env(cls, kind: str) -> Any:
        return cls()  # a rule is for all

    @staticmethod
    def network_for(kind: str) -> Network:
        return Network(hidden=()) if kind in ("levels", "tabular", "rooms") else Network()

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        tiny = dict(num_envs=4, num_steps=20, pairs=4, inner=4, lr=0.3, max_grad_norm=0.01)
        run, network = dict(env="levels/grid"), dict(hidden=())
        return dict(run=run, env_params=dict(max_steps=5), network=network, hyper=tiny)

    @property
    def steps_per_iteration(self) -> int:
        """Of members; what a curriculum trains for itself, and the world's own run, not counted."""
        return 2 * self.pairs * self.inner * super().steps_per_iteration


class Rule(NamedTuple):
    init: Callable[..., Any]  # key -> φ
    agent: Callable[..., Algo]  # (φ, world, network) -> an algorithm, hp being the outer one's


class Curriculum(NamedTuple):
    """Which levels the members of a generation live on. A slot of the state is its own."""

    init: Callable[..., Any]  # (key, hp) -> slot
    choose: Callable[..., tuple]  # (slot, key, hp) -> (slots' levels [pairs, ...], ids, fresh)
    # (slot, levels, ids, fresh, returns [pairs], live, key, hp) -> (slot, metrics)
    tell: Callable[..., tuple]


class State(struct.PyTreeNode):
    phi: jax.Array  # [n], the rule's parameters
    opt: Any
    levels: Any  # the curriculum's slot
    agent: Any  # the state of a policy trained in the world given
    key: Key


def fresh_levels(key: Key, n: int) -> Any:
    """Levels [n, ...] from the generator."""
    return jax.vmap(draw)(jax.random.split(key, n))


def world_of(level: Any) -> AutoReset:
    return AutoReset(TimeLimit(level, 20))


def late(metrics: dict, n: int) -> jax.Array:
    """The return of the episodes in the last quarter of a run of n iterations; 0 of none."""
    m = {k: metrics[k][-max(1, n // 4) :] for k in ("episode_return", "episodes")}
    return jnp.nan_to_num(together(m)["episode_return"])


def uniform() -> Curriculum:
    """New levels each time."""

    def choose(slot, key, hp):
        none = jnp.zeros(hp.pairs, jnp.int32)
        return fresh_levels(key, hp.pairs), none, jnp.ones(hp.pairs, bool)

    return Curriculum(lambda key, hp: (), choose, lambda slot, *_: (slot, {}))


def evolution(rule: Rule, curriculum: Curriculum, network: Network, world: Any) -> Algo:
    """An algorithm whose state is the rule's parameters and a policy that they trained."""
    unravel = ravel_pytree(rule.init(jax.random.key(0)))[1]
    here = lambda phi: rule.agent(unravel(phi), world, network)

    def init(key, hp, world):
        key, k_phi, k_levels, k_agent = jax.random.split(key, 4)
        phi = ravel_pytree(rule.init(k_phi))[0]
        agent = here(phi).init(k_agent, hp, world)
        opt = optax.adam(hp.meta_lr).init(phi)
        return State(phi, opt, curriculum.init(k_levels, hp), agent, key)

    def live(agent, level, key, hp):
        """The late return of a policy trained on a level, from nothing."""
        place = world_of(level)
        return late(train(agent(place), key, hp, place, hp.inner)[1], hp.inner)

    def step(s, t, hp, world):
        key, k_choose, k_noise, k_live, k_tell, k_here = jax.random.split(s.key, 6)
        levels, ids, fresh = curriculum.choose(s.levels, k_choose, hp)
        e = jax.random.normal(k_noise, (hp.pairs, s.phi.size))
        members = s.phi + hp.sigma * jnp.stack([e, -e])

        def member(phi, level, key):
            return live(lambda w: rule.agent(unravel(phi), w, Network(hidden=())), level, key, hp)

        keys = jax.random.split(k_live, hp.pairs)
        F = jax.vmap(jax.vmap(member), (0, None, None))(members, levels, keys)
        better = jnp.sign(F[0] - F[1]) / 2
        ascent = (better[:, None] * e).mean(0) / jnp.maximum(hp.sigma, 1e-8)
        updates, opt = optax.adam(hp.meta_lr).update(-ascent, s.opt)
        phi = s.phi + updates
        args = s.levels, levels, ids, fresh, F.max(0), live, k_tell, hp
        slot, said = curriculum.tell(*args)
        agent, m = train(here(phi), k_here, hp, world, hp.inner)
        metrics = together({k: v for k, v in m.items() if k.startswith("episode")})
        new = jnp.where(fresh, F.mean(0), 0).sum() / jnp.maximum(fresh.sum(), 1)
        metrics |= dict(fitness=F.mean(), fresh_fitness=new) | said
        return State(phi, opt, slot, agent, key), metrics

    def act(s, obs, memory, key, hp):
        return here(s.phi).act(s.agent, obs, memory, key, hp)

    return Algo(init, step, act)
