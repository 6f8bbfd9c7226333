"""Other libraries' environments, as ours: against the protocol, and against the originals."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import play

import envs
from envs.adapters.gymnasium_env import play as play_gymnasium
from envs.base import AutoReset, Randomise, TimeLimit
from envs.check import check
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError
from jaxrl.rollout import evaluate

KEY = jax.random.key(0)


def inner(env):
    """The adapter inside the wrappers."""
    return env if hasattr(env, "physics") else inner(env.env)


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Breakout-MinAtar", "MemoryChain-bsuite"]
)
def test_gymnax_keeps_the_protocol(name):
    """rejax 0.1.3 unpacks five values from a step of gymnax 1, which gives six."""
    assert check(name, steps=250) == []


@pytest.mark.parametrize(
    "name", ["brax/fast", pytest.param("brax/inverted_pendulum", marks=pytest.mark.slow)]
)
def test_brax_keeps_the_protocol(name):
    assert check(name, steps=120) == []


def test_deep_sea_terminates_and_is_not_truncated():
    _, tr = play(envs.make("DeepSea-bsuite", size=5), KEY, 2, 10)
    np.testing.assert_array_equal(np.flatnonzero(tr.terminated[:, 0]), [4, 9])
    assert not tr.truncated.any()
    env = envs.make_env("DeepSea-bsuite", size=5)  # and before AutoReset sees it
    assert env.max_steps == 5
    state, _ = env.reset(KEY)
    step = jax.jit(env.step)
    for _ in range(5):
        s = step(KEY, state, jnp.int32(0))
        state = s.state
    assert s.terminated and not s.truncated


def test_gymnax_tells_an_end_from_a_cut_and_keeps_the_last_observation():
    """gymnax#108, Stoix#147, jaxnasium#6: one flag for both, and the next episode's first
    observation. A pole that is always pushed to the right falls after about nine steps."""
    _, tr = play(envs.make("CartPole-v1", max_steps=9), KEY, 16, 40, 1)
    final = np.asarray(tr.final_obs)
    fallen = np.abs(final[..., 2]) > 12 * 2 * np.pi / 360
    np.testing.assert_array_equal(tr.terminated, fallen)
    cut = np.asarray(tr.truncated)
    assert fallen.any() and cut.any() and not (fallen & cut).any()
    assert (final[fallen | cut, 1] > 1.0).all()  # nine pushes make it fast
    assert (np.abs(tr.obs[fallen | cut]) <= 0.05).all()


def test_pendulum_is_cut_and_never_ends():
    """gymnax#108, Stoix#147: a time limit that is called an end."""
    _, tr = play(envs.make("Pendulum-v1", max_steps=20), KEY, 2, 45)
    np.testing.assert_array_equal(np.flatnonzero(tr.truncated[:, 0]), [19, 39])
    assert not tr.terminated.any()


def test_memory_chain_is_solved_by_memory():
    """The bit is shown first and asked for last: who remembers it gets 1 each time."""
    world = envs.make("MemoryChain-bsuite", memory_length=3)
    space = world.observation_space
    assert space.low == (0.0, 0.0, -1.0)

    @jax.jit
    def run(key):
        state, obs = world.reset(key, 64)

        def one(carry, key):
            state, bit = carry
            state, tr = world.step(key, state, (bit > 0).astype(jnp.int32))
            seen = tr.obs[:, 2]
            return (state, jnp.where(seen == 0, bit, seen)), tr

        return jax.lax.scan(one, (state, obs[:, 2]), jax.random.split(key, 40))[1]

    tr = run(KEY)
    assert tr.terminated.sum() == 64 * 10
    np.testing.assert_array_equal(tr.reward, tr.terminated.astype(jnp.float32))


def test_frozen_lake_is_one_hot():
    env = envs.make_env("FrozenLake-misc")
    _, obs = env.reset(KEY)
    assert env.observation_space == Box(0.0, 1.0, (16,))
    np.testing.assert_array_equal(obs, np.eye(16)[0])


def test_derived_parameters_follow():
    """Upstream keeps total_mass beside masspole; a heavier pole must weigh on the cart too."""
    params = envs.make_env("CartPole-v1", masspole=1.0).params
    assert params.total_mass == 2.0 and params.polemass_length == 0.5


