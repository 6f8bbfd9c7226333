"""Physics that move while an episode goes on: by an adversary, by chance or not at all.

Some of an environment's physics, named, are uncertain within a box. ψ in [0, 1]ᵈ says where in it
they are. It is part of the state, so that every copy has its own, and begins an episode anywhere.
Before each step it moves by at most the radius L, and the step is under what it is then:

    ψ' = clip(ψ + L u, 0, 1),    u in [-1, 1]ᵈ

    adversary   u is the last d numbers of the action: two players, whose actions are one array
    walk        u is drawn at each step
    still       u is 0: each episode has physics of its own, as in domain randomisation

The observation is a dictionary, "obs" the environment's own. What else it has goes by `sees`:

    plain       "privileged", ψ: for critics, and for the adversary
    stacked     that, and the observation and the action of the step before, "before" and "action":
                what any player could ask for, so that learners with different views share a world
    oracle      "psi", ψ for all

By name, the game is "stacked" and the others are "plain".

"Time-Constrained Robust MDPs" by Zouitine et al. 2024, arXiv 2406.08395, has the game and the three
views (whose code was read, not the text); there L is in the parameters' own units, and what a still
ψ costs at worst is measured on a grid (`grid`). ψ is in the order of the parameters' names.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs import registry
from envs.adapters.common import physics
from envs.base import Wrapper
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError, did_you_mean

MOVES, SEES = ("adversary", "walk", "still"), ("plain", "stacked", "oracle")


@struct.dataclass
class TimeConstrained(Wrapper):
    """The state: the environment's, ψ [d] and, for "stacked", the last observation."""

    box: dict[str, jax.Array]  # [2] each: the least and the most
    radius: jax.Array
    begin: jax.Array  # [2, d]: between what ψ an episode begins
    moves: str = struct.field(pytree_node=False)
    sees: str = struct.field(pytree_node=False)
    name: str = struct.field(pytree_node=False, default="")

    @property
    def action_space(self) -> Any:
        space = self.env.action_space
        if self.moves != "adversary":
            return space  # an adversary's numbers may follow, and are not read
        return Box(-1.0, 1.0, (space.shape[0] + len(self.box),))

    @property
    def observation_space(self) -> dict:
        inner = self.env.observation_space
        space = {"obs": inner, _key(self.sees): Box(0.0, 1.0, (len(self.box),))}
        if self.sees != "stacked":
            return space
        return space | dict(before=inner, action=Box(-1.0, 1.0, _width(self.env.action_space)))

    def under(self, psi) -> Any:
        """The environment in the physics that ψ means."""
        values = {k: x[0] + p * (x[1] - x[0]) for p, (k, x) in zip(psi, self.box.items())}
        return changed(self.env, "physics", lambda env: env.physics | values)

    def reset(self, key):
        key_psi, key = jax.random.split(key)
        low, high = self.begin
        psi = low + (high - low) * jax.random.uniform(key_psi, low.shape)
        state, obs = self.under(psi).reset(key)
        none = jnp.zeros(_width(self.env.action_space))
        return self.given(state, psi, obs, obs, none)

    def given(self, state, psi, obs, before, action) -> tuple[Any, dict]:
        """The state and the observation."""
        seen = {"obs": obs, _key(self.sees): psi}
        if self.sees != "stacked":
            return (state, psi, ()), seen
        return (state, psi, obs), seen | dict(before=before, action=action)

    def step(self, key, state, action):
        inner, psi, before = state
        key_walk, key = jax.random.split(key)
        space, u = self.env.action_space, jnp.zeros_like(psi)
        if self.moves == "walk":
            u = jax.random.uniform(key_walk, psi.shape, minval=-1.0)
        if isinstance(space, Discrete):
            made = jax.nn.one_hot(action, space.n)
        else:
            own = space.shape[0]
            u = jnp.clip(action[own:], -1.0, 1.0) if self.moves == "adversary" else u
            action = made = jnp.clip(action[:own], -1.0, 1.0)
        psi = jnp.clip(psi + self.radius * u, 0.0, 1.0)
        s = self.under(psi).step(key, inner, action)
        state, obs = self.given(s.state, psi, s.obs, before, made)
        return s._replace(state=state, obs=obs)


