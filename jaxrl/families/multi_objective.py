"""The multi-objective family: a population of policies, and an archive of the best there ever were.

    algo = multi_objective(policy, names, steer)

A world of this family pays K rewards a step. A policy's point G [K] is what it gains in each, the
discounted return of the episodes that it plays by its mode; wanted is a set of policies whose
points are a Pareto front. Each iteration: `steer` says what each of P policies learns for, as
weights of the objectives, and may begin policies anew from the archive; each of them does an
iteration of PPO on the weighted sum of K advantages; they and as many of the archive's, those that
were seen the least, play `eval_episodes` episodes each (not learned from, nor counted as steps);
the archive keeps the best of both.

Acting, each episode has one of the preferences that are spread evenly over the episodes, and is
played by the archive's best policy for it.

Metrics: `episode_return`, the first objective's, and `episode_NAME` of the others, undiscounted,
are means over the training episodes of the whole population, so they follow what is tried, not how
good the set is. That tell `hypervolume`, `expected_utility` over evenly spread preferences,
`sparsity` and `front_size` of the archive's front, and `front_share`, its hypervolume as a share of
the true front's, where the world knows that one. A world's `reference` is the point from which
volumes are measured; 0 where it names none. A point in the archive is the mean of all the episodes
that its policy ever played, so that a lucky one does not stay; yet what is best of many newcomers
was lucky, and in a world of chance these metrics are too high: raise `eval_episodes`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl import normalise, pareto, returns
from jaxrl.core import Algo, Part, Policy
from jaxrl.errors import InputError
from jaxrl.families.on_policy import SMALLEST, OnPolicy, on_policy, standardise, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.optim import adam
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import evaluate, known, objectives, together
from jaxrl.surrogate import clipped
from jaxrl.types import Key, Params

PARTS = {2: 100, 3: 12, 4: 6}  # of the lattices of preferences that a utility is expected over


@hyper
class MultiObjective(OnPolicy):
    """What every method of the family needs. An iteration is population x num_envs x num_steps."""

    num_envs: int = 8
    population: int = arg(6, "P, policies that learn side by side", "[2, inf)")
    archive: int = arg(50, "policies that are kept", "[1, inf)")
    eval_episodes: int = arg(1, "episodes by which a policy is judged each time", "[1, inf)")
    eps: float = arg(0.2, "clip range of the ratio; inf: off", "(0, inf]")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.normalise_reward:
            return "normalise_reward: True: rewards that weights weigh keep their scales"
        if self.archive < self.population:
            return f"archive: {self.archive} is less than population = {self.population}"
        return super().problem()

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments: the same for all."""
        return cls()

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery."""
        world = dict(run=dict(env="multi/deep-sea-treasure"), env_params=dict(max_steps=8))
        few = cls.unless_own(SMALLEST["hyper"]) | dict(num_envs=4, population=2, archive=3)
        return SMALLEST | world | dict(hyper=few)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that one iteration trains on."""
        return self.population * self.num_envs * self.num_steps


class Archive(struct.PyTreeNode):
    """Policies, and the points that they were seen to reach."""

    players: Any  # [A, ...] parameters, and the moments that observations are normalised by
    points: jax.Array  # [A, K] G, the mean of all the episodes that it played
    episodes: jax.Array  # [A] their number; 0: there is none yet
    used: jax.Array  # [A] bool: a policy has been begun from it


class State(struct.PyTreeNode):
    population: Any  # [P, ...] states of `on_policy`
    points: jax.Array  # [P, K] G of the population, as last seen
    archive: Archive
    slot: Any  # the steer's
    key: Key

    @property
    def params(self) -> Params:
        return self.population.params


@struct.dataclass
class Discounted:
    """A world whose rewards are discounted from its reset on: for the first episodes only."""

    world: Any
    gamma: Any

    @property
    def max_steps(self) -> int:
        return self.world.max_steps

    @property
    def objectives(self) -> tuple[str, ...]:
        return objectives(self.world)

    def reset(self, key, n):
        state, obs = self.world.reset(key, n)
        return (state, jnp.float32(1.0)), obs

    def step(self, key, state, action):
        inner, weight = state
        inner, s = self.world.step(key, inner, action)
        return (inner, weight * self.gamma), s._replace(reward=weight * s.reward)


