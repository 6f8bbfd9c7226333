"""Physics that an adversary moves: how far, how fast, and that they are felt and seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry
from envs.base import AutoReset
from envs.check import QUICK, check
from envs.robust import grid, inside, psi, time_constrained
from jaxrl.errors import InputError
from jaxrl.rollout import evaluate

KEY = jax.random.key(0)
L = 0.05


@functools.cache
def played(name, sees="plain", steps=80):
    """Observations [T + 1, 6, ...], actions, and where an episode was cut: the agent's actions are
    random, and so are those of an adversary, but in the last three copies, where it pushes on."""
    world = envs.make(f"robust/{name}", radius=L, sees=sees, max_steps=50)
    space = world.action_space

    def run(world, key):
        state, obs = world.reset(key, 6)
        if space.shape:
            actions = jax.random.uniform(key, (steps, 6, *space.shape), minval=-1.0)
            actions = actions.at[:, 3:, 1:].set(1.0)
        else:
            actions = jax.random.randint(key, (steps, 6), 0, space.n)

        def one(state, x):
            return world.step(x[0], state, x[1])

        trs = jax.lax.scan(one, state, (jax.random.split(key, steps), actions))[1]
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), obs, trs.obs), actions, trs

    obs, actions, trs = jax.jit(run, compiler_options=QUICK)(world, KEY)
    return jax.tree.map(np.asarray, (obs, actions, trs.terminated | trs.truncated))


@pytest.mark.parametrize(("name", "sees"), [("pendulum", "plain"), ("cartpole-walk", "stacked")])
def test_it_keeps_the_protocol(name, sees):
    assert (
        check(AutoReset(envs.make_env(f"robust/{name}", sees=sees, max_steps=50)), steps=60) == []
    )


@pytest.mark.parametrize("name", ["pendulum", "cartpole-walk", "pendulum-still"])
def test_psi_stays_in_its_box_and_moves_no_further_than_the_radius(name):
    obs, actions, cut = played(name, "stacked" if name == "cartpole-walk" else "plain")
    at, fresh = psi(obs), np.concatenate([np.ones((1, 6), bool), cut])
    assert at.shape == (81, 6, 2) and (at >= 0).all() and (at <= 1).all()
    moves = np.diff(at, axis=0)[~cut]
    assert np.abs(moves).max() <= L + 1e-6
    if name == "pendulum":  # the adversary has its way, up to the box
        want = np.clip(at[:-1] + L * actions[..., 1:], 0, 1)
        np.testing.assert_allclose(at[1:][~cut], want[~cut], atol=1e-6)
    elif name.endswith("walk"):
        assert np.abs(moves).max() > 0.9 * L and abs(moves.mean()) < L / 10
    else:
        assert (moves == 0).all()
    begun = at[fresh]
    assert begun.min() < 0.2 and begun.max() > 0.8  # anywhere in the box, and anew each time
    assert len(np.unique(begun[:, 0])) == len(begun)


def test_an_adversary_that_pushes_on_comes_to_the_edge_of_the_box():
    obs, _, _ = played("pendulum")
    assert (psi(obs)[49, 3:] == 1.0).all() and (psi(obs)[10, 3:] < 1.0).any()


def pendulum(theta, speed, u, g, m, l):
    """Gymnasium's pendulum, a step of 0.05: the next angle and speed, the reward."""
    cost = ((theta + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * speed**2 + 0.001 * u**2
    speed = np.clip(speed + 0.05 * (3 * g / (2 * l) * np.sin(theta) + 3 * u / (m * l**2)), -8, 8)
    return theta + 0.05 * speed, speed, -cost


def test_the_step_is_under_the_physics_that_psi_means():
    """ψ moves first, then l and m are low + ψ (high - low), in the order of their names."""
    obs, actions, cut = played("pendulum")
    o, at = obs["obs"], psi(obs)
    theta, speed = np.arctan2(o[..., 1], o[..., 0]), o[..., 2]
    l, m = 0.5 + at[1:, :, 0], 0.5 + at[1:, :, 1]
    then, fast, _ = pendulum(theta[:-1], speed[:-1], 2 * actions[..., 0], 10.0, m, l)
    np.testing.assert_allclose(speed[1:][~cut], fast[~cut], atol=1e-4)
    np.testing.assert_allclose(np.cos(then)[~cut], o[1:, :, 0][~cut], atol=1e-4)
    _, other, _ = pendulum(theta[:-1], speed[:-1], 2 * actions[..., 0], 10.0, 1.0, 1.0)
    assert np.abs(other - speed[1:])[~cut].max() > 0.1  # physics of their own are felt


def test_an_oracle_sees_psi_and_others_leave_it_to_critics():
    views = {s: envs.make_env("robust/pendulum", sees=s) for s in ("plain", "oracle")}
    (at, plain), (_, oracle) = (env.reset(KEY) for env in views.values())
    assert set(plain) == {"obs", "privileged"} and set(oracle) == {"obs", "psi"}
    np.testing.assert_array_equal(oracle["psi"], plain["privileged"])
    np.testing.assert_array_equal(oracle["obs"], plain["obs"])
    assert {s: set(env.observation_space) for s, env in views.items()} == {
        "plain": set(plain),
        "oracle": set(oracle),
    }


def test_a_stacked_view_has_the_step_before():
    obs, actions, cut = played("cartpole-walk", "stacked")
    assert set(obs) == {"obs", "privileged", "before", "action"}
    np.testing.assert_array_equal(obs["before"][1:][~cut], obs["obs"][:-1][~cut])
    np.testing.assert_array_equal(obs["action"][1:][~cut], np.eye(2)[actions][~cut])
    first = np.concatenate([np.ones((1, 6), bool), cut])  # an episode begins with itself, and 0
    assert first[1:].any()
    np.testing.assert_array_equal(obs["before"][first], obs["obs"][first])
    assert (obs["action"][first] == 0).all()
    env = envs.make_env("robust/pendulum", sees="stacked")
    state, _ = env.reset(KEY)
    s = jax.jit(env.step, compiler_options=QUICK)(KEY, state, jnp.array([0.3, 0.5, -0.5]))
    np.testing.assert_allclose(s.obs["action"], [0.3], rtol=1e-6)  # the agent's, not the other's


def test_a_joint_action_plays_where_nobody_listens():
    """A policy that was learned against an adversary is measured in the other worlds as it is."""
    env = envs.make_env("robust/pendulum-still")
    state, _ = env.reset(KEY)
    a = jnp.array([0.3, 1.0, -1.0])
    joint, alone = (env.step(KEY, state, x) for x in (a, a[:1]))
    jax.tree.map(np.testing.assert_array_equal, joint, alone)


def test_a_grid_has_each_point_of_the_box():
    worlds = grid(envs.make("robust/cartpole-still"), 3)

    def run(world, key):
        """Lengths with a force that never changes, and ψ."""
        push = lambda obs, memory, key: (jnp.ones(len(obs["obs"]), jnp.int32), memory)
        return evaluate(push, (), world, key, 8)["length"].mean(), psi(world.reset(key, 1)[1])[0]

    length, at = jax.jit(jax.vmap(run, (0, None)), compiler_options=QUICK)(worlds, KEY)
    want = np.stack(np.meshgrid([0, 0.5, 1], [0, 0.5, 1], indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_allclose(at, want)
    long = np.asarray(length).reshape(3, 3).mean(1)  # a longer pole falls later
    assert long[0] < long[1] < long[2]


def test_names_and_what_is_refused():
    assert {n.partition("-")[0] for n in registry.OWN["robust"]} == {"pendulum", "cartpole"}
    world = envs.make("robust/pendulum", m=[0.8, 1.2], max_steps=7)
    assert world.max_steps == 7 and world.action_space.shape == (3,)
    assert set(world.observation_space) == {"obs", "before", "action", "privileged"}
    alone = envs.make("robust/pendulum-walk")
    assert alone.action_space.shape == (1,) and set(alone.observation_space) == {
        "obs",
        "privileged",
    }
    inner = envs.make_env("Pendulum-v1")
    for message, call in {
        "did you mean masspole": lambda: envs.make("robust/cartpole-walk", maspole=[0.1, 0.2]),
        "did you mean oracle": lambda: envs.make("robust/pendulum", sees="oracel"),
        r"radius: 2 is outside \[0, 1\]": lambda: envs.make("robust/pendulum", radius=2.0),
        "m: 2 to 1 is no interval": lambda: envs.make("robust/pendulum", m=[2.0, 1.0]),
        "CartPole-v1 has Discrete": lambda: time_constrained(
            envs.make_env("CartPole-v1"), dict(length=(0.5, 1.0)), L
        ),
        "has no physics": lambda: time_constrained(
            envs.make_env("tabular/chain"), dict(slip=(0.0, 1.0)), L
        ),
        "Pendulum-v1 has no begin": lambda: grid(inner, 3),
        "did you mean max_torque": lambda: time_constrained(inner, dict(torque=(1.0, 2.0)), L),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


def test_brax_bodies_move_too():
    """Their physics are multiples. (A step of brax takes seconds to compile: see test_adapters.)"""
    env = time_constrained(
        envs.make_env("brax/inverted_pendulum"), dict(gravity_scale=(0.5, 2.0)), L, sees="oracle"
    )
    assert env.action_space.shape == (2,)
    assert float(inside(env.under(jnp.array([0.5])), "physics").physics["gravity_scale"]) == 1.25
