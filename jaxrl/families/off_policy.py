"""The off-policy family: step the environments, remember everything, learn from what is remembered.

    algo = off_policy(learner)

Each iteration takes `num_steps` steps of every environment as the learner explores, puts them into
the replay buffer and takes `updates` gradient steps, each on a batch drawn from it. A batch's rows
are n-step transitions, whose next observation is the true one, before any reset.
A `Learner` (`jaxrl/core.py`) is all that papers differ in; it also learns from datasets.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from envs.spaces import Box, Discrete
from jaxrl.core import Algo, Learner, Policy
from jaxrl.errors import InputError
from jaxrl.heads import MASKED
from jaxrl.hyper import Linear, arg, hyper
from jaxrl.loops import averaged
from jaxrl.optim import adam
from jaxrl.policies import TORSOS, Network
from jaxrl.rollout import Stage, agents, begin, choose, objectives, unjudged
from jaxrl.types import Key, Params, Transitions


@hyper
class OffPolicy:
    """What every off-policy method needs. An iteration is num_envs x num_steps steps."""

    lr: float | Linear = arg(1e-3, "Adam's step size; a:b goes linearly from a to b", "[0, inf)")
    gamma: float = arg(0.99, "discount", "[0, 1]")
    tau: float = arg(0.005, "how far targets move to the parameters at an update", "[0, 1]")
    max_grad_norm: float = arg(jnp.inf, "clip the gradient's global norm; inf: off", "(0, inf]")
    num_envs: int = arg(4, "environments stepped side by side", "[1, inf)")
    num_steps: int = arg(1, "steps of each environment an iteration", "[1, inf)")
    updates: int = arg(4, "gradient steps an iteration", "[1, inf)")
    batch_size: int = arg(128, "transitions of a gradient step", "[1, inf)")
    buffer_size: int = arg(100_000, "transitions that are remembered", "[1, inf)")
    learning_starts: int = arg(1000, "steps of random actions before learning begins", "[1, inf)")
    n_step: int = arg(1, "rewards summed before the target's value", "[1, inf)")
    horizon: float = arg(1.0, "iterations of the whole run: set by it, for schedules", "[1, inf)")

    # for `rollout`; running moments would make old observations other ones
    normalise_obs = normalise_reward = False

    def problem(self) -> str:
        """What is wrong between fields, in one line; "" if nothing is."""
        rows, least = divmod(self.buffer_size, self.num_envs)[0], max(self.num_steps, self.n_step)
        if rows < least or self.buffer_size % self.num_envs:
            return (
                f"buffer_size: {self.buffer_size} is not num_envs = {self.num_envs} times "
                f"{least} steps or more"
            )
        if self.learning_starts < (need := self.num_envs * self.n_step):
            return f"learning_starts: {self.learning_starts} is below num_envs * n_step = {need}"
        return ""

    @classmethod
    def for_env(cls, kind: str) -> Any:
        """The defaults for a class of environments (`envs.kind`)."""
        return cls(**PRESETS.get(kind, {}))

    @classmethod
    def smallest(cls) -> dict[str, dict]:
        """The smallest problem that moves every part, for the battery, as a config.toml has it."""
        tiny = dict(num_envs=2, num_steps=4, updates=4, batch_size=8, buffer_size=32)
        return dict(
            run=dict(env="Pendulum-v1"),
            env_params=dict(max_steps=6),
            network=dict(hidden=(8,)),
            hyper=tiny | dict(learning_starts=8, n_step=2, lr=0.03, max_grad_norm=1.0),
        )

    @staticmethod
    def network_for(kind: str) -> Network:
        """The network that goes with them."""
        return Network(activation="relu", hidden=(256, 256) if kind in PRESETS else (64, 64))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that one iteration takes."""
        return self.num_envs * self.num_steps


# One default per class of environment, for every paper of the family; none per environment.
PRESETS: dict[str, dict[str, Any]] = dict.fromkeys(
    ("brax", "playground"),
    dict(num_envs=16, updates=8, batch_size=256, buffer_size=2**20, learning_starts=8192, lr=3e-4),
)