def front(archive: Archive) -> jax.Array:
    """Which of its policies are on its front, [A] bool."""
    return pareto.on_front(archive.points, archive.episodes > 0)


def seen_least(archive: Archive, n: int) -> jax.Array:
    """The n of its policies that played the fewest episodes, [n]; empty places come last."""
    return jnp.argsort(jnp.where(archive.episodes > 0, archive.episodes, jnp.inf))[:n]


def seen_again(archive: Archive, i: jax.Array, points: jax.Array, episodes: int) -> Archive:
    """The archive after its policies i [n] played so many episodes more, with means [n, K]."""
    before = archive.episodes[i]
    count = before + jnp.where(before > 0, float(episodes), 0.0)
    share = (episodes / jnp.maximum(count, 1.0))[:, None]
    mean = archive.points[i] + share * (points - archive.points[i])  # of one value, to the bit
    return archive.replace(
        points=archive.points.at[i].set(mean), episodes=archive.episodes.at[i].set(count)
    )


def admit(archive: Archive, players: Any, points: jax.Array, episodes: int) -> Archive:
    """The best of the archive and of newcomers [P, ...], who played so many episodes: those that
    the fewest dominate, the front first, and of it those in the sparsest places."""
    n = len(points)
    new = Archive(players, points, jnp.full(n, float(episodes)), jnp.zeros(n, bool))
    both = jax.tree.map(lambda *x: jnp.concatenate(x), archive, new)
    sound = jnp.isfinite(both.points).all(-1)
    both = both.replace(
        points=jnp.where(sound[:, None], both.points, 0.0),
        episodes=jnp.where(sound, both.episodes, 0.0),
    )
    rank = pareto.dominators(both.points, both.episodes > 0)
    crowding = pareto.crowding_distance(both.points, rank == 0)
    best = jnp.lexsort((-crowding, rank))[: len(archive.points)]
    return jax.tree.map(lambda x: x[best], both)


def weighted(s: Any, b: Any, t: jax.Array, hp: Any, world: Any) -> Any:
    """The advantages in each objective, summed by the weights [K] in `b.dual`; targets of each."""
    A = returns.gae(b.reward, b.value, b.next_value, b.terminated, b.done, hp.gamma, hp.lam)
    total = A @ b.dual
    advantage = standardise(total) if hp.normalise_advantage else total
    return b.replace(advantage=advantage, target=A + b.value)


def clip(w: Any, b: Any, hp: Any) -> jax.Array:
    """PPO's surrogate."""
    return -clipped(jnp.exp(w.log_ratio), b.advantage, hp.eps)


def begun_from(s: State, pick: jax.Array, hp: Any) -> State:
    """The population begun anew from the archive's policies `pick` [P], with fresh optimisers."""
    params, moments = jax.tree.map(lambda x: x[pick], s.archive.players)
    stage = s.population.stage.replace(obs_moments=moments)
    population = s.population.replace(
        params=params, opt=jax.vmap(adam(hp).init)(params), stage=stage
    )
    archive = s.archive.replace(used=s.archive.used.at[pick].set(True))
    return s.replace(population=population, points=archive.points[pick], archive=archive)


# ---- the builder -----------------------------------------------------------------------------


