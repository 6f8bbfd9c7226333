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
from envs.adapters.common import like, number, quiet, scalar, scaled, settle, time_limit
from envs.base import Step, TimeLimit
from envs.spaces import Box, Space
from jaxrl.errors import InputError, did_you_mean


@functools.lru_cache(maxsize=None)
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


@functools.lru_cache(maxsize=None)
def _sizes(model: str) -> tuple[int, int]:
    env = _upstream(model)
    return jax.eval_shape(env.reset, jax.random.key(0)).obs.shape[-1], int(env.action_size)


@struct.dataclass
class Playground:
    """One Playground environment; its state is mjx's data, `info` and the metrics its rewards write."""

    physics: dict[str, jax.Array]
    model: str = struct.field(pytree_node=False)

    @property
    def name(self) -> str:
        return f"playground/{self.model}"

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def observation_space(self) -> Space:
        return Box(-float("inf"), float("inf"), (_sizes(self.model)[0],))

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (_sizes(self.model)[1],))

    @property
    def upstream(self) -> Any:
        """A copy of Playground's environment in this physics."""
        env = copy.copy(_upstream(self.model))
        env._mjx_model = scaled(env._mjx_model, self.physics, MODEL)
        return env

    def _step(self, env, state, action):
        from mujoco_playground import State

        data, info, metrics = state
        zero, obs = jnp.zeros(()), jnp.zeros(self.observation_space.shape)
        s = env.step(State(data, obs, zero, zero, dict(metrics), dict(info)), action)
        return s, (s.data, s.info, s.metrics)

    def reset(self, key):
        env = self.upstream
        s = env.reset(key)
        state, action = (s.data, s.info, s.metrics), jnp.zeros(self.action_space.shape)
        return settle(state, lambda x: self._step(env, x, action)[1]), s.obs.astype(jnp.float32)

    def step(self, key, state, action):
        s, after = self._step(self.upstream, state, jnp.clip(action, -1.0, 1.0))
        obs = s.obs.astype(jnp.float32)
        return Step(like(after, state), obs, scalar(s.reward), scalar(s.done, bool), jnp.zeros((), bool))


def make(name: str, **params: Any) -> TimeLimit:
    """The environment, cut after the number of steps that Playground gives for it."""
    model = name.removeprefix("playground/")
    limit = time_limit(params, int(_upstream(model)._config.episode_length))
    for k in params:
        if k not in MODEL:
            raise did_you_mean(f"{name} parameter", k, [*MODEL, "max_steps"])
    return TimeLimit(Playground({k: number(k, params.get(k, 1.0), 1.0) for k in MODEL}, model), limit)
