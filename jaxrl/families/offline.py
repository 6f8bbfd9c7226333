"""The offline family: learn from what was recorded, and play only to be evaluated.

    algo = offline(learner)
    algo = offline_to_online(learner)    # which goes on with steps of its own

An iteration is `updates` gradient steps, each on a batch that is drawn with replacement from the
world's `data` (`envs/recorded.py`); these are the steps that a run counts. A `Learner`
(`jaxrl/core.py`) is all that papers differ in; it also learns online. Observations are normalised
by the data's mean and deviation, once and for all, for learning and for acting.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl import normalise
from jaxrl.core import Algo, Learner
from jaxrl.errors import InputError
from jaxrl.families.off_policy import OffPolicy, explorer, n_steps, plain, replay, warmup
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged
from jaxrl.rollout import Stage, begin, unjudged
from jaxrl.types import Key, Params, Transitions

EPS = 1e-3  # added to deviations, so that what hardly varies in the data stays small in play


@hyper
class Offline:
    """What every offline method needs. An iteration is `updates` steps."""

    lr: float | Linear = arg(1e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    gamma: float = arg(0.99, "discount", "[0, 1]")
    tau: float = arg(0.005, "how far targets move to the parameters at an update", "[0, 1]")
    max_grad_norm: float = arg(jnp.inf, "clip the gradient's global norm; inf: off", "(0, inf]")
    batch_size: int = arg(128, "transitions of a gradient step", "[2, inf)")
    updates: int = arg(100, "gradient steps an iteration", "[1, inf)")
    normalise_obs: bool = arg(True, "shift and scale observations to the data's mean and deviation")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    normalise_reward = False  # for `rollout`

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments (`envs.kind`)."""
        return cls(**PRESETS.get(kind, {}))

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        return dict(
            run=dict(env="random/Pendulum-v1"),
            env_params=dict(rows=24, max_steps=6),
            network=dict(hidden=(8,)),
            hyper=dict(updates=4, batch_size=8, lr=0.03, max_grad_norm=1.0),
        )

    network_for = staticmethod(OffPolicy.network_for)

    @property
    def steps_per_iteration(self) -> int:
        """Gradient steps that one iteration takes."""
        return self.updates


@hyper
class OfflineToOnline(Offline):
    """What methods need that go on online: then an iteration also plays."""

    online: float = arg(
        0.5, "share of the run, its last, in which environments are played", "[0, 1]"
    )
    num_envs: int = arg(4, "environments stepped side by side", "[1, inf)")
    num_steps: int = arg(25, "steps of each environment an iteration", "[1, inf)")
    buffer_size: int = arg(100_000, "transitions that are remembered", "[1, inf)")
    learning_starts: int = arg(1000, "steps played before they are half of each batch", "[1, inf)")

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        rows, least = divmod(self.buffer_size, self.num_envs)[0], max(self.num_steps, 2)
        if rows < least or self.buffer_size % self.num_envs:
            times = f"num_envs = {self.num_envs} times {least} steps or more"
            return f"buffer_size: {self.buffer_size} is not {times}"
        if self.learning_starts < (need := 2 * self.num_envs):
            return f"learning_starts: {self.learning_starts} is below 2 * num_envs = {need}"
        return ""

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        small = super().smallest()
        own = dict(num_envs=2, num_steps=4, buffer_size=32, learning_starts=8)
        return small | dict(hyper=small["hyper"] | own)


# One default per class of environment, for every paper of the family; none per environment.
PRESETS: dict[str, dict[str, Any]] = dict.fromkeys(
    ("brax", "playground"), dict(batch_size=256, lr=3e-4)
)


class State(struct.PyTreeNode):
    params: Params
    opt: Any
    key: Key
    moments: Any  # of the data's observations; () where they are not normalised
    t: jax.Array  # iterations done: how far exploration is
    stage: Stage | tuple = ()  # where play stands, and what it gave: of `offline_to_online` alone
    buffer: Any = ()


# ---- parts -----------------------------------------------------------------------------------


def recorded(world: Any) -> Any:
    """The transitions of a world, through whatever is around it. InputError where it has none."""
    inner = world
    while not hasattr(inner, "data"):
        if not hasattr(inner, "env"):
            how = "--env FILE.npz names a dataset, random/ENV makes one"
            raise InputError(f"env: {world.name} has no recorded data; {how}")
        inner = inner.env
    plain(world)
    return inner.data


def moments(obs: Any) -> normalise.Moments:
    """Of the data's observations [M, ...], so that normalising is (s - μ) / (σ + ε)."""
    m = normalise.update(normalise.moments(jax.tree.map(lambda x: x[0], obs)), obs)
    wider = lambda var: jnp.square(jnp.sqrt(var) + EPS)
    return m.replace(var=jax.tree.map(wider, m.var))


def see(m: Any, obs: Any) -> Any:
    """An observation as the learner sees it."""
    return obs if m == () else normalise.normalise(m, obs, math.inf)


def seeing(learner: Learner, m: Any) -> Learner:
    """A learner that acts on observations as they are."""
    act = lambda params, obs, *rest: learner.act(params, see(m, obs), *rest)
    return learner._replace(act=act)


def drawn(data: Any, m: Any, key: Key, size: int, hp: Any) -> Transitions:
    """So many transitions of the data, uniformly and with replacement."""
    at = jax.random.randint(key, (size,), 0, data.reward.shape[0])
    b = jax.tree.map(lambda x: x[at], data)
    discount = jnp.where(b.terminated, 0.0, hp.gamma)
    return Transitions(
        see(m, b.obs), b.action, b.reward, discount, see(m, b.next_obs), b.next_action
    )


