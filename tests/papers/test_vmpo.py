"""V-MPO's three losses, arXiv 1909.12238, against NumPy, and what their minima are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import View
from jaxrl.papers.on_policy import vmpo
from jaxrl.papers.on_policy.vmpo import VMPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("vmpo")

A = np.random.default_rng(0).normal(size=11)
HALF = np.argsort(-A)[:6]  # the median is one of eleven, and of the better half


def test_the_weights_are_a_softmax_over_the_better_half():
    want = np.zeros(11)
    want[HALF] = np.exp(A[HALF] / 0.7) / np.exp(A[HALF] / 0.7).sum()
    np.testing.assert_allclose(vmpo.weights(jnp.asarray(A), 0.7), want, rtol=1e-5)


def test_the_temperatures_loss_is_the_formula_and_its_minimum_the_bound():
    loss = lambda eta: vmpo.temperature_loss(jnp.asarray(A), eta, VMPO(eps_eta=0.1))
    want = lambda eta: eta * 0.1 + eta * np.log(np.exp(A[HALF] / eta).mean())
    for eta in (0.3, 1.0, 4.0):
        assert float(loss(eta)) == pytest.approx(want(eta), rel=1e-5)
    grid = np.linspace(0.2, 5, 2000)
    best = grid[np.argmin([want(x) for x in grid])]
    assert abs(float(jax.grad(loss)(jnp.float32(best)))) < 1e-3
    psi = np.asarray(vmpo.weights(jnp.asarray(A), best))[HALF]
    assert (psi * np.log(psi * 6)).sum() == pytest.approx(0.1, rel=0.02)  # KL(ψ || uniform)


def test_the_policys_loss_is_weighted_likelihood_and_the_price_of_the_kl():
    log_prob, kl = jnp.linspace(-2.0, -0.5, 11), jnp.linspace(0.0, 0.1, 11)
    view = View(log_prob, log_prob, log_prob, lambda: kl, lambda: kl, lambda: 9 * kl, None)
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(A, jnp.float32), dual=jnp.array([0.7, 5.0]))
    psi = np.exp(A[HALF] / 0.7) / np.exp(A[HALF] / 0.7).sum()
    want = -(psi * np.asarray(log_prob)[HALF]).sum() + 5.0 * float(kl.mean())
    assert float(vmpo.imitation(view, b, VMPO()).mean()) == pytest.approx(want, rel=1e-5)


def test_the_solution_is_the_tilted_policy():
    """Of a bandit whose every action is in the batch once, without a bound: π = ψ."""
    view = lambda logits: View(
        *[jax.nn.log_softmax(logits)] * 3, *[lambda: jnp.zeros(11)] * 3, None
    )
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(A, jnp.float32), dual=jnp.array([0.7, 0.0]))
    psi = vmpo.weights(b.advantage, 0.7)
    loss = lambda logits: vmpo.imitation(view(logits), b, VMPO()).mean()
    grad = jax.grad(loss)(jnp.log(jnp.maximum(psi, 1e-9)))
    np.testing.assert_allclose(grad, 0, atol=1e-5)
    assert np.abs(jax.grad(loss)(jnp.zeros(11))).max() > 0.01
