"""Action values and their losses, against closed forms, SciPy and single networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.critics import (
    ActionValue,
    ActionValues,
    classification,
    ensemble,
    gaussian_bins,
    huber,
    regression,
    squared,
    two_hot,
)
from jaxrl.networks import MLP
from jaxrl.run.battery import QUICK

quick = functools.partial(jax.jit, compiler_options=QUICK)

LOW, HIGH, BINS = -2.0, 3.0, 25
WIDTH = (HIGH - LOW) / BINS
EDGES = LOW + WIDTH * np.arange(BINS + 1)
CENTRES = EDGES[:-1] + WIDTH / 2
INSIDE = np.concatenate([np.linspace(CENTRES[0], CENTRES[-1], 61), CENTRES[:3]])


@functools.cache
def spread(sigma=0.75):
    """Histograms of targets inside the support, by both ways: [targets, bins] each."""
    y, edges = jnp.asarray(INSIDE, jnp.float32), jnp.asarray(EDGES, jnp.float32)
    f = quick(lambda sigma: (gaussian_bins(y, edges, sigma), two_hot(y, edges)))
    return jax.tree.map(np.asarray, f(sigma))


def test_huber_has_the_gradient_of_a_clipped_error():
    e = jnp.array([-7.0, -1.5, -1.0, -0.4, 0.0, 0.3, 1.0, 2.0, 50.0])
    loss, slope = quick(jax.vmap(jax.value_and_grad(huber)))(e)
    np.testing.assert_allclose(slope, np.clip(e, -1, 1), rtol=1e-6)
    want = [0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5 for x in np.asarray(e, float)]
    np.testing.assert_allclose(loss, want, rtol=1e-6)


def test_regression_is_by_a_number_s_own_error():
    out, y = jnp.array([[1.0], [3.0]]), jnp.array([2.0, -1.0])
    np.testing.assert_array_equal(squared.value(out), [1.0, 3.0])
    np.testing.assert_allclose(squared.loss(out, y), [1.0, 16.0])
    np.testing.assert_allclose(regression(huber).loss(out, y), [0.5, 3.5])
    above = regression(lambda e: jnp.maximum(e, 0.0))  # the error is Q - y
    np.testing.assert_allclose(above.loss(out, y), [0.0, 4.0])
    assert squared.size == 1


def test_two_hot_has_mean_y_exactly_and_mass_on_its_neighbours():
    p = spread()[1]
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)  # the width's rounding
    np.testing.assert_allclose(p @ CENTRES, INSIDE, atol=1e-5)
    for y, row in zip(INSIDE, p):
        held = np.flatnonzero(row > 1e-5)
        assert len(held) <= 2 and (np.abs(CENTRES[held] - y) < WIDTH).all()
        assert (row >= 0).all()


@pytest.mark.parametrize("sigma", [0.2, 0.75, 3.0])
def test_gaussian_bins_are_the_gaussian_s_mass_within_the_support(sigma):
    p = spread(sigma)[0]
    for y, row in zip(INSIDE, p):
        mass = np.diff(stats.norm.cdf(EDGES, loc=y, scale=sigma * WIDTH))
        np.testing.assert_allclose(row, mass / mass.sum(), atol=1e-5)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)


def test_a_histogram_s_mean_is_the_target_where_nothing_is_cut_off():
    far = (INSIDE > LOW + 4 * WIDTH) & (INSIDE < HIGH - 4 * WIDTH)  # over five σ from an edge
    mean = spread()[0] @ CENTRES
    np.testing.assert_allclose(mean[far], INSIDE[far], atol=1e-3 * WIDTH)
    # at the first centre half of a σ-wide tail is lost, never more than a part of a width
    assert np.abs(mean - INSIDE).max() < WIDTH / 2


def smooth(y, edges):
    return gaussian_bins(y, edges, 0.75)


@pytest.mark.parametrize("how", [smooth, two_hot])
def test_classification_is_cross_entropy_and_its_value_a_mean(how):
    critic = classification(LOW, HIGH, BINS, how)
    rng = np.random.default_rng(0)
    out, y = rng.normal(size=(6, BINS)), rng.uniform(-1, 2, 6)
    q = np.exp(out) / np.exp(out).sum(1, keepdims=True)
    p = np.asarray(how(jnp.asarray(y, jnp.float32), jnp.asarray(EDGES, jnp.float32)), float)
    loss, slope = quick(jax.vmap(jax.value_and_grad(critic.loss)))(jnp.float32(out), jnp.float32(y))
    np.testing.assert_allclose(loss, -(p * np.log(q)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(slope, q - p, atol=1e-5)
    np.testing.assert_allclose(critic.value(jnp.float32(out)), q @ CENTRES, atol=1e-5)
    assert critic.size == BINS


@pytest.mark.parametrize("how", [smooth, two_hot])
def test_targets_beyond_the_support_are_those_at_its_ends(how):
    critic = classification(LOW, HIGH, BINS, how)
    out = jnp.asarray(np.random.default_rng(1).normal(size=BINS), jnp.float32)
    y = jnp.array([-2.0, -50.0, -1e9, 3.0, 70.0, 1e9, CENTRES[0], CENTRES[-1]])
    loss = np.asarray(quick(jax.vmap(critic.loss, (None, 0)))(out, y))
    np.testing.assert_allclose(loss[:3], loss[6], rtol=1e-5)
    np.testing.assert_allclose(loss[3:6], loss[7], rtol=1e-5)
    assert abs(loss[6] - loss[7]) > 0.01


def test_the_support_may_be_swept():
    """low and high are traced: one program."""

    def one(low, high):
        critic, out = classification(low, high, BINS, two_hot), jnp.zeros(BINS)
        return critic.loss(out, jnp.float32(0.0)), critic.value(out)

    loss, mean = quick(jax.vmap(one))(jnp.array([-1.0, -4.0]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(loss, np.log(BINS), rtol=1e-5)  # of a uniform one, whatever p is
    np.testing.assert_allclose(mean, [0.5, -0.5], atol=1e-5)


# ---- networks --------------------------------------------------------------------------------

torso = lambda: MLP((5,))
KEY = jax.random.key(0)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
ACTION = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (4, 2)), jnp.float32)


def dense(layer, x):
    return np.asarray(x, float) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def test_members_of_an_ensemble_differ_and_are_single_networks():
    net = ActionValue(2, torso)
    init, apply = ensemble(net, 3)
    params = jax.jit(init)(KEY, OBS, ACTION)
    out = np.asarray(quick(apply)(params, OBS, ACTION))
    assert out.shape == (3, 4, 2)
    one = quick(net.apply)
    for i in range(3):
        member = jax.tree.map(lambda x, i=i: x[i], params)
        np.testing.assert_allclose(out[i], one(member, OBS, ACTION), rtol=1e-5, atol=1e-6)
        x = dense(member["params"]["MLP_0"]["Dense_0"], np.concatenate([OBS, ACTION], 1))
        want = dense(member["params"]["Dense_0"], np.tanh(x))
        np.testing.assert_allclose(out[i], want, rtol=1e-4, atol=1e-6)
    kernels = np.asarray(params["params"]["Dense_0"]["kernel"])
    apart = [np.abs(kernels[i] - kernels[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 0.05


def test_an_action_s_values_stand_side_by_side():
    net = ActionValues(3, 4, torso)
    params = jax.jit(net.init)(KEY, OBS)
    out = np.asarray(quick(net.apply)(params, OBS))
    x = np.tanh(dense(params["params"]["MLP_0"]["Dense_0"], OBS))
    flat = dense(params["params"]["Dense_0"], x)
    for a in range(3):
        np.testing.assert_allclose(out[:, a], flat[:, 4 * a : 4 * a + 4], rtol=1e-4, atol=1e-6)


def test_a_critic_reads_images_and_dictionaries():
    """What an observation is made of is flat beside the action, the mask left out."""
    net, layout = ActionValue(1, torso), dict(a=jnp.ones((4, 2, 2)), b=jnp.zeros((4, 1), bool))
    width = lambda obs: jax.eval_shape(net.init, KEY, obs, ACTION)["params"]["MLP_0"]["Dense_0"][
        "kernel"
    ].shape[0]
    assert width(jnp.zeros((4, 2, 3), bool)) == 6 + 2
    assert width(layout) == 5 + 2
    assert width(layout | dict(privileged=jnp.ones((4, 3)))) == 8 + 2
    assert width(layout | dict(action_mask=jnp.ones((4, 3), bool))) == 5 + 2
