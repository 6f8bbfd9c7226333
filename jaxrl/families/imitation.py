"""The imitation family: an expert's steps, an environment to play in, and no reward.

    algo = imitation(learner, network, loss)

The world is a dataset of the expert (`envs/recorded.py`), which is also the environment that is
played. A discriminator D tells the expert's pairs (s, a) from those of the replay buffer, and what
it says of a pair is the reward of any learner of the off-policy family. The environment's own
rewards are never remembered, nor read in the data: they are counted as returns, and that is all.

Each iteration is a round: every environment takes `num_steps` steps as the learner explores, then
D takes `disc_updates` gradient steps and the learner `updates`.

A terminal is followed, for ever, by one absorbing state (Kostrikov et al. 2018), so that neither a
positive nor a negative reward makes it good or bad to end an episode. It is an input of D of its
own, there as often as terminals are, and its value is the sum γ D / (1 - γ).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.core import Algo, Learner
from jaxrl.families.off_policy import (
    OffPolicy,
    actions,
    blank,
    collect,
    explorer,
    fit,
    n_steps,
    optimisers,
    replay,
    warmup,
)
from jaxrl.families.offline import learn, recorded
from jaxrl.hyper import arg, hyper
from jaxrl.loops import averaged
from jaxrl.networks import MLP, Actor, seen
from jaxrl.policies import Network
from jaxrl.rollout import Stage, begin
from jaxrl.types import Key, Params


@hyper
class Imitation(OffPolicy):
    """What every imitator needs. An iteration is a round of num_envs x num_steps steps."""

    gamma: float = arg(0.99, "discount", "[0, 1)")
    num_steps: int = 25
    updates: int = 100
    disc_lr: float = arg(1e-3, "Adam's step size of the discriminator", "[0, inf)")
    disc_updates: int = arg(100, "gradient steps of the discriminator an iteration", "[1, inf)")
    penalty: float = arg(10.0, "weight of the discriminator's gradient penalty", "[0, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        if self.buffer_size % self.steps_per_iteration:
            a_round = f"num_envs * num_steps = {self.steps_per_iteration}"
            return f"buffer_size: {self.buffer_size} is not a multiple of {a_round}"
        return super().problem()

    @property
    def rounds(self) -> int:
        """How many rounds the buffer holds."""
        return self.buffer_size // self.steps_per_iteration

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        small = super().smallest()
        env = dict(run=dict(env="random/Pendulum-v1"), env_params=dict(rows=24, max_steps=6))
        return small | env | dict(hyper=small["hyper"] | dict(disc_updates=4, disc_lr=0.03))


class State(struct.PyTreeNode):
    params: Params  # the learner's, and the "discriminator"'s
    opt: Any
    key: Key
    stage: Stage
    buffer: Any
    t: jax.Array  # iterations done
    members: Any = ()  # of a `mixture`: the actors of its rounds, [K, ...]


# ---- parts -----------------------------------------------------------------------------------


def inputs(obs: Any, action: jax.Array) -> jax.Array:
    """Pairs as D sees them, [M, n + 1]: the last number is 0."""
    x = jnp.concatenate([seen(obs, critic=True).reshape(len(action), -1), action], -1)
    return jnp.pad(x, ((0, 0), (0, 1)))


def absorbing(x: jax.Array) -> jax.Array:
    """The absorbing state as D sees it, in the shape of an input: zeros, and a 1 at the end."""
    return jnp.zeros_like(x).at[..., -1].set(1.0)


def occupied(b: Any, key: Key) -> tuple[jax.Array, jax.Array]:
    """Inputs [M, n + 1] for rows b, and weights [M]. A terminal weighs 2, and half of the time what
    follows it stands in its place."""
    x = inputs(b.obs, b.action)
    after = b.terminated & jax.random.bernoulli(key, 0.5, b.terminated.shape)
    return jnp.where(after[:, None], absorbing(x), x), 1.0 + b.terminated


def gradient_penalty(D: Callable, x: jax.Array, y: jax.Array, key: Key) -> jax.Array:
    """E[(‖∇D(z)‖ - 1)²] between x and y [M, n], z = u x + (1 - u) y, u uniform. (Gulrajani et al.
    2017, arXiv 1704.00028, eq. 3)"""
    u = jax.random.uniform(key, (len(x), 1))
    g = jax.grad(lambda z: D(z).sum())(u * x + (1 - u) * y)
    return jnp.square(jnp.sqrt(jnp.square(g).sum(-1) + 1e-12) - 1.0).mean()


def aged(buffer: Any, p: jax.Array, key: Key, t: Any, hp: Any) -> Any:
    """Rows [batch_size, ...] of the buffer, each of a round that is drawn by its age: p [K], the
    latest first, of no more than `hp.rounds`. t: the iteration, whose own round is the latest."""
    k_age, k_env, k_step = jax.random.split(key, 3)
    size = (hp.batch_size,)
    age = jax.random.choice(k_age, len(p), size, p=p)
    env = jax.random.randint(k_env, size, 0, hp.num_envs)
    step = jax.random.randint(k_step, size, 0, hp.num_steps)
    at = jnp.mod(t - age, hp.rounds) * hp.num_steps + step
    return jax.tree.map(lambda x: x[env, at], buffer.experience)


def alike(buffer: Any, key: Key, t: Any, hp: Any) -> Any:
    """Rows [batch_size, ...] of the buffer, each as likely as the next."""
    rows = replay(hp).sample(buffer, key).experience
    return jax.tree.map(lambda x: x[:, 0], rows)


# ---- the builders ----------------------------------------------------------------------------


def discriminator(network: Network, loss: Callable, bounded: bool = False) -> tuple:
    """Its `apply(params, x [M, n]) -> [M]`, and `init(key, x)` and `update(params, opt, expert,
    replay, key, t, hp)`, which takes rows of both; else as `imitation` has it."""
    net = Actor(1, partial(MLP, network.hidden, network.activation), bounded)
    apply: Any = net.apply
    D = lambda params, x: apply(params, x)[..., 0]

    def update(params, opt, expert, replayed, key, t, hp):
        k_expert, k_replay, k_between = jax.random.split(key, 3)
        x, weight_x = occupied(expert, k_expert)
        y, weight_y = occupied(replayed, k_replay)

        def of(p):
            of_expert, of_replay = loss(D(p, x), D(p, y))
            error = jnp.average(of_expert, weights=weight_x)
            error += jnp.average(of_replay, weights=weight_y)
            rough = gradient_penalty(partial(D, p), x, y, k_between)
            told = D(p, x).mean() - D(p, y).mean()
            return error + hp.penalty * rough, dict(disc_loss=error, told_apart=told)

        return fit(params, opt, "discriminator", of, hp.replace(lr=hp.disc_lr), t)

    return net.init, D, update


def rewarded(D: Callable, rows: Any, hp: Any) -> Any:
    """Sequences [M, n, ...] of the buffer with what D, a function of inputs, says as rewards; a
    terminal's has the value of the absorbing state with it."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    x = inputs(flat.obs, flat.action)
    after = hp.gamma / (1 - hp.gamma) * D(absorbing(x[:1]))
    reward = D(x) + jnp.where(flat.terminated, after, 0.0)
    return rows.replace(reward=reward.reshape(rows.terminated.shape))


