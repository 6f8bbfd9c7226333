"""The environment protocol, and the wrappers every environment goes through.

Two levels, both pytrees whose float leaves are physics (so an environment is an argument, can be
vmapped over, and changing gravity recompiles nothing):

- `Env`: *one* episode. `reset(key) -> (state, obs)`; `step(key, state, action) -> Step`.
  Wrappers (`TimeLimit`, `RescaleAction`) go from `Env` to `Env`.
- `World`: *n* episodes in a row, for ever. `reset(key, n) -> (state, obs)`;
  `step(key, state, action) -> (state, Transition)`. `AutoReset(env)` makes one. A world may have
  a `draw(key, steps, n)` of all that is random in so many steps; it takes a step's for a key.

Where a reward is several, `objectives` names them, "return" first: ("return", "cost"). One that has
none pays a number.

`envs.make(name)` gives a world. Learners know only worlds. One whose episodes have several `agents`
has a row for each: `reset(key, n)` begins n episodes and gives n x agents rows, agent by agent.
"""

from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from flax import struct

from envs.spaces import Box, Space
from jaxrl.types import flat, is_key


class Step(NamedTuple):
    """What one step of an environment gives. `terminated`: no future; `truncated`: cut short."""

    state: Any
    obs: Any
    reward: jax.Array  # (), or (K,) objectives
    terminated: jax.Array  # () bool
    truncated: jax.Array  # () bool


class Transition(NamedTuple):
    """What one step of a world gives, [N, ...]. `obs` begins the next step, `final_obs` ended this
    one: they differ where the episode was cut (terminated or truncated) and a new one has begun."""

    obs: Any
    reward: jax.Array  # [N] or [N, K]
    terminated: jax.Array  # [N] bool
    truncated: jax.Array  # [N] bool; False where terminated
    final_obs: Any


class Env(Protocol):
    """One episode at a time. Implementations are `flax.struct` dataclasses."""

    @property
    def name(self) -> str: ...
    @property
    def observation_space(self) -> Space: ...
    @property
    def action_space(self) -> Space: ...
    @property
    def max_steps(self) -> int: ...  # the length at which an episode is cut; 0: never

    def reset(self, key: jax.Array) -> tuple[Any, Any]: ...
    def step(self, key: jax.Array, state: Any, action: jax.Array) -> Step: ...


class World(Protocol):
    """n episodes in a row, for ever: what a learner is given."""

    @property
    def name(self) -> str: ...
    @property
    def observation_space(self) -> Space: ...
    @property
    def action_space(self) -> Space: ...
    @property
    def max_steps(self) -> int: ...

    def reset(self, key: jax.Array, n: int) -> tuple[Any, Any]: ...
    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Transition]: ...


@struct.dataclass
class Wrapper:
    """An environment around another; what it does not define is the inner one's."""

    env: Any

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def observation_space(self) -> Space:
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def max_steps(self) -> int:
        return self.env.max_steps

    @property
    def objectives(self) -> tuple[str, ...]:  # names of its rewards, "return" first; () for one
        return getattr(self.env, "objectives", ())

    @property
    def tables(self) -> Any:
        return self.env.tables  # where the inner one has them (envs/tabular.py)

    def examined(self) -> Any:
        """Where a policy is evaluated: with problems that are held out, where some are."""
        inner, own = getattr(self.env, "examined", None), cast(Any, self)
        return own.replace(env=inner()) if inner else self

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        return self.env.step(key, state, action)


@struct.dataclass
class TimeLimit(Wrapper):
    """Truncates (does not terminate) after `limit` steps."""

    limit: int = struct.field(pytree_node=False, default=1000)

    @property
    def max_steps(self) -> int:
        return min(self.limit, self.env.max_steps or self.limit)

    def reset(self, key):
        state, obs = self.env.reset(key)
        return (state, jnp.int32(0)), obs

    def step(self, key, state, action):
        inner, count = state
        s = self.env.step(key, inner, action)
        cut = s.truncated | (count + 1 >= self.limit)
        return s._replace(state=(s.state, count + 1), truncated=cut)


