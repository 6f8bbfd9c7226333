"""Tasks with constraints: beside the return a step pays costs, >= 0, to be kept in a budget.

    navigation    a point mass that is pushed about a square reaches goals, one after another, for 1
                  each and for its progress on the way. "hazard" is 1 a step within a disc that
                  lies between them, "speed" 1 a step above a limit.
    circle        the same mass runs in a circle, fast; "cost" is 1 a step outside a strip that is
                  narrower than the circle. (Achiam et al. 2017, arXiv 1705.10528, section 10)
    M-velocity    brax's model M, and "cost", 1 a step faster than a limit, by the distance that the
                  torso went. (Safety-Gymnasium's velocity tasks and their limits, version 1)

Episodes are cut, they don't end, but where a model of brax falls.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs import registry
from envs.adapters import brax_env
from envs.adapters.common import number, physics, time_limit
from envs.base import Step, TimeLimit, Wrapper
from envs.spaces import Box

DT = 0.1  # seconds a step
MASS = dict(force=1.5, drag=0.75)  # for an action of 1, and against a speed of 1
NAVIGATION = MASS | dict(
    hazards=[[0.0, 0.35], [-0.3, -0.2], [0.3, -0.2]],  # centres, where the square is [-1, 1]²
    radius=0.2,  # of each
    reach=0.15,  # how near a goal is near enough
    limit=0.6,  # of the speed
)
CIRCLE = MASS | dict(radius=1.0, strip=0.6)
NEAREST, FARTHEST = 0.7, 0.95  # goals lie on a ring around the hazards


def push(pos, vel, action, force, drag, wall):
    """Where a point mass is, and how fast, DT later; a wall stops it."""
    vel = (1 - DT * drag) * vel + DT * force * jnp.clip(action, -1.0, 1.0)
    new = pos + DT * vel
    return jnp.clip(new, -wall, wall), jnp.where(jnp.abs(new) > wall, 0.0, vel)


def somewhere(key) -> jax.Array:
    """A point [2] of the ring."""
    angle, r = jax.random.uniform(key, (2,))
    r = NEAREST + (FARTHEST - NEAREST) * r
    return r * jnp.stack([jnp.cos(2 * jnp.pi * angle), jnp.sin(2 * jnp.pi * angle)])


@struct.dataclass
class Navigation:
    """The state: position, velocity and goal, [2] each."""

    force: jax.Array
    drag: jax.Array
    hazards: jax.Array  # [H, 2]
    radius: jax.Array
    reach: jax.Array
    limit: jax.Array
    name: str = struct.field(pytree_node=False)

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "hazard", "speed")

    @property
    def observation_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (6,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (2,))

    def observe(self, pos, vel, goal) -> jax.Array:
        return jnp.concatenate([pos, vel, goal - pos])

    def reset(self, key):
        pos, goal = jax.vmap(somewhere)(jax.random.split(key))
        state = (pos, jnp.zeros(2), goal)
        return state, self.observe(*state)

    def step(self, key, state, action):
        pos, vel, goal = state
        new, vel = push(pos, vel, action, self.force, self.drag, 1.0)
        before, after = jnp.linalg.norm(pos - goal), jnp.linalg.norm(new - goal)
        there = after <= self.reach
        hit = (jnp.linalg.norm(new - self.hazards, axis=-1) <= self.radius).any()
        fast = jnp.linalg.norm(vel) > self.limit
        reward = jnp.stack([before - after + there, *map(jnp.float32, (hit, fast))])
        state = (new, vel, jnp.where(there, somewhere(key), goal))
        never = jnp.zeros((), bool)
        return Step(state, self.observe(*state), reward, never, never)


@struct.dataclass
class Circle:
    """The state is the observation: position and velocity, [4]."""

    force: jax.Array
    drag: jax.Array
    radius: jax.Array
    strip: jax.Array
    name: str = struct.field(pytree_node=False)

    @property
    def max_steps(self) -> int:
        return 0

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "cost")

    @property
    def observation_space(self) -> Box:
        return Box(-float("inf"), float("inf"), (4,))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (2,))

    def reset(self, key):
        pos = jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        state = jnp.concatenate([pos, jnp.zeros(2)])
        return state, state

    def step(self, key, state, action):
        pos, vel = push(state[:2], state[2:], action, self.force, self.drag, 2 * self.radius)
        across = vel[1] * pos[0] - vel[0] * pos[1]  # velocity along the circle, times the distance
        off = jnp.abs(jnp.linalg.norm(pos) - self.radius)
        reward = jnp.stack([across / (1 + off), jnp.float32(jnp.abs(pos[0]) > self.strip)])
        state, never = jnp.concatenate([pos, vel]), jnp.zeros((), bool)
        return Step(state, state, reward, never, never)


@struct.dataclass
class Velocity(Wrapper):
    """An environment of brax that also pays 1 where the torso was faster than `limit`, in m/s."""

    limit: jax.Array
    axes: int = struct.field(pytree_node=False, default=1)  # 1: forward, 2: in the plane

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("return", "cost")

    def step(self, key, state, action):
        s = self.env.step(key, state, action)
        where = lambda state: state[0].x.pos[0, : self.axes]
        v = (where(s.state) - where(state)) / self.env.upstream.dt
        fast = (v[0] if self.axes == 1 else jnp.linalg.norm(v)) > self.limit
        return s._replace(reward=jnp.stack([s.reward, jnp.float32(fast)]))


LIMITS = {"ant": (2.6222, 2), "halfcheetah": (3.2096, 1), "hopper": (0.7402, 1)}
LIMITS["walker2d"] = (2.3415, 1)


def velocity(name: str, model: str, params: dict) -> Any:
    limit, axes = LIMITS[model]
    limit = number("limit", params.pop("limit", limit), limit)
    inner = brax_env.make(name, model, registry.BRAX[model][0], **params)
    return TimeLimit(Velocity(inner.env, limit, axes), inner.limit)


def make(name: str, **params: Any) -> Any:
    slug = name.removeprefix("safe/")
    if slug.endswith("-velocity"):
        return velocity(name, slug.removesuffix("-velocity"), params)
    limit = time_limit(params, 100)
    if slug == "navigation":
        return TimeLimit(Navigation(**physics(name, params, NAVIGATION), name=name), limit)
    return TimeLimit(Circle(**physics(name, params, CIRCLE), name=name), limit)
