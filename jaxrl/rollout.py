"""Collecting experience: a rollout under any parameters, and what finished on the way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl import normalise
from jaxrl.core import Policy
from jaxrl.returns import along
from jaxrl.types import Batch, Key, Params, bits, is_key, moved, of_bits


class Episodes(struct.PyTreeNode):
    """The running return and length of each environment's episode, [N]."""

    ret: jax.Array  # [N, K] where there are several rewards
    length: jax.Array

    @staticmethod
    def begin(n: int, objectives: tuple[str, ...] = ()) -> "Episodes":
        shape = (n, len(objectives)) if objectives else n
        return Episodes(jnp.zeros(shape), jnp.zeros(n, jnp.int32))


def objectives(world: Any) -> tuple[str, ...]:
    """The names of a world's several rewards, "return" the first; () where a reward is a number."""
    return getattr(world, "objectives", ())


def known(world: Any, name: str) -> Any:
    """What an environment says of itself, through its wrappers; None where it does not."""
    while not hasattr(world, name) and hasattr(world, "env"):
        world = world.env
    return getattr(world, name, None)


def named(world: Any, x: jax.Array) -> dict[str, jax.Array]:
    """Rewards or returns [N], or [N, K], by the objective's name."""
    names = objectives(world)
    return {k: x[..., i] for i, k in enumerate(names)} if names else {"return": x}


def agents(world: Any) -> int:
    """How many rows an episode of a world has: its agents, each a row of its own; mostly 1."""
    return getattr(world, "agents", 1)


def rows(obs: Any) -> int:
    """The N of observations [N, ...]."""
    return jax.tree.leaves(obs)[0].shape[0]


class Stage(struct.PyTreeNode):
    """Where n environments stand between two rollouts, and the moments of what came out of them."""

    env: Any
    obs: Any
    start: jax.Array  # [N] bool: the next step begins an episode
    memory: Any
    episodes: Episodes
    obs_moments: Any = ()  # () where observations are not normalised
    reward_moments: Any = ()  # () where rewards are not scaled
    discounted: Any = ()  # [N] running discounted return, () likewise


def begin(policy: Policy, key: Key, hp: Any, world: Any) -> Stage:
    """Every environment at the start of an episode."""
    env, obs = world.reset(key, hp.num_envs)
    n = rows(obs)
    moments = normalise.moments(jax.tree.map(lambda x: x[0], obs)) if hp.normalise_obs else ()
    scaling = (normalise.moments(jnp.zeros(())), jnp.zeros(n)) if hp.normalise_reward else ((), ())
    start = jnp.ones(n, bool)
    episodes = Episodes.begin(n, objectives(world))
    return Stage(env, obs, start, policy.memory(n), episodes, moments, *scaling)


def see(stage: Stage, obs: Any) -> Any:
    """An observation as the policy sees it, under the moments that the rollout began with."""
    return obs if stage.obs_moments == () else normalise.normalise(stage.obs_moments, obs)