def _key(sees: str) -> str:
    return "psi" if sees == "oracle" else "privileged"


def _width(space: Any) -> tuple[int]:
    return (space.n,) if isinstance(space, Discrete) else space.shape


def psi(obs: dict) -> jax.Array:
    """The ψ of an observation, whoever may see it."""
    return obs["psi"] if "psi" in obs else obs["privileged"]


def inside(env: Any, field: str) -> Any:
    """Of an environment, or a world, and those inside it, the one that has this field."""
    found = env
    while not hasattr(found, field):
        if not hasattr(found, "env"):
            raise InputError(f"env: {env.name} has no {field} that could move")
        found = found.env
    return found


def changed(env: Any, field: str, change: Callable) -> Any:
    """It with another value of that field, `change(env)` of the one that has it."""
    if hasattr(env, field):
        return env.replace(**{field: change(env)})
    return env.replace(env=changed(env.env, field, change))


def grid(world: Any, points: int) -> Any:
    """A stack of worlds [points ** d], to vmap over: each begins at one point of a grid over the
    box, both ends included. With "still", the static cases of which the worst is asked."""
    axes = [jnp.linspace(0.0, 1.0, points)] * inside(world, "begin").begin.shape[1]
    at = jnp.stack([x.ravel() for x in jnp.meshgrid(*axes, indexing="ij")], -1)
    return jax.vmap(lambda x: changed(world, "begin", lambda _: jnp.stack([x, x])))(at)


def time_constrained(
    env: Any, box: dict, radius: Any, moves: str = "adversary", sees: str = "plain", name: str = ""
) -> TimeConstrained:
    """An environment whose physics of these names move within their boxes, (least, most).

    Its actions are in [-1, 1] (`envs.make_env`), or discrete where no adversary acts. InputError
    for what is not known or has no room.
    """
    for what, x, known in (("moves", moves, MOVES), ("sees", sees, SEES)):
        if x not in known:
            raise did_you_mean(what, x, known)
    known = inside(env, "physics").physics
    for k, x in box.items():
        if k not in known:
            raise did_you_mean(f"{env.name} physics", k, known)
        if not x[0] <= x[1]:
            raise InputError(f"{k}: {x[0]:g} to {x[1]:g} is no interval")
    if not 0 <= radius <= 1:
        raise InputError(f"radius: {radius:g} is outside [0, 1]")
    space = env.action_space
    if moves == "adversary" and not (isinstance(space, Box) and len(space.shape) == 1):
        raise InputError(f"moves: adversary needs a Box of actions; {env.name} has {space}")
    box = {k: jnp.asarray(x, jnp.float32) for k, x in sorted(box.items())}
    begin = jnp.stack([jnp.zeros(len(box)), jnp.ones(len(box))])
    return TimeConstrained(env, box, jnp.float32(radius), begin, moves, sees, name or env.name)


TABLE = {  # the environment, and the boxes
    "pendulum": ("Pendulum-v1", dict(l=[0.5, 1.5], m=[0.5, 1.5])),
    "cartpole": ("CartPole-v1", dict(length=[0.25, 1.0], masspole=[0.05, 0.5])),
}


def make(name: str, **params: Any) -> TimeConstrained:
    inner, _, moves = name.removeprefix("robust/").partition("-")
    inner, box = TABLE[inner]
    limit = {k: params.pop(k) for k in ("max_steps",) if k in params}
    sees = params.pop("sees", "plain" if moves else "stacked")
    leaves = physics(name, params, box | dict(radius=0.01), "sees")
    radius = leaves.pop("radius")
    env = registry.make_env(inner, **limit)
    return time_constrained(env, leaves, radius, moves or "adversary", sees, name)