def imitation(
    learner: Learner,
    network: Network,
    loss: Callable,
    *,
    bounded: bool = False,
    replayed: Callable = alike,
) -> Algo:
    """An algorithm that imitates the expert of its world's data.

    Args:
      learner: of the off-policy family.
      network: of which the discriminator has the layers.
      loss: (D [M] of the expert's pairs, D [M] of the replay's) -> a loss of each, [M] and [M].
      bounded: D lies in [-1, 1], by a tanh.
      replayed: (buffer, key, t, hp) -> the replay's rows [M, ...] that D learns from.
    """
    begin_D, D, improve_D = discriminator(network, loss, bounded)

    def play(s, key, t, hp, world):
        stage, rows, metrics = collect(learner, s, key, t, hp, world)
        return stage, rows.replace(reward=None), metrics  # which nobody may learn from

    def init(key, hp, world):
        data = recorded(world)
        actions(world)
        key, k_env, k_learner, k_disc = jax.random.split(key, 4)
        stage = begin(explorer(learner, world, 0, hp), k_env, hp, world)
        params = learner.init(k_learner, stage.obs, hp)
        opt = learner.opt(params, hp)
        first = jax.tree.map(lambda x: x[:1], data)
        own = dict(discriminator=begin_D(k_disc, inputs(first.obs, first.action)))
        opt |= optimisers("discriminator")(own, hp)
        s = State(params | own, opt, key, stage, (), jnp.int32(0))
        rows = jax.eval_shape(lambda: play(s, key, 0, hp, world)[1])
        return s.replace(buffer=replay(hp).init(blank(rows)))

    def tell_apart(s, buffer, key, t, hp, world):
        """The state after the discriminator's steps, and their mean stats."""
        data = recorded(world)

        def one(carry, k):
            k_expert, k_replay, k = jax.random.split(k, 3)
            at = jax.random.randint(k_expert, (hp.batch_size,), 0, len(data.reward))
            expert = jax.tree.map(lambda x: x[at], data)
            *carry, stats = improve_D(*carry, expert, replayed(buffer, k_replay, t, hp), k, t, hp)
            return tuple(carry), stats

        keys = jax.random.split(key, hp.disc_updates)
        (params, opt), stats = averaged(one, (s.params, s.opt), keys)
        return s.replace(params=params, opt=opt), stats

    def step(s, t, hp, world):
        key, k_play, k_disc, k_learn = jax.random.split(s.key, 4)
        stage, rows, metrics = play(s, k_play, t, hp, world)
        buffer = replay(hp).add(s.buffer, rows)

        def improve():
            told, stats = tell_apart(s, buffer, k_disc, t, hp, world)
            d = partial(D, told.params["discriminator"])
            rows = lambda k: replay(hp).sample(buffer, k).experience
            batch = lambda k: n_steps(rewarded(d, rows(k), hp), hp.gamma)
            after, more = learn(learner, batch, told, k_learn, t, hp)
            return after, stats | more

        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(improve)[1])
        wait = lambda: (s.replace(t=s.t + 1), none)
        s, stats = jax.lax.cond(t + 1 >= warmup(hp), improve, wait)
        return s.replace(key=key, stage=stage, buffer=buffer), metrics | stats

    def act(s, obs, memory, key, hp):
        return learner.act(s.params, obs, memory, key, s.t, hp)

    return Algo(init, step, act, learner.memory)