class State(struct.PyTreeNode):
    params: Params
    opt: Any
    key: Key
    stage: Stage
    buffer: Any  # of flashbax, rows [num_envs, buffer_size / num_envs, ...]
    t: jax.Array  # iterations done: how far exploration is


# ---- parts -----------------------------------------------------------------------------------


def optimisers(*names: str) -> Callable:
    """A learner's `opt`: Adam for each of these entries of the parameters."""
    return lambda params, hp: {name: adam(hp).init(params[name]) for name in names}


def fit(params: dict, opt: dict, name: str, loss: Callable, hp: Any, t: Any) -> tuple:
    """One step of Adam on an entry of the parameters: (params, opt, stats).

    loss: (entry) -> (scalar, stats).
    """
    grads, stats = jax.grad(loss, has_aux=True)(params[name])
    updates, state = adam(hp, t).update(grads, opt[name], params[name])
    entry = optax.apply_updates(params[name], updates)
    return params | {name: entry}, opt | {name: state}, stats


def with_targets(*names: str) -> Callable:
    """(params, τ) -> params whose "target" of these entries has moved towards them by τ."""

    def move(params, tau):
        now = {name: params[name] for name in names}
        old = params.get("target", now)
        return params | dict(target=optax.incremental_update(now, old, tau))

    return move


def actions(world: Any) -> int:
    """How many numbers an action is. InputError where it is not a vector of them, in [-1, 1]."""
    space = world.action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"env: {world.name} has {space} actions; allowed is a Box (or try dqn)")
    if not ((np.asarray(space.low) == -1) & (np.asarray(space.high) == 1)).all():
        raise InputError(f"env: {world.name} has {space} actions; allowed are limits of -1 and 1")
    return space.shape[0]


def choices(world: Any) -> int:
    """How many actions there are. InputError where they cannot be counted."""
    space = world.action_space
    if not isinstance(space, Discrete):
        raise InputError(f"env: {world.name} has {space} actions; allowed is Discrete (or try sac)")
    return space.n


def plain(world: Any) -> None:
    """InputError where a world pays several rewards, or has several agents."""
    if objectives(world):
        paid = f"{world.name} pays {len(objectives(world))} rewards a step"
        raise InputError(f"env: {paid}; this method learns from one")
    if agents(world) > 1:
        raise InputError(f"env: {world.name} has {agents(world)} agents; this method is of one")


def torso(network: Network) -> Callable:
    """What reads the observation, as a module without arguments. InputError for what it cannot."""
    for name in ("memory", "shared"):
        if getattr(network, name):
            raise InputError(f"{name}: {getattr(network, name)}; off-policy networks have none")
    if network.head != "auto":
        raise InputError(f"head: {network.head!r}; this method's policy is its own")
    return partial(TORSOS[network.torso], network.hidden, network.activation)


def n_steps(b: Any, gamma: Any) -> Transitions:
    """Sequences [M, n, ...] as transitions [M, ...]: rewards to the first cut, or all n of them.

    Σ_{j<k} γʲ rⱼ + γᵏ Q(s_k), where k is the first step that ended the episode, at most n
    """
    n = b.done.shape[1]
    over = jnp.cumsum(b.done, 1) > 0
    before = jnp.pad(over[:, :-1], ((0, 0), (1, 0)))  # the episode was over before this step
    reward = jnp.where(before, 0.0, b.reward * gamma ** jnp.arange(n)).sum(1)
    last = jnp.where(over.any(1), b.done.argmax(1), n - 1)
    at = lambda x: jnp.take_along_axis(x, last.reshape(-1, *(1,) * (x.ndim - 1)), 1)[:, 0]
    discount = jnp.where(at(b.terminated), 0.0, gamma ** (last + 1.0))
    first, end = (lambda x: jax.tree.map(lambda y: y[:, 0], x)), lambda x: jax.tree.map(at, x)
    return Transitions(first(b.obs), first(b.action), reward, discount, end(b.next_value))


def replay(hp: Any) -> Any:
    """The buffer: rows of each environment in a ring, from which n in a row are drawn."""
    import flashbax

    return flashbax.make_trajectory_buffer(
        add_batch_size=hp.num_envs,
        sample_batch_size=hp.batch_size,
        sample_sequence_length=hp.n_step,
        period=1,
        min_length_time_axis=hp.n_step,
        max_length_time_axis=hp.buffer_size // hp.num_envs,
    )