def multi_objective(
    policy: Policy,
    names: tuple[str, ...],
    steer: Part,
    *,
    surrogate: Callable = clip,
    sequences: bool = False,
) -> Algo:
    """An algorithm from a policy and what its paper changes.

    Args:
      policy: with a value for each objective.
      names: the world's objectives.
      steer: (slot, state, None, t, hp, world) -> (slot, (state, weights [P, K])).
      surrogate: (View, Batch, hp) -> loss per sample.
      sequences: minibatches of whole sequences instead of rows; recurrent networks need them.
    """
    K = len(names)
    dual = Part(lambda *_: jnp.zeros(K), lambda slot, *_: (slot, slot))
    inner = on_policy(
        policy, surrogate, dual=dual, advantage=stateless(weighted), sequences=sequences
    )

    def play(player, obs, memory, key):
        params, moments = player
        obs = obs if moments == () else normalise.normalise(moments, obs)
        start = jnp.zeros(jax.tree.leaves(obs)[0].shape[0], bool)
        action, _, _, memory = policy.act(params, obs, start, memory, key)
        return action, memory

    def points(players, key, hp, world):
        """G of each of Q policies, [Q, K]."""
        n = hp.eval_episodes

        def one(player, key):
            act = lambda obs, memory, key: play(player, obs, memory, None)
            got = evaluate(act, policy.memory(n), Discounted(world, hp.gamma), key, n)
            return jnp.stack([got[k].mean() for k in names])

        return jax.vmap(one)(players, jax.random.split(key, len(jax.tree.leaves(players)[0])))

    def init(key, hp, world):
        key, k_steer, *keys = jax.random.split(key, 2 + hp.population)
        population = jax.vmap(inner.init, (0, None, None))(jnp.stack(keys), hp, world)
        A, P = hp.archive, hp.population
        players = (population.params, population.stage.obs_moments)
        players = jax.tree.map(lambda x: x[jnp.arange(A) % P], players)
        archive = Archive(players, jnp.zeros((A, K)), jnp.zeros(A), jnp.zeros(A, bool))
        s = State(population, jnp.zeros((P, K)), archive, (), key)
        return s.replace(slot=steer.init(k_steer, s, hp, world))

    def step(s, t, hp, world):
        key, k = jax.random.split(s.key)
        slot, (s, weights) = steer.apply(s.slot, s, None, t, hp, world)
        population = s.population.replace(slots=s.population.slots | dict(dual=weights))
        each = jax.vmap(inner.step, (0, None, None, None))
        population, stats = each(population, t, hp, world)
        players = (population.params, population.stage.obs_moments)

        again = seen_least(s.archive, hp.population)
        both = jax.tree.map(lambda x, y: jnp.concatenate([x[again], y]), s.archive.players, players)
        old, new = jnp.split(points(both, k, hp, world), 2)
        archive = seen_again(s.archive, again, old, hp.eval_episodes)
        archive = admit(archive, players, new, hp.eval_episodes)
        s = State(population, new, archive, slot, key)
        episodes = {k: stats.pop(k) for k in list(stats) if k.startswith("episode")}
        stats = {k: v.mean() for k, v in stats.items()}
        return s, together(episodes) | stats | quality(archive, hp, world)

    def quality(archive, hp, world):
        mask = front(archive)
        origin = known(world, "reference")
        origin = jnp.zeros(K) if origin is None else jnp.asarray(origin)
        preferences = jnp.asarray(pareto.lattice(K, PARTS.get(K, 4)))
        out = dict(
            hypervolume=pareto.hypervolume(archive.points, mask, origin),
            expected_utility=pareto.expected_utility(archive.points, mask, preferences),
            sparsity=pareto.sparsity(archive.points, mask),
            front_size=mask.sum().astype(jnp.float32),
        )
        if true := known(world, "front"):
            best = true(hp.gamma)
            most = pareto.hypervolume(best, jnp.ones(len(best), bool), origin)
            out["front_share"] = out["hypervolume"] / most
        return out

    def act(s, obs, memory, key, hp):
        preference, inside = memory
        worth = jnp.where(s.archive.episodes > 0, preference @ s.archive.points.T, -jnp.inf)
        player = jax.tree.map(lambda x: x[worth.argmax(1)], s.archive.players)
        one = jax.tree.map(lambda x: x[:, None], (obs, inside))  # a policy for each episode
        keys = None if key is None else jax.random.split(key, len(preference))
        action, inside = jax.tree.map(lambda x: x[:, 0], jax.vmap(play)(player, *one, keys))
        return action, (preference, inside)

    def memory(n):
        return jnp.asarray(pareto.spread(K, n), jnp.float32), policy.memory(n)

    return Algo(init, step, act, memory)


def make_with(steer: Part) -> Callable:
    """The `make` of a paper that takes any network and steers so."""

    def make(world: Any, network: Network = Network()) -> Algo:
        names = objectives(world)
        if not names:
            raise InputError(f"env: {world.name} has one reward; this method needs several")
        policy = policy_for(world, network, len(names))
        return multi_objective(policy, names, steer, sequences=network.memory > 0)

    return make
