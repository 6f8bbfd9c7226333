"""Brax environments, raw: brax's Episode and AutoReset wrappers drop the final observation and
begin every episode from one state. `TimeLimit` and `AutoReset` of ours go around.

Physics are multiples of the model's own, 1.0 each: `make("brax/hopper", gravity_scale=0.5)`.
"""

import copy
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.common import (
    Shapes,
    like,
    number,
    quiet,
    scalar,
    scaled,
    settle,
    shapes,
    time_limit,
)
from envs.base import Step, TimeLimit
from envs.spaces import Box
from jaxrl.errors import did_you_mean

SYSTEM = {
    "gravity_scale": "gravity",
    "friction_scale": "geom_friction",
    "gear_scale": "actuator.gear",
}
# The same in the model that the mjx backend reads instead. Spring and positional read no damping.
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


@functools.cache
def _upstream(name: str, backend: str) -> Any:
    with quiet(), jax.ensure_compile_time_eval():
        from brax import envs

        return envs.get_environment(name, **({"backend": backend} if backend else {}))


@functools.cache
def _shapes(name: str, backend: str) -> Shapes:
    """Found once, without running anything: tracing brax takes seconds."""
    return shapes(_upstream(name, backend), _keep, _step)


def _keep(s: Any) -> tuple[Any, dict]:
    """What the dynamics read of brax's state."""
    return s.pipeline_state, s.info


def _step(env: Any, state: tuple[Any, dict], action: jax.Array) -> Any:
    from brax.envs.base import State

    pipeline, info = state
    zero = jnp.zeros(())
    return env.step(State(pipeline, zero, zero, zero, {}, dict(info)), action)


@struct.dataclass
class Brax:
    """One brax environment. `physics`: multiples of the model's own."""

    physics: dict[str, jax.Array]
    model: str = struct.field(pytree_node=False)
    backend: str = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False)

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def observation_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (_shapes(self.model, self.backend).obs,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (_shapes(self.model, self.backend).action,))

    @property
    def upstream(self) -> Any:
        """A copy of brax's environment in this physics."""
        env = copy.copy(_upstream(self.model, self.backend))
        if self.physics:
            env.sys = scaled(env.sys, self.physics, PLACES[self.backend])
        return env

    def reset(self, key):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = self.upstream.reset(key)
        return settle(_keep(s), _shapes(self.model, self.backend).after), s.obs.astype(jnp.float32)

    def step(self, key, state, action):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = _step(self.upstream, state, jnp.clip(action, -1.0, 1.0))
        obs = s.obs.astype(jnp.float32)
        flags = scalar(s.done, bool), jnp.zeros((), bool)
        return Step(like(_keep(s), state), obs, scalar(s.reward), *flags)


def make(name: str, model: str, backend: str, **params: Any) -> TimeLimit:
    limit = time_limit(params, 1000)
    known = list(PLACES[backend])
    for k in params:
        if k not in known:
            raise did_you_mean(f"{name} parameter", k, [*known, "max_steps"])
    _upstream(model, backend)
    physics = {k: number(k, params.get(k, 1.0), 1.0) for k in known}
    return TimeLimit(Brax(physics, model, backend, name), limit)