# ---- the builder -----------------------------------------------------------------------------


def warmup(hp: Any) -> int:
    """Iterations of play that make `learning_starts` steps, or just more."""
    return -(-hp.learning_starts // (hp.num_envs * hp.num_steps))


def allowed(values: jax.Array, obs: Any) -> jax.Array:
    """Values [M, n] of discrete actions, and none for those that an "action_mask" rules out."""
    masked = isinstance(obs, dict) and "action_mask" in obs
    return jnp.where(obs["action_mask"], values, MASKED) if masked else values


def anything(space: Any, obs: Any, key: Key, n: int) -> jax.Array:
    """Random actions [n, ...] for observations [n, ...], of those that they allow."""
    if isinstance(space, Discrete):
        return jax.random.categorical(key, allowed(jnp.zeros((n, space.n)), obs))
    return jax.vmap(space.sample)(jax.random.split(key, n))


def explorer(learner: Learner, world: Any, t: Any, hp: Any) -> Policy:
    """How a rollout acts: at random until learning starts, then as the learner explores."""
    random = t < warmup(hp)

    def act(params, obs, start, memory, key):
        memory = choose(start, learner.memory(start.size), memory)
        k, k_random = jax.random.split(key)
        action, memory = learner.act(params, obs, memory, k, t, hp)
        drawn = anything(world.action_space, obs, k_random, start.size).astype(action.dtype)
        return jnp.where(random, drawn, action), (), (), memory

    def judge(*_):
        raise TypeError("a learner does not judge what was done")

    return Policy(learner.init, learner.memory, act, judge)


def collect(learner: Learner, s: Any, key: Key, t: Any, hp: Any, world: Any) -> tuple:
    """An iteration's steps: the stage after them, rows [N, T] for the buffer, and metrics."""
    policy = explorer(learner, world, t, hp)
    stage, b, metrics = unjudged(policy, s.params, s.stage, key, hp, world, hp.num_steps)
    b = b.replace(start=None, record=(), memory=())
    return stage, jax.tree.map(lambda x: x.swapaxes(0, 1), b), metrics


def blank(rows: Any) -> Any:
    """What a buffer begins with, from the shapes of rows [N, T, ...]: one row of zeros."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), rows)


def off_policy(learner: Learner) -> Algo:
    """An algorithm from a learner."""

    play = partial(collect, learner)

    def learn(params, opt, key, buffer, t, hp):
        def one(carry, x):
            j, k = x
            k_draw, k = jax.random.split(k)
            rows = replay(hp).sample(buffer, k_draw).experience
            args = n_steps(rows, hp.gamma), k, t, t * hp.updates + j, hp
            *carry, stats = learner.update(*carry, *args)
            return tuple(carry), stats

        each = jnp.arange(hp.updates), jax.random.split(key, hp.updates)
        return averaged(one, (params, opt), each)

    def init(key, hp, world):
        plain(world)
        key, key_env, key_params = jax.random.split(key, 3)
        stage = begin(explorer(learner, world, 0, hp), key_env, hp, world)
        params = learner.init(key_params, stage.obs, hp)
        s = State(params, learner.opt(params, hp), key, stage, (), jnp.int32(0))
        rows = jax.eval_shape(lambda: play(s, key, 0, hp, world)[1])
        return s.replace(buffer=replay(hp).init(blank(rows)))

    def step(s, t, hp, world):
        key, k_collect, k_learn = jax.random.split(s.key, 3)
        stage, rows, metrics = play(s, k_collect, t, hp, world)
        buffer = replay(hp).add(s.buffer, rows)
        now = lambda: learn(s.params, s.opt, k_learn, buffer, t, hp)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(now)[1])
        ready = t + 1 >= warmup(hp)
        (params, opt), stats = jax.lax.cond(ready, now, lambda: ((s.params, s.opt), nothing))
        return State(params, opt, key, stage, buffer, s.t + 1), metrics | stats

    def act(s, obs, memory, key, hp):
        return learner.act(s.params, obs, memory, key, s.t, hp)

    return Algo(init, step, act, learner.memory)