def kept(obs: Any, hp: Any) -> Any:
    """An observation as a rollout keeps it: floats rounded to `hp.storage`, in a family that has
    the choice. Policies act on what is kept: of that are their log-probabilities."""
    if getattr(hp, "storage", "float32") == "float32":
        return obs

    def leaf(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        # the rounding is said as such: a cast there and back XLA may drop, and act on more
        return jax.lax.reduce_precision(x, 8, 7).astype(jnp.bfloat16)

    return jax.tree.map(leaf, obs)


def lean(hp: Any) -> bool:
    """Whether a rollout is to take little memory: nothing else as large as it stands beside it."""
    return getattr(hp, "storage", "float32") != "float32" or getattr(hp, "accumulate", 1) > 1


def draw(world: Any, key: Key, steps: int, n: int) -> Any:
    """What steps of n environments take for keys, [steps, ...]: keys where the world draws none."""
    return world.draw(key, steps, n) if hasattr(world, "draw") else jax.random.split(key, steps)


def by_groups(draw: Callable, key: Key, steps: int, n: int, groups: int) -> Any:
    """draw(key, steps, n) [steps, n, ...], of several groups each with a key of its own: devices
    that take whole groups then draw for these alone."""
    if groups == 1 or is_key(jax.eval_shape(lambda k: draw(k, steps, n), key)):  # keys [steps]
        return draw(key, steps, n)
    each = jax.vmap(lambda k: draw(k, steps, n // groups))(jax.random.split(key, groups))
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(steps, -1, *x.shape[3:])
    return jax.tree.map(join, each)


def flattened(x: jax.Array, groups: int) -> jax.Array:
    """[T, N, ...] as rows [T N, ...], those of a group of environments side by side."""
    T, N, *rest = x.shape
    return jnp.moveaxis(x.reshape(T, groups, N // groups, *rest), 1, 0).reshape(T * N, *rest)


def unflattened(x: jax.Array, groups: int, steps: int) -> jax.Array:
    """What `flattened` was given."""
    own = x.reshape(groups, steps, -1, *x.shape[1:])
    return jnp.moveaxis(own, 0, 1).reshape(steps, -1, *x.shape[1:])


def rollout(
    policy: Policy,
    params: Params,
    stage: Stage,
    key: Key,
    hp: Any,
    world: Any,
    steps: int,
    judge: bool = True,
) -> tuple[Stage, Batch, dict[str, jax.Array]]:
    """`steps` steps of every environment under any parameters: (stage, batch [T, N, ...], metrics).

    Metrics are `episode_return` (and `episode_NAME` of each further objective) and
    `episode_length`, means over the episodes that finished here (NaN if none did: an unfinished
    episode is not a return of 0), and `episodes`, their count.

    judge: find the values; see `unjudged`.
    """

    def one(carry, drawn):
        env, obs, start, memory, ep, total, moments = carry
        noise, chance = drawn
        if little:
            chance = jax.tree.map(lambda x: x[0], chances(chance, 1))
        seen = kept(see(stage, obs), hp)
        action, record, value, memory = policy.act(params, seen, start, memory, noise)
        env, s = world.step(chance, env, action)
        done = s.terminated | s.truncated
        ep = Episodes(ep.ret + s.reward, ep.length + 1)
        ended = [*named(world, ep.ret).values(), ep.length, jnp.ones_like(ep.length)]
        total += jnp.where(done, jnp.stack(ended), 0.0)
        ep = choose(done, jax.tree.map(jnp.zeros_like, ep), ep)
        ahead = kept(see(stage, s.final_obs), hp)
        if judge and remembers:  # the value of s' needs the memory after s
            ahead = policy.act(params, ahead, jnp.zeros_like(done), memory, None)[2]
        seen, ahead = jax.tree.map(bits, (seen, ahead))
        row = dict(obs=seen, action=action, record=record, value=value, next_value=ahead)
        row |= dict(reward=s.reward, terminated=s.terminated, done=done)
        raw = obs if hp.normalise_obs and not little else ()
        if hp.normalise_obs and little:
            moments = normalise.update(moments, obs)
        return (env, s.obs, done, memory, ep, total, moments), (row, raw)

    little = lean(hp)
    remembers = bool(jax.tree.leaves(stage.memory))
    counted = *(objectives(world) or ["return"]), "length", "episodes"
    total = jnp.zeros((len(counted), stage.start.size))  # of each environment's finished episodes
    moments = stage.obs_moments if little else ()
    carry = (stage.env, stage.obs, stage.start, stage.memory, stage.episodes, total, moments)
    key_act, key_env = jax.random.split(key)
    n, groups = stage.start.size, getattr(hp, "groups", 1)
    noise = by_groups(policy.draw, key_act, steps, n, groups)

    def chances(key, steps):
        return by_groups(partial(draw, world), key, steps, n // agents(world), groups)

    later = jax.random.split(key_env, steps) if little else chances(key_env, steps)
    drawn = noise, later
    carry, (each_step, raw) = jax.lax.scan(one, carry, drawn)
    batch = Batch(start=jnp.concatenate([stage.start[None], each_step["done"][:-1]]), **each_step)
    like = jax.eval_shape(lambda s: kept(see(s, s.obs), hp), stage)
    batch = batch.replace(obs=jax.tree.map(of_bits, batch.obs, like))
    if not (judge and remembers):
        batch = batch.replace(next_value=jax.tree.map(of_bits, batch.next_value, like))
    if judge and not remembers:  # one large product instead of T small ones
        look = lambda obs, start: policy.act(params, obs, start, (), None)[2]
        value = batch.value
        if not little:
            each = jax.tree.map(lambda x: flattened(x, groups), (batch.obs, batch.start))
            value = jax.tree.map(lambda x: unflattened(x, groups, steps), look(*each))
        batch = batch.replace(value=value, next_value=ahead_of(look, value, batch))
    none = jax.tree.map(jnp.zeros_like, batch.next_value)
    ahead = choose(batch.terminated, none, batch.next_value)
    batch = batch.replace(next_value=ahead, memory=stage.memory)
    batch = batch.replace(old=batch.record) if judge else batch.replace(value=None)
    env, obs, start, memory, ep, total, moments = carry
    stage = stage.replace(env=env, obs=obs, start=start, memory=memory, episodes=ep)
    if hp.normalise_obs:
        moments = moments if little else normalise.update(stage.obs_moments, raw, 2)
        stage = stage.replace(obs_moments=moments)
    if hp.normalise_reward:
        stage, batch = scale_reward(stage, batch, hp)
    *sums, count = total.sum(1)
    mean = jnp.where(count > 0, jnp.stack(sums) / count, jnp.nan)
    said = {f"episode_{k}": x for k, x in zip(counted, mean)}
    return stage, batch, said | dict(episodes=count)


def ahead_of(look: Callable, value: Any, b: Batch) -> Any:
    """What `look` says of the true next observations, which stand in `next_value`.

    Mostly it is what `value` has a step later. Only the last observations and those of truncated
    steps are looked at, one of each environment at a time: a pass or two. Of a terminal observation
    it says nothing of use.
    """
    own = jax.vmap(lambda x, t: x[t], (1, 0))  # none asks for another's, as x[t, rows] might
    pick = lambda tree, t: moved(lambda x: own(x, t), tree)
    put = jax.vmap(lambda x, t, y: x.at[t].set(y), (1, 0, 0), 1)
    at = lambda t: look(pick(b.next_value, t), b.start[0])

    def one(carry):
        left, out = carry
        t = left.argmax(0)
        new = choose(pick(left, t), at(t), pick(out, t))
        done = jnp.zeros_like(t, bool)
        return put(left, t, done), jax.tree.map(lambda x, y: put(x, t, y), out, new)

    later = jax.tree.map(lambda x: jnp.roll(x, -1, 0), value)
    left = (b.done & ~b.terminated).at[-1].set(True)
    return jax.lax.while_loop(lambda carry: carry[0].any(), one, (left, later))[1]


def choose(flags: jax.Array, one: Any, other: Any) -> Any:
    """Of two trees [*flags.shape, ...] the first where the flag is set, elsewhere the second."""
    return jax.tree.map(lambda x, y: jnp.where(*along(x, flags), x, y), one, other)


def unjudged(*args: Any) -> tuple[Stage, Batch, dict[str, jax.Array]]:
    """A rollout for a buffer: without values, since later parameters have to give them.

    The true next observation stands in `next_value` until `judged` puts V there; zeros of a
    terminal, so that no NaN of diverged physics is remembered.
    """
    return rollout(*args, judge=False)


def judged(policy: Policy, params: Params, b: Batch, key: Key) -> Batch:
    """An `unjudged` batch with the values, and in `old` the record, that these parameters give.
    Without memory."""
    w = policy.judge(params, params, b.replace(old=b.record), key)
    ahead = policy.act(params, b.next_value, b.start, (), None)[2]
    return b.replace(old=w.record, value=w.value, next_value=ahead)


def together(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The episode metrics of several rollouts [n], as those of one that did all their steps."""
    count = metrics["episodes"]
    mean = {k: jnp.nansum(v * count) / count.sum() for k, v in metrics.items()}  # NaN of no episode
    return mean | dict(episodes=count.sum())


def scale_reward(stage: Stage, batch: Batch, hp: Any) -> tuple[Stage, Batch]:
    """Divide rewards by the running standard deviation of the discounted return."""
    carry, returns = normalise.discounted(batch.reward, batch.done, stage.discounted, hp.gamma)
    moments = normalise.update(stage.reward_moments, returns, 2)
    stage = stage.replace(reward_moments=moments, discounted=carry)
    return stage, batch.replace(reward=normalise.scale(moments, batch.reward))


def evaluate(act, memory, world: Any, key: Key, episodes: int, limit: int = 0) -> dict:
    """The return of one complete episode in each of `episodes` environments.

    Args:
      act: (obs, memory, key) -> (action, memory).
      memory: of every row, `episodes` times the world's agents.
      limit: stop after so many steps (0: the world's own time limit, or 10,000).

    Returns per episode, [episodes]: `return` (and each further objective by its name; of several
    agents the mean), `length`, `complete` (False: cut by `limit`).
    """
    limit = limit or world.max_steps or 10_000
    key_reset, key = jax.random.split(key)
    env, obs = world.reset(key_reset, episodes)

    def going(carry):
        return (carry[0] < limit) & ~carry[-1].all()

    def one(carry):
        t, key, env, obs, memory, ep, over = carry
        key, key_act, key_env = jax.random.split(key, 3)
        action, memory = act(obs, memory, key_act)
        env, s = world.step(key_env, env, action)
        gained = choose(over, jnp.zeros_like(s.reward), s.reward)
        ep = Episodes(ep.ret + gained, ep.length + ~over)
        return t + 1, key, env, s.obs, memory, ep, over | s.terminated | s.truncated

    n = rows(obs)
    over, ep = jnp.zeros(n, bool), Episodes.begin(n, objectives(world))
    carry = (jnp.int32(0), key, env, obs, memory, ep, over)
    *_, ep, over = jax.lax.while_loop(going, one, carry)
    team = lambda x: x.reshape(episodes, n // episodes, *x.shape[1:])
    ret = team(ep.ret).mean(1)
    return named(world, ret) | {"length": team(ep.length)[:, 0], "complete": team(over)[:, 0]}
