"""MuJoCo Playground's DeepMind Control suite, raw, an extra: `pip install 'jaxrl[playground]'`.

Always with impl="jax": Playground's default is Warp, which is CUDA only. Physics as in brax_env.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.adapters.brax_env import MODEL
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
from jaxrl.errors import InputError, did_you_mean


@functools.cache
def _upstream(model: str) -> Any:
    try:
        with quiet(), jax.ensure_compile_time_eval():
            from mujoco_playground import registry

            return registry.load(model, config_overrides={"impl": "jax"})
    except ModuleNotFoundError as e:
        if e.name != "mujoco_playground":
            raise
        raise InputError(
            f"playground/{model} needs MuJoCo Playground: pip install 'jaxrl[playground]'"
        ) from None


@functools.cache
def _shapes(model: str) -> Shapes:
    """Found once, without running anything."""
    return shapes(_upstream(model), _keep, _step)


def _keep(s: Any) -> tuple[Any, dict, dict]:
    """What the dynamics read of Playground's state, and the metrics that its rewards write into."""
    return s.data, s.info, s.metrics


def _step(env: Any, state: tuple[Any, dict, dict], action: jax.Array) -> Any:
    from mujoco_playground import State

    data, info, metrics = state
    zero = jnp.zeros(())
    return env.step(State(data, zero, zero, zero, dict(metrics), dict(info)), action)


@struct.dataclass
class Playground:
    """One Playground environment. `physics`: multiples of the model's own."""

    physics: dict[str, jax.Array]
    model: str = struct.field(pytree_node=False)

    @property
    def name(self) -> str:
        return f"playground/{self.model}"

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def observation_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (_shapes(self.model).obs,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (_shapes(self.model).action,))

    @property
    def upstream(self) -> Any:
        """A copy of Playground's environment in this physics."""
        env = copy.copy(_upstream(self.model))
        env._mjx_model = scaled(env._mjx_model, self.physics, MODEL)
        return env

    def reset(self, key):
        s = self.upstream.reset(key)
        return settle(_keep(s), _shapes(self.model).after), s.obs.astype(jnp.float32)

    def step(self, key, state, action):
        s = _step(self.upstream, state, jnp.clip(action, -1.0, 1.0))
        obs = s.obs.astype(jnp.float32)
        flags = scalar(s.done, bool), jnp.zeros((), bool)
        return Step(like(_keep(s), state), obs, scalar(s.reward), *flags)


def make(name: str, **params: Any) -> TimeLimit:
    """The environment, cut after the number of steps that Playground gives for it."""
    model = name.removeprefix("playground/")
    limit = time_limit(params, int(_upstream(model)._config.episode_length))
    for k in params:
        if k not in MODEL:
            raise did_you_mean(f"{name} parameter", k, [*MODEL, "max_steps"])
    return TimeLimit(
        Playground({k: number(k, params.get(k, 1.0), 1.0) for k in MODEL}, model), limit
    )
