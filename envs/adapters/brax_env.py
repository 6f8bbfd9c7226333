"""Brax environments, raw: never brax's Episode or AutoReset wrappers, which drop the final observation
and begin every episode from one state. `TimeLimit` and `AutoReset` of ours go around.

Physics are multiples of the model's own, 1.0 each: `make("brax/hopper", gravity_scale=0.5)`.
"""

import copy
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import like, number, quiet, scalar, scaled, settle, time_limit
from envs.base import Step, TimeLimit
from envs.spaces import Box, Space
from jaxrl.errors import did_you_mean

SYSTEM = {
    "gravity_scale": "gravity",
    "friction_scale": "geom_friction",
    "gear_scale": "actuator.gear",
}
# The same in the mjx model, which the mjx backend reads instead. Spring and positional read no damping.
MODEL = {
    "gravity_scale": "opt.gravity",
    "friction_scale": "geom_friction",
    "gear_scale": "actuator_gear",
    "damping_scale": "dof_damping",
}
PLACES = {
    "spring": SYSTEM,
    "positional": SYSTEM,
    "generalized": SYSTEM | {"damping_scale": "dof.damping"},
    "mjx": MODEL,
    "": {},
}


@functools.lru_cache(maxsize=None)
def _upstream(name: str, backend: str) -> Any:
    with quiet(), jax.ensure_compile_time_eval():
        from brax import envs

        return envs.get_environment(name, **({"backend": backend} if backend else {}))


@functools.lru_cache(maxsize=None)
def _sizes(name: str, backend: str) -> tuple[int, int]:
    """Of observation and action, found without running the reset."""
    env = _upstream(name, backend)
    return jax.eval_shape(env.reset, jax.random.key(0)).obs.shape[-1], int(env.action_size)


@struct.dataclass
class Brax:
    """One brax environment; its state is what the dynamics read: the pipeline's state and `info`."""

    physics: dict[str, jax.Array]
    model: str = struct.field(pytree_node=False)
    backend: str = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def observation_space(self) -> Space:
        return Box(-float("inf"), float("inf"), (_sizes(self.model, self.backend)[0],))

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (_sizes(self.model, self.backend)[1],))

    @property
    def upstream(self) -> Any:
        """A copy of brax's environment in this physics."""
        env = copy.copy(_upstream(self.model, self.backend))
        if self.physics:
            env.sys = scaled(env.sys, self.physics, PLACES[self.backend])
        return env

    def _step(self, env, state, action):
        from brax.envs.base import State

        pipeline, info = state
        zero = jnp.zeros(())
        obs = jnp.zeros(self.observation_space.shape)
        return env.step(State(pipeline, obs, zero, zero, {}, dict(info)), action)

    def reset(self, key):
        env = self.upstream
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = env.reset(key)
            state, action = (s.pipeline_state, s.info), jnp.zeros(self.action_space.shape)

            def after(state):
                s = self._step(env, state, action)
                return s.pipeline_state, s.info

            return settle(state, after), s.obs.astype(jnp.float32)

    def step(self, key, state, action):
        s = self._step(self.upstream, state, jnp.clip(action, -1.0, 1.0))
        after = like((s.pipeline_state, s.info), state)
        obs = s.obs.astype(jnp.float32)
        return Step(after, obs, scalar(s.reward), scalar(s.done, bool), jnp.zeros((), bool))


def make(name: str, model: str, backend: str, **params: Any) -> TimeLimit:
    limit = time_limit(params, 1000)
    known = list(PLACES[backend])
    for k in params:
        if k not in known:
            raise did_you_mean(f"{name} parameter", k, [*known, "max_steps"])
    _upstream(model, backend)
    physics = {k: number(k, params.get(k, 1.0), 1.0) for k in known}
    return TimeLimit(Brax(physics, model, backend, name), limit)