def mixture(algo: Algo, learner: Learner, members: Callable, weights: Callable) -> Algo:
    """It, but what acts is a mixture of the actors that played the last rounds.

    An episode is one member's. Of n episodes played together each member has the share of its
    weight, the oldest the first of them.

    Args:
      learner: without memory, which acts by its "actor" alone.
      members: (hp) -> K, how many there are.
      weights: (t, hp) -> their shares [K] when the round of iteration t is the latest: by age, the
        latest first.
    """

    def init(key, hp, world):
        s = algo.init(key, hp, world)
        none = lambda x: jnp.zeros((members(hp), *x.shape), x.dtype)
        return s.replace(members=jax.tree.map(none, s.params["actor"]))

    def step(s, t, hp, world):
        put = lambda all_, one: all_.at[t % members(hp)].set(one)
        s = s.replace(members=jax.tree.map(put, s.members, s.params["actor"]))
        return algo.step(s, t, hp, world)

    def act(s, obs, memory, key, hp):
        latest = jnp.maximum(s.t - 1, 0)
        oldest_first = jnp.cumsum(weights(latest, hp)[::-1])
        above = jnp.searchsorted(oldest_first, memory)
        age = jnp.maximum(members(hp) - 1 - above, 0)  # the shares' sum is 1 but for the rounding
        actor = jax.tree.map(lambda x: x[jnp.mod(latest - age, members(hp))], s.members)
        one = lambda actor, obs, key: learner.act(
            s.params | dict(actor=actor), jax.tree.map(lambda x: x[None], obs), (), key, s.t, hp
        )[0][0]
        keys = None if key is None else jax.random.split(key, len(memory))
        return jax.vmap(one)(actor, obs, keys), memory

    # where each of n episodes lies in the shares of all
    return Algo(init, step, act, lambda n: (jnp.arange(n) + 0.5) / n)
