"""JaxMARL's cooperative environments, an extra: `pip install 'jaxrl[jaxmarl]'`.

Those whose agents are alike, discrete and paid together. One has the rows, the "agent" and the
"privileged" of our own (`envs/agents.py`); "privileged" is what all of them see. JaxMARL calls the
end of the time a `done` like any other; here it truncates.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.common import quiet, time_limit
from envs.agents import Team, seen, space
from envs.base import AutoReset, Step, TimeLimit
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError, did_you_mean

LIMITS = {"MPE_simple_spread_v3": 25, "overcooked": 400}  # steps, as upstream has them


@functools.cache
def _upstream(model: str, limit: int) -> Any:
    try:
        with quiet(), jax.ensure_compile_time_eval():
            import jaxmarl

            return jaxmarl.make(model, max_steps=limit)
    except ModuleNotFoundError as e:
        if e.name != "jaxmarl":
            raise
        need = f"jaxmarl/{model} needs JaxMARL: pip install 'jaxrl[jaxmarl]'"
        raise InputError(need) from None


@functools.cache
def _shape(model: str, limit: int) -> tuple[int, ...]:
    """Of what one agent sees."""
    env = _upstream(model, limit)
    return jax.eval_shape(env.reset, jax.random.key(0))[0][env.agents[0]].shape


@struct.dataclass
class JaxMARL:
    """A team of JaxMARL's. The state is upstream's."""

    model: str = struct.field(pytree_node=False)
    limit: int = struct.field(pytree_node=False)

    @property
    def upstream(self) -> Any:
        return _upstream(self.model, self.limit)

    @property
    def name(self) -> str:
        return f"jaxmarl/{self.model}"

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def observation_space(self) -> dict:
        size, A = int(np.prod(_shape(self.model, self.limit))), len(self.upstream.agents)
        box = lambda n: Box(-float("inf"), float("inf"), (n,))
        return space(A, box(size), box(A * size))

    @property
    def action_space(self) -> Discrete:
        return Discrete(int(self.upstream.action_space(self.upstream.agents[0]).n))

    def observe(self, obs: dict) -> dict:
        rows = jnp.stack([obs[a].ravel().astype(jnp.float32) for a in self.upstream.agents])
        return seen(rows, rows.ravel())

    def reset(self, key):
        obs, state = self.upstream.reset(key)
        return state, self.observe(obs)

    def step(self, key, state, action):
        env = self.upstream
        chosen = {a: action[i] for i, a in enumerate(env.agents)}
        obs, state, reward, done, _ = env.step_env(key, state, chosen)
        paid = jnp.stack([jnp.float32(reward[a]) for a in env.agents])
        over = jnp.asarray(done["__all__"]) & (state.step < self.limit)
        return Step(state, self.observe(obs), paid, over, jnp.zeros((), bool))


def make(name: str, **params: Any) -> Team:
    """A world of the team."""
    model = name.removeprefix("jaxmarl/")
    limit = time_limit(params, LIMITS[model])
    for k in params:
        raise did_you_mean(f"{name} parameter", k, ["max_steps"])
    _shape(model, limit)  # which says now what is missing
    return Team(AutoReset(TimeLimit(JaxMARL(model, limit), limit)))
