"""Combinatorial problems: their rules, and optima against trying everything."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import combinatorial
from envs.check import check
from jaxrl.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["tsp", "knapsack"])
def test_they_keep_the_protocol(name):
    assert check(f"combinatorial/{name}", steps=60) == []


def length(xy, order):
    return sum(np.linalg.norm(xy[a] - xy[b]) for a, b in zip(order, (*order[1:], order[0])))


@pytest.mark.parametrize("n", [3, 7])
def test_no_tour_is_shorter_than_held_and_karps(n):
    xy = np.asarray(jax.random.uniform(KEY, (n, 2)))
    want = min(length(xy, (0, *rest)) for rest in itertools.permutations(range(1, n)))
    np.testing.assert_allclose(-combinatorial.held_karp(jnp.asarray(xy)), want, rtol=1e-5)


def test_no_packing_is_worth_more_than_the_fullest():
    env = envs.make_env("combinatorial/knapsack", size=9, correlation=0.3)
    _, obs = jax.vmap(env.reset)(jax.random.split(KEY, 5))
    for items, got in zip(np.asarray(obs["items"]), jax.vmap(env.optimum)(obs["items"])):
        weight, value = np.round(items[:, 0] * combinatorial.GRAIN), items[:, 1]
        sets = np.array(list(itertools.product([0, 1], repeat=9)))
        fits = sets @ weight <= env.space
        assert 1 < fits.sum() < len(sets)
        np.testing.assert_allclose(got, (sets @ value)[fits].max(), rtol=1e-5)
        np.testing.assert_allclose(value - 0.3 * items[:, 0], 0.35, atol=0.35)


def played(env, state, actions):
    rewards, step = [], jax.jit(env.step)
    for a in actions:
        s = step(KEY, state, jnp.int32(a))
        state = s.state
        rewards.append(float(s.reward))
        if s.terminated:
            break
    return s, np.array(rewards)


def test_a_tour_costs_its_length_and_closes():
    env = envs.make_env("combinatorial/tsp", size=5, aspect=2.0)
    state, obs = env.reset(KEY)
    assert not obs["marks"].any() and obs["action_mask"].all() and obs["left"] == 1
    order = (3, 1, 4, 0, 2)
    s, rewards = played(env, state, order)
    np.testing.assert_allclose(-rewards.sum(), length(np.asarray(obs["items"]), order), rtol=1e-5)
    assert rewards[0] == 0 and s.terminated and not s.obs["action_mask"].any()
    np.testing.assert_array_equal(s.obs["marks"][:, 0], np.arange(5) == 2)  # here
    np.testing.assert_array_equal(s.obs["marks"][:, 1], np.arange(5) == 3)  # first
    again, rewards = played(env, state, (3, 3, 3))  # visited: the first that is not
    assert (again.state[1] == jnp.array([1, 1, 0, 1, 0], bool)).all() and rewards[1] < 0
    wide = jax.vmap(env.reset)(jax.random.split(KEY, 99))[1]["items"].max((0, 1))
    assert 1.8 < wide[0] <= 2.0 and 0.9 < wide[1] <= 1.0


def test_a_knapsack_takes_what_fits_and_ends_when_nothing_does():
    env = envs.make_env("combinatorial/knapsack", size=6)
    weight, value = jnp.array([10, 9, 20, 12, 1, 11]), jnp.arange(6.0)
    state = weight, value, jnp.zeros(6, bool), jnp.int32(env.space)
    assert env.space == 30
    s, rewards = played(env, state, (3, 5, 3))  # 3 is packed: the first that fits, 4
    np.testing.assert_array_equal(rewards, [3, 5, 4])
    assert s.state[3] == 6 and s.terminated
    np.testing.assert_array_equal(s.obs["marks"][:, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(s.obs["left"], 0.2)


def test_what_does_not_fit_is_said():
    assert envs.make_env("combinatorial/tsp", size=13).optimum is None
    for params, said in [
        (dict(size=2), "size: 2 is outside"),
        (dict(max_steps=8), "ends when it is solved"),
        (dict(correlation=2.0), "correlation: 2 is outside"),
        (dict(aspects=1.0), "unknown|did you mean"),
    ]:
        with pytest.raises(InputError, match=said):
            envs.make("combinatorial/knapsack", **params)
