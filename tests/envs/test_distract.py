"""Distractors: a system of their own beside the environment, which does not feel them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry
from envs.check import check
from jaxrl.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", registry.OWN["distract"])
def test_it_keeps_the_protocol(name):
    assert check(f"distract/{name}", steps=60) == []


def test_names_sizes_and_parameters():
    for name, size in dict(pendulum=3, cartpole=4).items():
        for count in (0, 1, 7):
            env = envs.make_env(f"distract/{name}", count=count)
            assert env.observation_space.shape == (size + count,)
            assert env.reset(KEY)[1].shape == (size + count,)
    assert envs.kind("distract/pendulum") == "distract"
    assert envs.make("distract/pendulum", max_steps=7).max_steps == 7
    for said, params in {
        "did you mean gain": dict(gian=1.0),
        "count: 2.5 is outside": dict(count=2.5),
        "count: -1 is outside": dict(count=-1),
        "seed: True is outside": dict(seed=True),
    }.items():
        with pytest.raises(InputError, match=said):
            envs.make("distract/pendulum", **params)


def test_the_task_is_the_inner_one_and_the_rest_goes_its_own_way():
    plain, env = envs.make_env("Pendulum-v1"), envs.make_env("distract/pendulum", count=6, gain=2.5)
    env, W = env.env, np.random.default_rng(0).normal(size=(6, 6)) / np.sqrt(6)
    state, obs = env.reset(KEY)
    inner, first = plain.reset(jax.random.split(KEY)[0])
    np.testing.assert_allclose(obs[:3], first)
    d, step, alone = np.asarray(obs[3:], float), jax.jit(env.step), jax.jit(plain.step)
    for t in range(8):
        a = jnp.array([np.sin(t)])
        s, p = step(KEY, state, a), alone(KEY, inner, a)
        d = np.sin(2.5 * W @ d)
        np.testing.assert_allclose(s.obs[3:], d, atol=1e-4)
        np.testing.assert_allclose(s.obs[:3], p.obs, rtol=1e-5)
        assert s.reward == pytest.approx(float(p.reward), rel=1e-5)
        state, inner = s.state, p.state


def test_it_is_chaotic_beyond_a_gain_of_2_and_dies_out_below():
    def run(gain, d):
        env = envs.make_env("distract/pendulum", gain=gain).env
        inner = env.env.reset(KEY)[0]
        step = lambda d, _: (env.step(KEY, (inner, d), jnp.zeros(1)).state[1], None)
        return np.asarray(jax.jit(lambda d: jax.lax.scan(step, d, length=100)[0])(d))

    d = jax.random.uniform(KEY, (10,), minval=-1.0)
    assert np.abs(run(3.0, d) - run(3.0, d + 1e-4)).max() > 0.1
    assert np.abs(run(0.3, d)).max() < 1e-6
