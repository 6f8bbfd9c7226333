"""Dynamic policy gradient, arXiv 2310.02671, against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.hyper import cast
from jaxrl.papers.theory import dynamic_pg
from jaxrl.papers.theory.dynamic_pg import DynamicPG
from jaxrl.rollout import evaluate

pytestmark = pytest.mark.equation("dynamic_pg")
H = 4


@pytest.fixture(scope="module")
def problem():
    world = envs.make("tabular/random", states=3, max_steps=H)
    theta = jnp.asarray(np.random.default_rng(0).normal(size=(H, 3, 3)), jnp.float32)
    return world, world.tables, theta


def J(theta, mdp, first=0):
    """E of the rewards from epoch `first` on, from ρ, or from all states alike where it is later:
    forward sums over distributions."""
    d = mdp.rho if first == 0 else jnp.ones(3) / 3
    total = 0.0
    for h in range(first, H):
        pi = jnp.exp(theta[h]) / jnp.exp(theta[h]).sum(-1, keepdims=True)
        total += (d[:, None] * pi * mdp.r).sum()
        d = jnp.einsum("s,sa,sap->p", d, pi, mdp.P)
    return total


def stepped(theta, mdp, t, **hyper):
    hp = cast(DynamicPG(lr=0.5, **hyper)).replace(horizon=jnp.float32(10))
    return dynamic_pg.improve(dict(theta=theta, key=jax.random.key(0)), mdp, t, hp)


def test_a_simultaneous_step_is_the_gradient_of_all_epochs(problem):
    _, mdp, theta = problem
    new, _ = stepped(theta, mdp, 0, order="simultaneous")
    eta = 0.5 / (5 * H**2 * float(mdp.r.max()))
    np.testing.assert_allclose(
        new["theta"] - theta, eta * jax.grad(J)(theta, mdp), rtol=1e-3, atol=1e-6
    )


def test_a_dynamic_step_trains_one_epoch_and_they_come_from_the_last_to_the_first(problem):
    """Ten steps: shares of 1, 2, 3, 4 of ten."""
    _, mdp, theta = problem
    order = [3, 2, 2, 1, 1, 1, 0, 0, 0, 0]
    for t, h in enumerate(order):
        new, m = stepped(theta, mdp, t)
        assert m["epoch"] == h
        want = np.array(jax.grad(J)(theta, mdp, h))
        want[np.arange(H) != h] = 0.0
        eta = 0.5 / (2 * (H - h) * float(mdp.r.max()))
        np.testing.assert_allclose(new["theta"] - theta, eta * want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("order", ["dynamic", "simultaneous"])
def test_trajectories_estimate_the_gradient_without_bias(problem, order):
    _, mdp, theta = problem
    hp = DynamicPG(order=order, samples=100_000)
    pi = jax.nn.softmax(theta)
    draw = jax.jit(lambda key: dynamic_pg.sampled(key, pi, mdp, 1, hp))
    got = draw(jax.random.key(1))
    np.testing.assert_allclose(got, dynamic_pg.exactly(pi, mdp, 1, hp), atol=0.01)
    assert np.abs(got).max() > 0.03


def test_offers_are_taken_by_the_rule_of_optimal_stopping():
    """v_h = E max(x, v_{h+1}); what is played knows the step, and is worth as much as is said."""
    world = envs.make("tabular/stopping", max_steps=5)
    algo, hp = dynamic_pg.make(world), cast(DynamicPG(lr=2000.0))
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 200))(jax.random.key(0))
    x, v = np.arange(1, 6) / 5, 0.0
    for _ in range(5):
        v = np.maximum(x, v).mean()
    np.testing.assert_allclose(s.most, v, atol=1e-6)
    assert m["gap"][-1] < 0.01
    act = lambda obs, step, key: algo.act(s, obs, step, None, hp)
    played = jax.jit(lambda k: evaluate(act, algo.memory(4000), world, k, 4000)["return"])
    assert abs(float(played(jax.random.key(2)).mean()) - v) < 0.02