def test_bounds_follow_the_physics_inside_a_trace():
    fast = envs.make("Pendulum-v1", max_torque=4.0)
    assert inner(fast).action_space.high == 4.0
    reach = jax.jit(lambda w: w.env.native(jnp.ones(1)))(fast)
    np.testing.assert_allclose(reach, [4.0])
    stack = jax.tree.map(lambda *x: jnp.stack(x), fast, envs.make("Pendulum-v1"))
    np.testing.assert_allclose(jax.vmap(lambda w: w.env.native(jnp.ones(1)))(stack), [[4.0], [2.0]])
    assert stack.observation_space.shape == (3,)


def test_brax_begins_afresh_and_keeps_the_last_observation():
    """brax's own AutoReset gives one start for ever (brax#167, #275, playground#179), and loses the
    last observation (brax#641, playground#305, #350, #351)."""
    world = envs.make("brax/inverted_pendulum", max_steps=3)
    first, tr = play(world, KEY, 2, 9)
    np.testing.assert_array_equal(np.flatnonzero(tr.truncated[:, 0]), [2, 5, 8])
    starts = np.concatenate([first[None], tr.obs[jnp.array([2, 5, 8])]]).reshape(-1, 4)
    assert len(np.unique(starts, axis=0)) == 8
    assert not np.allclose(tr.final_obs[2], tr.obs[2])
    np.testing.assert_array_equal(tr.final_obs[1], tr.obs[1])


def test_brax_steps_as_brax():
    """Our step against brax's own, from the same key, 1e-6."""
    env = envs.make_env("brax/inverted_pendulum")
    original = inner(env).upstream
    action = jnp.array([0.3])

    @jax.jit
    def both(key):
        (state, obs), s = env.reset(key), original.reset(key)
        step, s2 = env.step(key, state, action), original.step(s, action)
        return obs, s.obs, step.obs, s2.obs, step.reward, s2.reward

    a, b, c, d, r, q = both(KEY)
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(c, d, atol=1e-6)
    assert r == q


def test_every_step_of_brax_is_counted():
    """brax#610: of several steps under one action only the last was kept.

    `fast` gains 0.02 of speed a step and pays its position: 0.0004 k (k + 1) / 2 at step k.
    """
    world = envs.make("brax/fast", max_steps=7)
    push = jnp.ones((2, *world.action_space.shape))
    got = evaluate(lambda obs, memory, key: (push, memory), (), world, KEY, 2)
    np.testing.assert_array_equal(got["length"], 7)
    np.testing.assert_allclose(got["return"], 0.0004 * (1 + 3 + 6 + 10 + 15 + 21 + 28), rtol=1e-5)


def heavier(key, env):
    scale = jax.random.uniform(key, minval=1.0, maxval=500.0)
    return env.replace(physics={**env.physics, "gravity_scale": scale})


def test_brax_gravity_can_be_randomised():
    brax = inner(envs.make_env("brax/inverted_pendulum"))
    world = AutoReset(TimeLimit(Randomise(brax, heavier), 50))

    @jax.jit
    def fall(key):
        state, _ = world.reset(key, 2)
        (inner, env), count = state
        inner = jax.tree.map(lambda x: x[jnp.array([0, 0])], inner)  # one state, two gravities
        after, tr = world.step(key, ((inner, env), count), jnp.zeros((2, 1)))
        return env.physics["gravity_scale"], after[0][1].physics["gravity_scale"], tr.final_obs

    drawn, kept, obs = fall(KEY)
    assert drawn[0] != drawn[1]
    np.testing.assert_array_equal(drawn, kept)
    assert not np.allclose(obs[0], obs[1], atol=1e-6)


def test_brax_prints_nothing():
    code = "import envs; envs.make('brax/inverted_pendulum')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def _parity(name, set_state, steps, atol):
    """Single steps, ours and Gymnasium's, each from the same state."""
    gymnasium = pytest.importorskip("gymnasium")
    theirs, ours = gymnasium.make(name).unwrapped, envs.make_env(name)
    step = jax.jit(ours.step)
    theirs.reset(seed=0)
    rng = np.random.default_rng(0)
    state, _ = ours.reset(KEY)
    for _ in range(steps):
        state, a = set_state(theirs, state, rng), rng.integers(2)
        box = isinstance(ours.action_space, Box)
        obs, reward, terminated, *_ = theirs.step(np.array([2.0 if a else -1.0]) if box else a)
        s = step(KEY, state, jnp.array([1.0 if a else -0.5]) if box else jnp.int32(a))
        np.testing.assert_allclose(s.obs, obs, atol=atol)
        np.testing.assert_allclose(s.reward, reward, atol=atol)
        assert bool(s.terminated) == terminated


