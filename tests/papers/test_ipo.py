"""IPO, arXiv 1910.09615: the barrier, and the objective by a loop over samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import View
from jaxrl.families.safe import Account
from jaxrl.papers.safe.ipo import IPO, interior_point, log_barrier
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("ipo")

M = 9


def problem(cost, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(M, 3)).astype(np.float32)
    account = Account(jnp.asarray(cost), jnp.float32(50.0))
    b = Batch(0, 0, 0, jnp.zeros(M, bool), advantage=jnp.asarray(A), dual=account)
    return b, A, rng.normal(size=M).astype(np.float32) * 0.3


def view(log_ratio):
    none = lambda: 0
    return View(log_ratio, log_ratio, log_ratio, none, none, none, {})


def test_the_barrier_is_a_logarithm_and_then_its_tangent():
    x = jnp.array([5.0, 1.0, 0.5, 0.0, -3.0])
    want = [np.log(5.0), np.log(1.0), np.log(0.5), np.log(0.5) - 1.0, np.log(0.5) - 7.0]
    np.testing.assert_allclose(log_barrier(x, 0.5), want, rtol=1e-5)
    slope = jax.vmap(jax.grad(log_barrier), (0, None))(x, 0.5)
    np.testing.assert_allclose(slope, [0.2, 1.0, 2.0, 2.0, 2.0], rtol=1e-5)


@pytest.mark.parametrize("cost", [[1.0, 3.0], [6.0, 3.5]])
def test_the_objective_is_the_clipped_one_and_the_barriers(cost):
    b, A, log_ratio = problem(np.float32(cost))
    hp, budget = IPO(budget=(4.0, 8.0), eps=0.2, sharpness=7.0, room=0.5), (4.0, 8.0)
    gain, paid = 0.0, np.array(cost, float)
    for r, a in zip(np.exp(log_ratio), A):
        near = min(max(r, 0.8), 1.2)
        gain += min(r * a[0], near * a[0]) / M
        for k in range(2):  # the dearer of the two
            paid[k] += 50.0 * (max(r * a[1 + k], near * a[1 + k]) - a[1 + k]) / M
    for room in np.array(budget) - paid:
        gain += (np.log(room) if room > 0.5 else np.log(0.5) + (room - 0.5) / 0.5) / 7.0
    got = interior_point(view(jnp.asarray(log_ratio)), b, hp).mean()
    np.testing.assert_allclose(got, -gain, rtol=1e-4)


def test_at_the_old_policy_a_cost_s_price_is_inverse_to_its_room():
    """The gradient is that of A_r - Σ T / (t (d_k - J_k)) A_k."""
    b, A, _ = problem(np.float32([1.0, 7.8]))
    hp = IPO(budget=(4.0, 8.0), sharpness=20.0, room=0.5)
    loss = lambda log_ratio: interior_point(view(log_ratio), b, hp).mean()
    got = jax.grad(loss)(jnp.full(M, 1e-6))
    price = 50.0 / 20.0 / np.array([4.0 - 1.0, 0.5])
    np.testing.assert_allclose(got, -(A[:, 0] - A[:, 1:] @ price) / M, rtol=1e-3, atol=1e-5)