def learn(learner: Learner, batch: Callable, s: State, key: Key, t: Any, hp: Any) -> tuple:
    """`updates` gradient steps on batch(key): the state after them, and the mean stats."""

    def one(carry, x):
        j, k = x
        k_draw, k = jax.random.split(k)
        *carry, stats = learner.update(*carry, batch(k_draw), k, t, t * hp.updates + j, hp)
        return tuple(carry), stats

    each = jnp.arange(hp.updates), jax.random.split(key, hp.updates)
    (params, opt), stats = averaged(one, (s.params, s.opt), each)
    return s.replace(params=params, opt=opt, t=s.t + 1), stats


# ---- the builders ----------------------------------------------------------------------------


def offline(learner: Learner) -> Algo:
    """An algorithm from a learner, which never plays while it learns."""

    def init(key, hp, world):
        data = recorded(world)
        key, k = jax.random.split(key)
        m = moments(data.obs) if hp.normalise_obs else ()
        params = learner.init(k, see(m, jax.tree.map(lambda x: x[:1], data.obs)), hp)
        return State(params, learner.opt(params, hp), key, m, jnp.int32(0))

    def step(s, t, hp, world):
        key, k = jax.random.split(s.key)
        batch = lambda k: drawn(recorded(world), s.moments, k, hp.batch_size, hp)
        s, stats = learn(learner, batch, s, k, t, hp)
        none = dict(episode_return=jnp.float32(jnp.nan), episodes=jnp.float32(0))
        return s.replace(key=key), none | stats

    def act(s, obs, memory, key, hp):
        return seeing(learner, s.moments).act(s.params, obs, memory, key, s.t, hp)

    return Algo(init, step, act, learner.memory)


def offline_to_online(learner: Learner) -> Algo:
    """The same until the last `online` of the run, in which each iteration also plays.

    What is played goes to a buffer, and half of each batch is drawn from it, half from the data
    (symmetric sampling: Ball et al. 2023, arXiv 2302.02948).
    """
    alone = offline(learner)

    def policy(s, t, hp, world):
        return explorer(seeing(learner, s.moments), world, t, hp.replace(learning_starts=0))

    def buffer_of(hp):
        """Its samples are pairs of steps, the second for its action."""
        sizes = dict(num_envs=hp.num_envs, buffer_size=hp.buffer_size)
        return replay(SimpleNamespace(**sizes, batch_size=hp.batch_size // 2, n_step=2))

    def collect(s, key, t, hp, world):
        """The stage after an iteration's steps, rows [N, T] for the buffer, and metrics."""
        raw = hp.replace(normalise_obs=False)
        args = policy(s, t, hp, world), s.params, s.stage, key, raw, world, hp.num_steps
        stage, b, metrics = unjudged(*args)
        b = b.replace(start=None, record=(), memory=())
        return stage, jax.tree.map(lambda x: x.swapaxes(0, 1), b), metrics

    def played(buffer, m, key, hp):
        """Half a batch of what was played."""
        pair = buffer_of(hp).sample(buffer, key).experience
        first = lambda tree: jax.tree.map(lambda x: x[:, :1], tree)
        b = n_steps(first(pair), hp.gamma)
        over = pair.done[:, 0].reshape(-1, *(1,) * (b.action.ndim - 1))
        ahead = jnp.where(over, pair.action[:, 0], pair.action[:, 1])
        return b.replace(obs=see(m, b.obs), next_obs=see(m, b.next_obs), next_action=ahead)

    def init(key, hp, world):
        key, k = jax.random.split(key)
        s = alone.init(key, hp, world)
        stage = begin(policy(s, 0, hp, world), k, hp.replace(normalise_obs=False), world)
        s = s.replace(stage=stage)
        rows = jax.eval_shape(lambda: collect(s, key, 0, hp, world)[1])
        row = jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), rows)
        return s.replace(buffer=buffer_of(hp).init(row))

    def step(s, t, hp, world):
        key, k_collect, k_learn = jax.random.split(s.key, 3)
        since = t - jnp.round((1 - hp.online) * hp.horizon)  # iterations with play before this one

        def play():
            stage, rows, metrics = collect(s, k_collect, t, hp, world)
            return stage, buffer_of(hp).add(s.buffer, rows), metrics

        def wait():
            none = jax.tree.map(
                lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(play)[2]
            )
            return s.stage, s.buffer, none | dict(episodes=jnp.zeros_like(none["episodes"]))

        stage, buffer, metrics = jax.lax.cond(since >= 0, play, wait)
        ready = since + 1 >= warmup(hp)

        def batch(k):
            k_data, k_half = jax.random.split(k)
            data, half = recorded(world), hp.batch_size // 2
            recent = lambda: played(buffer, s.moments, k_half, hp)
            instead = lambda: drawn(data, s.moments, k_half, half, hp)
            rest = drawn(data, s.moments, k_data, hp.batch_size - half, hp)
            join = lambda x, y: jnp.concatenate([x, y])
            return jax.tree.map(join, rest, jax.lax.cond(ready, recent, instead))

        s, stats = learn(learner, batch, s, k_learn, t, hp)
        return s.replace(key=key, stage=stage, buffer=buffer), metrics | stats

    return Algo(init, step, alone.act, learner.memory)
