"""Tasks with costs: physics by hand, who pays what, and a tabular one that is solved by an LP."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy.optimize import linprog

import envs
from envs import registry
from envs.base import AutoReset, Step
from envs.check import check
from envs.safe import DT, Velocity
from jaxrl.errors import InputError
from jaxrl.families import exact
from tests.turns import turn

KEY = jax.random.key(0)
POINT = ("safe/navigation", "safe/circle")


@pytest.mark.parametrize("name", [*POINT, "tabular/tolls"])
def test_it_keeps_the_protocol(name):
    assert check(name, steps=120) == []


@pytest.mark.slow
@pytest.mark.skipif(not turn("safe/hopper-velocity", 2), reason="multi/halfcheetah's day")
def test_a_model_of_brax_keeps_it():
    assert check("safe/hopper-velocity", steps=120) == []


def test_names_kinds_and_parameters():
    assert {envs.kind(f"safe/{n}") for n in registry.OWN["safe"]} == {"safe"}
    assert envs.make("safe/navigation").objectives == ("return", "hazard", "speed")
    assert envs.make("safe/circle", max_steps=7).max_steps == 7
    with pytest.raises(InputError, match="did you mean limit"):
        envs.make("safe/navigation", limits=2.0)
    with pytest.raises(InputError, match=r"shape \(2,\) instead of \(3, 2\)"):
        envs.make("safe/navigation", hazards=[0.0, 0.0])
    with pytest.raises(InputError, match="limit: 'fast' is not a number"):
        envs.make("safe/hopper-velocity", limit="fast")


def moved(pos, vel, action, wall, force=1.5, drag=0.75):
    """A step of the mass, one axis at a time."""
    new_pos, new_vel = [], []
    for x, v, a in zip(pos, vel, action):
        v = v - DT * drag * v + DT * force * a
        x = x + DT * v
        new_pos.append(min(max(x, -wall), wall))
        new_vel.append(v if abs(x) <= wall else 0.0)
    return new_pos, new_vel


def play(name, start, actions):
    """States and rewards [T, K] of an environment from a state."""
    env, state, out = envs.make_env(name), start, []
    step = jax.jit(env.env.env.step)  # without the limit and the box
    for a in actions:
        s = step(KEY, state, jnp.asarray(a))
        out.append((state := s.state, np.asarray(s.reward)))
    return out


def test_a_mass_is_pushed_pays_by_where_it_is_and_how_fast():
    rng = np.random.default_rng(0)
    actions = np.concatenate([np.full((12, 2), 1.0), rng.uniform(-1, 1, (40, 2))])
    pos, vel, goal = [-0.6, -0.65], [0.0, 0.0], [0.9, 0.1]
    start = tuple(jnp.array(x, jnp.float32) for x in (pos, vel, goal))
    centres = [(0.0, 0.35), (-0.3, -0.2), (0.3, -0.2)]
    paid = np.zeros(2)
    for a, (state, reward) in zip(actions, play("safe/navigation", start, actions)):
        before = np.hypot(pos[0] - goal[0], pos[1] - goal[1])
        pos, vel = moved(pos, vel, a, 1.0)
        np.testing.assert_allclose(state[0], pos, atol=1e-4)
        np.testing.assert_allclose(state[1], vel, atol=1e-4)
        after = np.hypot(pos[0] - goal[0], pos[1] - goal[1])
        np.testing.assert_allclose(reward[0], before - after + (after <= 0.15), atol=1e-4)
        hit = any(np.hypot(pos[0] - x, pos[1] - y) <= 0.2 for x, y in centres)
        np.testing.assert_array_equal(reward[1:], [hit, np.hypot(*vel) > 0.6])
        goal = np.asarray(state[2], float)
        paid += reward[1:]
    assert (paid > 0).all() and (paid < len(actions)).all()


def test_a_goal_that_is_reached_pays_and_makes_room_for_the_next():
    here = jnp.array([0.8, 0.0])
    start = (here, jnp.zeros(2), here + jnp.array([0.1, 0.0]))
    (state, reward), *_ = play("safe/navigation", start, [np.zeros(2)])
    assert reward[0] == 1.0 and not np.allclose(state[2], start[2])
    env = envs.make_env("safe/navigation").env.env
    goals = jax.vmap(lambda k: env.reset(k)[0][2])(jax.random.split(KEY, 200))
    gap = np.linalg.norm(np.asarray(goals)[:, None] - np.asarray(env.hazards), axis=-1)
    assert (gap > env.radius).all()  # no goal is in a hazard
    assert np.ptp(np.arctan2(*np.asarray(goals).T)) > 6


def test_a_circle_is_paid_by_the_speed_along_it():
    """Achiam et al. 2017: v · (-y, x) / (1 + | |x| - d |), and 1 for |x_1| beyond the strip."""
    rng = np.random.default_rng(1)
    state = np.array([0.5, 0.6, -0.8, 0.4])
    actions = np.concatenate([rng.uniform(-1, 1, (30, 2)), np.full((15, 2), [1.0, 0.0])])
    costs = 0
    for a, (after, reward) in zip(actions, play("safe/circle", jnp.float32(state), actions)):
        pos, vel = moved(state[:2], state[2:], a, 2.0)
        state = np.array([*pos, *vel])
        np.testing.assert_allclose(after, state, atol=1e-4)
        want = np.dot(vel, [-pos[1], pos[0]]) / (1 + abs(np.hypot(*pos) - 1.0))
        np.testing.assert_allclose(reward[0], want, atol=1e-4)
        assert reward[1] == (abs(pos[0]) > 0.6)
        costs += reward[1]
    assert 0 < costs < len(actions)


@struct.dataclass
class Rail:
    """Stands for brax: an action is how far the torso goes in a step of half a second."""

    @property
    def upstream(self):
        return SimpleNamespace(dt=0.5)

    def step(self, key, state, action):
        pipeline, info = state
        pos = pipeline.x.pos + action
        after = pipeline.replace(x=pipeline.x.replace(pos=pos))
        flag = jnp.zeros((), bool)
        return Step((after, info), pos[0], action.sum(), flag, flag)


@struct.dataclass
class Pose:
    pos: jax.Array


@struct.dataclass
class Pipeline:
    x: Pose


@pytest.mark.parametrize(
    ("axes", "action", "fast"),
    [
        (1, [0.9, 0.0, 0.0], False),
        (1, [1.1, 0.0, 0.0], True),
        (1, [-3.0, 3.0, 3.0], False),  # forward alone counts
        (2, [0.8, 0.8, 0.0], True),
        (2, [-0.8, 0.8, 0.0], True),
        (2, [0.6, 0.6, 9.0], False),
    ],
)
def test_a_torso_pays_for_its_velocity(axes, action, fast):
    state = (Pipeline(Pose(jnp.array([[4.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))), {})
    s = Velocity(Rail(), jnp.float32(2.0), axes).step(KEY, state, jnp.array(action))
    np.testing.assert_allclose(s.reward, [sum(action), fast], rtol=1e-6)


LIMITS = dict(ant=2.6222, halfcheetah=3.2096, hopper=0.7402, walker2d=2.3415)


def test_the_models_of_brax_are_worlds_with_the_limits_of_safety_gymnasium():
    for model, limit in LIMITS.items():
        world = envs.make(f"safe/{model}-velocity")
        assert isinstance(world, AutoReset) and world.resets == registry.DEAR["brax"]["resets"]
        assert world.objectives == ("return", "cost") and world.max_steps == 1000
        assert float(world.env.env.env.limit) == pytest.approx(limit)
        assert world.env.env.env.axes == (2 if model == "ant" else 1)
    assert float(envs.make("safe/hopper-velocity", limit=2.0).env.env.env.limit) == 2.0


def solution(mdp, gamma, budget):
    """The most there is within a budget, its price, and the policy: an LP over occupancies."""
    P, r, c, rho = (np.asarray(x, float) for x in (mdp.P, mdp.r, mdp.c[0], mdp.rho))
    S, A = r.shape
    flow = np.eye(S)[:, :, None] - gamma * np.moveaxis(P, 2, 0)  # [s', s, a]
    out = linprog(
        -r.ravel(), c.ravel()[None], budget, flow.reshape(S, -1), rho, (0, None), method="highs"
    )
    x = out.x.reshape(S, A)
    return -out.fun, -out.ineqlin.marginals[0], x / x.sum(1, keepdims=True)


def test_tolls_are_best_paid_at_random_somewhere():
    mdp = envs.make("tabular/tolls").tables
    most, price, pi = solution(mdp, 0.9, 2.0)
    J = lambda r: float(exact.expected_return(mdp.replace(r=r), jnp.float32(pi), 0.9))
    assert J(mdp.r) == pytest.approx(most, rel=1e-4) and J(mdp.c[0]) == pytest.approx(2.0, rel=1e-4)
    assert price > 1.0 and ((pi > 0.1).all(1)).sum() == 1  # in one cell it mixes
    with jax.disable_jit():  # what is played pays what the tables say
        env = envs.make_env("tabular/tolls").env
        s = env.step(KEY, jnp.int32(3), jnp.int32(1))
    np.testing.assert_allclose(s.reward, [mdp.r[3, 1], mdp.c[0, 3, 1]])
    assert envs.make("tabular/chain").objectives == ()
