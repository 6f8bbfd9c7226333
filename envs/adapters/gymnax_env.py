"""Gymnax environments: classic control, bsuite, MinAtar and a few more, from their raw `step_env`.

Gymnax's own `step` begins a new episode by itself; `step_env` does not, and leaves the time limit
to `is_truncated`. Its parameters become leaves, by name: `make("CartPole-v1", gravity=12.0)`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from envs.adapters.common import like, number, put_off, scalar, settle, time_limit
from envs.base import Step
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError, did_you_mean

# Upstream keeps both beside what they follow from: changing masspole alone would leave them behind.
DERIVED = {
    "CartPole-v1": {
        "total_mass": lambda p: p["masscart"] + p["masspole"],
        "polemass_length": lambda p: p["masspole"] * p["length"],
    }
}

# Entries of the observation whose declared bounds upstream's own observations leave.
REPAIRED = {
    "GaussianBandit-misc": [(0, -np.inf, np.inf), (-1, -1.0, 100.0)],  # last reward, scaled time
    "MetaMaze-misc": [(-2, -np.inf, np.inf), (-1, -1.0, np.inf)],  # last reward, scaled time
    "MemoryChain-bsuite": [(slice(2, None), -1.0, 1.0)],  # the bits are -1 and 1
}


def registration() -> Any:
    """Upstream's. All its environments come with it, and with some of them what draws them."""
    with put_off("matplotlib.pyplot", "seaborn"):
        from gymnax import registration
    return registration


@functools.cache
def _upstream(name: str, build: tuple) -> Any:
    with jax.ensure_compile_time_eval():  # the first call may come from inside a trace
        return registration().make(name, **dict(build))


@struct.dataclass
class Gymnax:
    """One gymnax environment. `physics`: its parameters, by name, but for the time limit."""

    physics: dict[str, jax.Array]
    name: str = struct.field(pytree_node=False)
    build: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False)  # constructor arguments
    max_steps: int = struct.field(pytree_node=False)

    @property
    def upstream(self) -> Any:
        return _upstream(self.name, self.build)[0]

    @property
    def params(self) -> Any:
        """Upstream's parameter object for this physics."""
        p = dict(self.physics)
        for field, rule in DERIVED.get(self.name, {}).items():
            p[field] = rule(p)
        default = _upstream(self.name, self.build)[1]
        limit = type(default.max_steps_in_episode)(self.max_steps)  # a float in BernoulliBandit
        return default.replace(max_steps_in_episode=limit, **p)

    def _native_space(self, which: str) -> Any:
        """Upstream's space. Traced physics gives traced bounds; a stack of them, the first's."""
        env = self
        if not any(isinstance(x, Tracer) for x in self.physics.values()):
            default = _upstream(self.name, self.build)[1]
            first = {
                k: np.asarray(v).reshape(-1, *np.shape(getattr(default, k)))[0]
                for k, v in self.physics.items()
            }
            env = dataclasses.replace(self, physics=first)
            with jax.ensure_compile_time_eval():
                return getattr(self.upstream, which)(env.params)
        return getattr(self.upstream, which)(env.params)

    @property
    def observation_space(self) -> Box:
        space = self._native_space("observation_space")
        if hasattr(space, "n"):
            return Box(0.0, 1.0, (int(space.n),))
        return _box(space, REPAIRED.get(self.name, ()))._replace(dtype=self._dtype)

    @property
    def action_space(self) -> Box | Discrete:
        space = self._native_space("action_space")
        return Discrete(int(space.n)) if hasattr(space, "n") else _box(space)

    @property
    def _dtype(self) -> str:
        """Of an observation: a MinAtar game's planes are bits, at a quarter of the memory."""
        return "bool" if self.name.endswith("MinAtar") else "float32"

    def _observe(self, obs: Any) -> jax.Array:
        """As `_dtype`; an integer state (FrozenLake) is one-hot, so that a network can read it."""
        if obs.ndim == 0:
            return jax.nn.one_hot(obs, self.observation_space.shape[0])
        return obs.astype(self._dtype)

    def reset(self, key):
        obs, state = self.upstream.reset_env(key, self.params)
        space = self.action_space
        action = jnp.zeros((), jnp.int32) if isinstance(space, Discrete) else jnp.zeros(space.shape)
        after = jax.eval_shape(
            lambda s: self.upstream.step_env(key, s, action, self.params)[1], state
        )
        return settle(state, after), self._observe(obs)

    def step(self, key, state, action):
        params, space = self.params, self.action_space
        if isinstance(space, Box):
            action = jnp.clip(action, jnp.asarray(space.low), jnp.asarray(space.high))
        obs, after, reward, terminated, _ = self.upstream.step_env(key, state, action, params)
        terminated = scalar(terminated, bool)
        # DeepSea sets both
        truncated = scalar(self.upstream.is_truncated(after, params), bool) & ~terminated
        return Step(like(after, state), self._observe(obs), scalar(reward), terminated, truncated)


def _box(space: Any, repaired: Sequence = ()) -> Box:
    """Our box for gymnax's: float32, and infinite where upstream writes the largest float."""
    low, high = space.low, space.high
    if any(isinstance(x, Tracer) for x in (low, high)):
        return Box(low, high, tuple(space.shape))
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if repaired:
        low, high = (
            np.broadcast_to(low, space.shape).copy(),
            np.broadcast_to(high, space.shape).copy(),
        )
    for at, a, b in repaired:
        low[at], high[at] = a, b
    low = np.where(low < -1e38, -np.inf, low).tolist()
    high = np.where(high > 1e38, np.inf, high).tolist()
    return Box(_tuples(low), _tuples(high), tuple(space.shape))


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x


def make(name: str, **params: Any) -> Gymnax:
    """The environment with these parameters; those of upstream's constructor are static."""
    constructor = inspect.signature(registration()._builtins[name].__init__)
    builders = [k for k in constructor.parameters if k != "self"]
    build = tuple(sorted((k, params.pop(k)) for k in list(params) if k in builders))
    try:
        hash(build)
        upstream, default = _upstream(name, build)
    except Exception as e:
        raise InputError(f"{name}: {dict(build)} makes no environment: {e}") from e
    fields = {k: getattr(default, k) for k in default.__dataclass_fields__}
    limit = time_limit(params, int(fields.pop("max_steps_in_episode")))
    for k in DERIVED.get(name, {}):
        fields.pop(k)
    for k in params:
        if k not in fields:
            raise did_you_mean(f"{name} parameter", k, [*fields, *builders, "max_steps"])
    physics = {k: number(k, params.get(k, v), v) for k, v in fields.items()}
    return Gymnax(physics, name, build, limit)
