"""The exact family against slow definitions, and its environments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import exact
from jaxrl.families.exact import Exact
from jaxrl.hyper import cast

NAMES = [f"tabular/{n}" for n in registry.OWN["tabular"]]
GAMMA = 0.9


def problem(name):
    mdp = envs.make(name).tables
    rng = np.random.default_rng(0)
    pi = rng.dirichlet(np.ones(mdp.r.shape[1]), len(mdp.r))
    return mdp, pi, np.asarray(mdp.P, float), np.asarray(mdp.r, float), np.asarray(mdp.rho, float)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_occupancies_are_sums_over_time(name):
    mdp, pi, P, r, rho = problem(name)
    assert np.allclose(P.sum(-1), 1, atol=1e-6) and np.isclose(rho.sum(), 1)
    chain, reward = np.einsum("sa,sap->sp", pi, P), (pi * r).sum(1)
    V, d, at = np.zeros(len(rho)), np.zeros(len(rho)), rho
    ahead = np.eye(len(rho))
    for t in range(400):
        V += GAMMA**t * ahead @ reward
        d += (1 - GAMMA) * GAMMA**t * at
        ahead, at = ahead @ chain, at @ chain
    pi = jnp.asarray(pi, jnp.float32)
    tolerance = dict(rtol=1e-4, atol=1e-4 * np.abs(V).max())
    got = exact.value(mdp, pi, GAMMA)
    np.testing.assert_allclose(got, V, **tolerance)
    np.testing.assert_allclose(exact.occupancy(mdp, pi, GAMMA), d, atol=1e-5)
    np.testing.assert_allclose(exact.action_value(mdp, got, GAMMA), r + GAMMA * P @ V, **tolerance)
    np.testing.assert_allclose(exact.expected_return(mdp, pi, GAMMA), rho @ V, **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_is_a_fixed_point_that_no_policy_passes(name):
    mdp, pi, P, r, _ = problem(name)
    V = np.asarray(exact.best(mdp, GAMMA), float)
    np.testing.assert_allclose(V, (r + GAMMA * P @ V).max(1), atol=1e-4 * (1 + np.abs(V).max()))
    below = V - np.asarray(exact.value(mdp, jnp.asarray(pi, jnp.float32), GAMMA))
    assert (below > -1e-3).all()


def test_in_float64_an_identity_holds_to_twelve_digits():
    """J(π') - J(π) = E_{d'}[A(s, a')] / (1 - γ): Kakade and Langford 2002."""
    with jax.enable_x64(True):
        mdp = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x,
            envs.make("tabular/random").tables,
        )
        mdp = mdp.replace(P=mdp.P / mdp.P.sum(-1, keepdims=True))
        rng = np.random.default_rng(1)
        old, new = jnp.asarray(rng.dirichlet(np.ones(3), (2, 8)))
        V = exact.value(mdp, old, GAMMA)
        A = exact.action_value(mdp, V, GAMMA) - V[:, None]
        gain = exact.occupancy(mdp, new, GAMMA) @ (new * A).sum(1) / (1 - GAMMA)
        J = [exact.expected_return(mdp, pi, GAMMA) for pi in (old, new)]
        assert abs(float(J[1] - J[0] - gain)) < 1e-12


@pytest.mark.parametrize("improve", [exact.ascent(exact.softmax), exact.natural])
def test_steps_raise_the_return_and_the_mode_plays_the_best(improve):
    world, algo, hp = envs.make("tabular/random"), exact.exact(improve), cast(Exact(lr=1.0))
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 200))(jax.random.key(0))
    assert (np.diff(m["episode_return"]) > -1e-4).all() and m["gap"][-1] < 0.1
    V = exact.best(world.tables, GAMMA)
    action = algo.act(s, jnp.eye(8), (), None, None)[0]
    want = exact.action_value(world.tables, V, GAMMA).argmax(1)
    assert (np.asarray(action) == np.asarray(want)).mean() > 0.8


def test_a_world_without_tables_is_refused_in_one_line():
    world = envs.make("CartPole-v1")
    with pytest.raises(InputError, match="CartPole-v1 has no tables"):
        exact.tables(world)
    with pytest.raises(InputError, match=r"slip: 2 is outside \[0, 1\]"):
        envs.make("tabular/maze", slip=2.0)
