"""Each broken environment is caught, by the line that says what broke; a sound one is not."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from tiny import Walk

from envs.base import AutoReset, TimeLimit, Transition
from envs.check import check
from envs.probe import TABLE, make
from envs.spaces import Box

COUNT = itertools.count()


@struct.dataclass
class Broken(Walk):
    """A sound walk but for one fault."""

    fault: str = struct.field(pytree_node=False, default="")

    @property
    def observation_space(self):
        return {
            "shape": Box(0.0, 9.0, (2,)),
            "bounds": Box(0.0, 2.0, (1,)),
            "space dtype": Box(0.0, 9.0, (1,), "int32"),
        }.get(self.fault, Box(0.0, 9.0, (1,)))

    @property
    def max_steps(self):
        return 2 if self.fault == "limit" else 0

    @property
    def objectives(self):
        names = {"unnamed": ("return", "cost"), "one objective": ("cost",)}
        return names.get(self.fault, ())

    def reset(self, key):
        if self.fault == "raises":
            raise RuntimeError("no reset today")
        state, obs = super().reset(key)
        if self.fault == "weak":
            return (state, 0), obs
        if self.fault == "widens":
            return (state, jnp.int32(0)), obs
        return state, obs

    def step(self, key, state, action):
        if self.fault in ("weak", "widens"):
            s = super().step(key, state[0], action)
            return s._replace(
                state=(
                    s.state,
                    state[1] + (jnp.float32(0.5) if self.fault == "widens" else jnp.int32(1)),
                )
            )
        s = super().step(key, state, action)
        match self.fault:
            case "reward shape":
                s = s._replace(reward=s.reward[None])
            case "reward dtype":
                s = s._replace(reward=jnp.int32(1))
            case "reward nan":
                s = s._replace(reward=jnp.where(s.terminated, jnp.nan, 0.0))
            case "obs nan":
                s = s._replace(obs=s.obs * jnp.nan)
            case "flag":
                s = s._replace(terminated=s.terminated.astype(jnp.float32))
            case "structure":
                s = s._replace(state=(s.state, s.state))
            case "cut":
                s = s._replace(truncated=s.obs[0] > 2.0)
            case "host":
                s = s._replace(reward=s.reward * next(COUNT))
        return s


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("shape", "observation after reset: has shape (1,), expected (2,)"),
        ("space dtype", "observation after reset: has dtype float32, expected int32"),
        ("bounds", "observation: [0] is 2."),
        ("raises", "reset: raises RuntimeError: no reset today"),
        ("weak", "state type: state[1] is weak int32 after a reset and int32 after a step"),
        ("widens", "state type: state[1] is int32 after a reset and float32 after a step"),
        ("structure", "state: has another structure"),
        ("reward shape", "reward: has shape (1,), expected (), as it names no objectives"),
        ("unnamed", "reward: has shape (), expected (2,), its objectives being ("),
        ("one objective", "objectives: are ('cost',), expected 'return' and others"),
        ("reward dtype", "reward: has dtype int32, expected float32"),
        ("reward nan", "reward: is nan at step"),
        ("obs nan", "observation: holds NaN"),
        ("flag", "terminated: has dtype float32, expected bool"),
        ("cut", "max_steps: is 0 (never cut), but step"),
        ("limit", "max_steps: an episode went on for 3 steps, expected at most 2"),
        ("host", "determinism: the same key gave another trajectory"),
    ],
)
def test_broken_env(fault, line):
    found = [str(p) for p in _checked(Broken(jnp.float32(1.0), fault=fault))]
    assert any(p.startswith(line) for p in found), found


def _checked(world: Any) -> list:
    try:
        return check(world, steps=40)
    except Exception as e:  # a check that crashes is no check
        pytest.fail(f"check raised {e!r}")


@struct.dataclass
class Worse(AutoReset):
    """A world that is sound but for one fault."""

    fault: str = struct.field(pytree_node=False, default="")

    def reset(self, key, n):
        if self.fault == "copies":
            state, obs = super().reset(key, 1)
            return jax.tree.map(lambda x: jnp.repeat(x, n, 0), (state, obs))
        return super().reset(key, n)

    def step(self, key, state, action):
        state, tr = super().step(key, state, action)
        match self.fault:
            case "lost":
                tr = tr._replace(final_obs=tr.obs)
            case "final":
                done = (tr.terminated | tr.truncated)[:, None]
                tr = tr._replace(final_obs=jnp.where(done, tr.final_obs - 1.0, tr.final_obs))
            case "both":
                tr = tr._replace(truncated=tr.terminated)
            case "uncut":
                tr = tr._replace(obs=tr.obs + 0.01)
        return state, tr


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("copies", "starts: all 4 copies begin in the same state"),
        ("lost", "final observation: is the next episode's first in all"),
        ("final", "final observation: at the cut of step"),
        ("both", "flags: terminated and truncated are both set at step"),
        ("uncut", "final observation: differs from the observation at step 0 of copy 0"),
    ],
)
def test_broken_world(fault, line):
    found = [str(p) for p in _checked(Worse(Walk(jnp.float32(1.0)), fault=fault))]
    assert any(p.startswith(line) for p in found), found


@struct.dataclass
class Same(AutoReset):
    """Every episode of a copy begins as its first did: brax's AutoResetWrapper."""

    def reset(self, key, n):
        state, obs = super().reset(key, n)
        return (state, state, obs), obs

    def step(self, key, state, action):
        now, first, first_obs = state
        s = jax.vmap(self.env.step)(jax.random.split(key, len(action)), now, action)
        now, obs = jax.tree.map(
            lambda x, y: jnp.where(s.terminated[:, None], x, y),
            (first, first_obs),
            (s.state, s.obs),
        )
        return (now, first, first_obs), Transition(obs, s.reward, s.terminated, s.truncated, s.obs)


def test_brax_like_restarts():
    found = [str(p) for p in _checked(Same(Walk(jnp.float32(1.0))))]
    assert any("later episodes began as the first" in p for p in found), found


def test_a_world_that_cannot_be_vmapped():
    """Physics compared in Python: fine as a number, no use as an argument."""

    @struct.dataclass
    class Fixed(Walk):
        def reset(self, key):
            return super().reset(key) if self.stride > 0 else (jnp.zeros(1), jnp.zeros(1))

    found = [str(p) for p in _checked(Fixed(jnp.float32(1.0)))]
    assert found and found[0].startswith("reset: raises TracerBoolConversionError"), found


def test_a_sound_env_has_no_problem():
    assert check(TimeLimit(Walk(jnp.float32(0.7)), 3), steps=40) == []


@pytest.mark.parametrize("slug", [s + tail for s in TABLE for tail in ("", "-continuous")])
def test_probes_are_sound(slug):
    assert check(make(f"probe/{slug}"), steps=110) == []