@struct.dataclass
class RescaleAction(Wrapper):
    """Actions in [-1, 1], clipped, for an environment whose actions are a bounded box."""

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, self.env.action_space.shape)

    def native(self, action):
        """The inner environment's action for one in [-1, 1]."""
        box = self.env.action_space
        low, high = jnp.asarray(box.low, jnp.float32), jnp.asarray(box.high, jnp.float32)
        return low + (jnp.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (high - low)

    def step(self, key, state, action):
        return self.env.step(key, state, self.native(action))


@struct.dataclass
class Randomise(Wrapper):
    """Draws the environment's physics anew at each reset and keeps them in its state.

    `draw(key, env) -> env` (static) returns the environment with other float leaves: one policy
    then learns *across* physics. (A vmap over environments gives one policy *per* physics.)
    """

    draw: Any = struct.field(pytree_node=False, default=None)

    def reset(self, key):
        kd, kr = jax.random.split(key)
        env = self.draw(kd, self.env)
        state, obs = env.reset(kr)
        return (state, env), obs

    def step(self, key, state, action):
        inner, env = state
        s = env.step(key, inner, action)
        return s._replace(state=(s.state, env))


@struct.dataclass
class AutoReset(Wrapper):
    """A world of n copies of an environment, each begun again, with a fresh key, when it is cut.

    `resets`: how many fresh starts are drawn at each step (0: one per copy). The copies cut at this
    step take them in turn, so none is shared unless more than `resets` are cut at once: worth it
    where a reset is dear.
    `block`: how many copies go side by side on a CPU (0: all), the blocks in turn: worth it where
    what a step makes of all of them does not fit the cache.
    """

    resets: int = struct.field(pytree_node=False, default=0)
    block: int = struct.field(pytree_node=False, default=0)

    def each(self, f, *args):
        """f of each copy, its arguments and results [n, ...]."""
        n = jax.tree.leaves(args)[0].shape[0]
        b = self.block
        if not 0 < b < n or n % b or jax.default_backend() != "cpu":
            return jax.vmap(f)(*args)
        blocks = jax.tree.map(lambda x: x.reshape(n // b, b, *x.shape[1:]), args)
        out = jax.lax.map(lambda block: jax.vmap(f)(*block), blocks)
        return jax.tree.map(lambda x: x.reshape(n, *x.shape[2:]), out)

    def reset(self, key, n):
        return self.each(self.env.reset, jax.random.split(key, n))

    def draw(self, key, steps, n):
        """All that is random in steps of n copies, [steps, ...]; `step` takes one of it for a key.
        A loop that need not draw is twice as fast on a CPU."""
        keys = flat(jax.random.split, key, (steps, n + min(self.resets or n, n)))
        starts = self.each(self.env.reset, keys[:, n:].reshape(-1))
        return keys[:, :n], jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), starts)

    def step(self, key, state, action):
        n = jax.tree.leaves(action)[0].shape[0]
        if is_key(key):
            key = jax.tree.map(lambda x: x[0], self.draw(key, 1, n))
        keys, start = key
        s = self.each(self.env.step, keys, state, action)
        done = s.terminated | s.truncated
        if (fresh := jax.tree.leaves(start)[0].shape[0]) < n:
            turn = (jnp.cumsum(done) - 1) % fresh
            start = jax.tree.map(lambda x: x[turn], start)

        def choose(new, old):
            # the state after a reset may have weaker types than the one after a step
            return jnp.where(
                done.reshape(done.shape + (1,) * (old.ndim - 1)),
                new if new.dtype == old.dtype else new.astype(old.dtype),
                old,
            )

        state, obs = jax.tree.map(choose, start, (s.state, s.obs))
        return state, Transition(obs, s.reward, s.terminated, s.truncated & ~s.terminated, s.obs)