def test_cartpole_moves_as_gymnasium():
    def set_state(env, state, rng):
        x = rng.uniform(-1, 1, 4) * [2.4, 2, 0.2, 2]
        env.state, env.steps_beyond_terminated = x, None
        return state.replace(
            **dict(zip(("x", "x_dot", "theta", "theta_dot"), map(jnp.float32, x), strict=True))
        )

    _parity("CartPole-v1", set_state, 20, 1e-5)


def test_pendulum_moves_as_gymnasium():
    def set_state(env, state, rng):
        env.state = x = rng.uniform(-1, 1, 2) * [np.pi, 8]
        return state.replace(theta=jnp.float32(x[0]), theta_dot=jnp.float32(x[1]))

    _parity("Pendulum-v1", set_state, 20, 1e-4)


def test_acrobot_moves_as_gymnasium():
    def set_state(env, state, rng):
        env.state = x = rng.uniform(-1, 1, 4) * [3, 3, 2, 2]
        names = ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2")
        return state.replace(**dict(zip(names, map(jnp.float32, x), strict=True)))

    _parity("Acrobot-v1", set_state, 20, 1e-4)


def test_play_counts_the_first_episode_of_each():
    pytest.importorskip("gymnasium")
    seen = []

    def act(obs):
        seen.append(obs)
        return np.ones(len(obs), int)

    returns, lengths = play_gymnasium("CartPole-v1", act, 3, 0, action_space=Discrete(2))
    np.testing.assert_array_equal(
        returns, lengths
    )  # CartPole pays 1 a step; always right falls soon
    assert (lengths > 5).all() and (lengths < 15).all() and len(seen) == lengths.max()
    assert seen[0].dtype == np.float32 and seen[0].shape == (3, 4)
    again, _ = play_gymnasium("CartPole-v1", act, 3, 0)
    np.testing.assert_array_equal(returns, again)


def test_play_gives_native_actions():
    """MountainCarContinuous pays -0.1 a^2 a step, Pendulum's torque is twice our action."""
    pytest.importorskip("gymnasium")
    returns, lengths = play_gymnasium(
        "MountainCarContinuous-v0", lambda o: np.full((len(o), 1), -0.3), 1, 0
    )
    np.testing.assert_allclose(returns, -0.009 * lengths, rtol=1e-4)
    still, _ = play_gymnasium("Pendulum-v1", lambda o: np.zeros((len(o), 1)), 1, 0)
    assert still < -200


def test_play_refuses_what_does_not_fit():
    pytest.importorskip("gymnasium")
    for call, says in [
        (("CartPole-v9", None, 1, 0), "gymnasium makes no 'CartPole-v9'"),
        (("CartPole-v1", None, 0, 0), "episodes: 0 is outside"),
        (
            ("CartPole-v1", None, 1, 0, Box(0.0, 1.0, (3,))),
            "observations Box(4,); the policy was trained on Box(3,)",
        ),
        (
            ("CartPole-v1", None, 1, 0, None, Box(-1.0, 1.0, (1,))),
            "actions Discrete(2); the policy was trained on Box(1,)",
        ),
    ]:
        with pytest.raises(InputError) as e:
            play_gymnasium(*call)
        assert says in str(e.value) and "\n" not in str(e.value)


def test_an_environment_brings_nothing_that_draws():
    """gymnax imports pyplot and seaborn with its environments, a third of the time to a first
    update; both are there for whoever asks afterwards."""
    script = (
        "import sys, envs; envs.make('CartPole-v1')\n"
        "assert not {'seaborn', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "from gymnax.environments.misc import pong\n"
        "pong.plt.Figure, pong.sns.color_palette\n"
        "import seaborn, matplotlib.pyplot as plt; plt.Figure, seaborn.color_palette"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
