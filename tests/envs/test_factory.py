"""Lot sizing: the decision is certain, the demand is not, and both cost what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import factory, registry
from envs.check import check
from jaxrl.errors import InputError

KEY = jax.random.key(0)
RATE = np.array(factory.PARAMETERS["rate"])


@pytest.mark.parametrize("name", registry.OWN["factory"])
def test_it_keeps_the_protocol(name):
    assert check(f"factory/{name}", steps=120) == []


def test_names_and_parameters():
    assert set(factory.TABLE) == set(registry.OWN["factory"])
    assert envs.kind("factory/lot-sizing") == "factory"
    assert envs.make("factory/lot-sizing", max_steps=7).max_steps == 7
    with pytest.raises(InputError, match="did you mean spread"):
        envs.make("factory/lot-sizing", spred=0.5)
    with pytest.raises(InputError, match="rate"):
        envs.make("factory/lot-sizing", rate=[1.0, 2.0])


def plant(**params):
    return envs.make_env("factory/lot-sizing-certain", **params)


def showing(stock, setup, time=0.0, room=40.0):
    return dict(
        setup=jnp.eye(4)[jnp.array(setup)], stock=jnp.array(stock) / room, time=jnp.full(1, time)
    )


@pytest.mark.parametrize(
    ("setup", "action", "made", "changes"),
    [
        ((1, 3), (1, 3), (9.0, 0.0, 9.0), 0),  # as they are set up
        ((1, 3), (2, 3), (0.0, 5.0, 9.0), 1),  # a change costs a unit, too
        ((1, 3), (2, 2), (0.0, 10.0, 0.0), 2),  # both on one item
        ((1, 3), (0, 0), (0.0, 0.0, 0.0), 0),  # idling costs nothing
        ((0, 0), (1, 1), (10.0, 0.0, 0.0), 2),  # but forgets the set-up
    ],
)
def test_the_half_that_is_certain(setup, action, made, changes):
    obs, reward = plant().post(showing([2.0, 3.0, 4.0], setup, 0.5), jnp.array(action))
    np.testing.assert_allclose(obs["stock"] * 40, np.array([2.0, 3.0, 4.0]) + made, rtol=1e-6)
    np.testing.assert_array_equal(obs["setup"], np.eye(4)[list(action)])
    assert float(reward) == -2.0 * changes and float(obs["time"][0]) == 0.5


def test_a_slow_machine_makes_nothing_rather_than_less_than_nothing():
    obs, _ = plant(loss=5.0).post(showing([0.0, 0.0, 0.0], (0, 0)), jnp.array([3, 1]))
    np.testing.assert_array_equal(obs["stock"], 0.0)  # 3 units a step, less 5


def test_post_takes_any_leading_axes():
    env = envs.make_env("factory/lot-sizing")
    keys = jax.random.split(KEY, (2, 3))
    obs = jax.vmap(jax.vmap(lambda k: env.reset(k)[1]))(keys)
    action = jnp.array([[[1, 2], [0, 3], [3, 3]], [[2, 2], [1, 0], [0, 0]]])
    many, paid = env.post(obs, action)
    for i, j in np.ndindex(2, 3):
        one, r = env.post(jax.tree.map(lambda x: x[i, j], obs), action[i, j])  # noqa: B023
        assert float(paid[i, j]) == float(r)
        for k in one:
            np.testing.assert_array_equal(many[k][i, j], one[k])


def test_what_the_demand_leaves_costs():
    """Demands of 4: five of the first remain, three of the second are lost, the third overflows."""
    obs = showing([0.0, 1.0, 39.0], (1, 3))
    s = plant().step(KEY, (obs, jnp.int32(3)), jnp.array([1, 3]))
    np.testing.assert_allclose(s.obs["stock"] * 40, [5.0, 0.0, 40.0], rtol=1e-6)
    np.testing.assert_allclose(s.reward, -(0.1 * 3 + 0.002 * 45), rtol=1e-5)
    np.testing.assert_allclose(s.obs["time"], 4 / 32)
    assert not s.terminated


def test_demand_is_binomial_and_its_spread_is_a_leaf():
    """Mean 10 p and variance 10 p (1 - p), seen in what remains of full stocks."""
    obs = showing([20.0] * 3, (0, 0))

    def left(key, spread):
        env = envs.make_env("factory/lot-sizing").replace(spread=spread)
        return 40 * env.step(key, (obs, jnp.int32(0)), jnp.zeros(2, jnp.int32)).obs["stock"]

    demand = 20 - np.asarray(jax.jit(jax.vmap(left, (0, None)))(jax.random.split(KEY, 2000), 1.0))
    np.testing.assert_allclose(demand, demand.round(), atol=1e-4)
    np.testing.assert_allclose(demand.mean(0), 4.0, atol=0.15)
    np.testing.assert_allclose(demand.var(0), 2.4, atol=0.3)
    assert abs(np.corrcoef(demand.T)[0, 1]) < 0.1
    np.testing.assert_allclose(left(KEY, 0.0), 16.0, rtol=1e-6)


def test_a_plan_ends_for_good_after_max_steps():
    env = plant(max_steps=3)
    state, _ = env.reset(KEY)
    over = []
    for _ in range(3):
        s = env.step(KEY, state, jnp.zeros(2, jnp.int32))
        state, over = s.state, [*over, bool(s.terminated)]
    assert over == [False, False, True] and float(s.obs["time"][0]) == 1.0
