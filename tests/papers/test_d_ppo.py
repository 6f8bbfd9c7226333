"""D-PPO's dropout, arXiv 2310.20380, against loops and the identity that it rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import View
from jaxrl.papers.on_policy import d_ppo, ppo
from jaxrl.papers.on_policy.d_ppo import DPPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("d_ppo")

RNG = np.random.default_rng(0)


def pairs(phi):
    """Of each sample, its part of the sum over pairs, by a loop."""
    n = len(phi)
    return np.array([sum(phi[i] * phi[j] for j in range(n) if j != i) for i in range(n)])


def kept_by_a_loop(phi, rate):
    part, keep = pairs(phi), np.ones(len(phi), bool)
    for side in (phi >= 0, phi < 0):
        own = sorted(np.flatnonzero(side), key=lambda i: part[i])
        keep[own[: round(rate * len(own))]] = False
    return keep


def losses(hp, log_ratio, advantage):
    zero = jnp.zeros(())
    w = View(jnp.asarray(log_ratio), zero, zero, *[lambda: zero] * 3, None)
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(advantage))
    return np.asarray(d_ppo.dropout(w, b, hp))


def test_the_variance_is_that_of_the_identity():
    """Var φ = (n - 1) L² - (1/n) Σ_{i≠j} φᵢ φⱼ."""
    phi = RNG.normal(0.3, 2.0, 30)
    want = 29 * phi.mean() ** 2 - pairs(phi).sum() / 30
    np.testing.assert_allclose(phi.var(), want, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.35, 0.9])
@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.4, 4.0])  # at 4 there is no X-
def test_those_with_least_of_the_pairs_go_from_each_sign(rate, shift):
    phi = RNG.normal(shift, 1.0, 40)
    phi = np.abs(phi) if shift == 4.0 else phi
    got = np.asarray(d_ppo.kept(jnp.asarray(phi, jnp.float32), DPPO(rate=rate)))
    np.testing.assert_array_equal(got, kept_by_a_loop(phi, rate))


def test_it_drops_rows_of_sequences_alike():
    phi = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
    one, other = (np.asarray(d_ppo.kept(x, DPPO())) for x in (phi, phi.ravel()))
    np.testing.assert_array_equal(one.ravel(), other)


def test_dropping_lowers_the_variance_where_dropping_at_random_does_not():
    change = {"pairs": [], "random": []}
    for _ in range(30):
        phi = RNG.normal(0.1, 1.0, 256).astype(np.float32)
        for drop, changes in change.items():
            keep = np.asarray(d_ppo.kept(jnp.asarray(phi), DPPO(drop=drop)))
            assert (~keep).sum() == round(0.2 * (phi >= 0).sum()) + round(0.2 * (phi < 0).sum())
            changes.append(phi[keep].var() / phi.var())
    assert np.max(change["pairs"]) < 0.95
    assert 0.97 < np.mean(change["random"]) < 1.03


def test_the_loss_is_ppos_over_what_is_kept():
    log_r, A = RNG.normal(0, 0.3, 50), RNG.normal(size=50)
    keep = kept_by_a_loop(np.exp(log_r) * A, 0.2)
    want, r = 0.0, np.exp(log_r)
    for i in np.flatnonzero(keep):
        want -= min(r[i] * A[i], np.clip(r[i], 0.8, 1.2) * A[i]) / keep.sum()
    got = losses(DPPO(), log_r, A)
    np.testing.assert_allclose(got.mean(), want, rtol=1e-4)
    assert not got[~keep].any()


def test_without_dropout_it_is_ppo():
    log_r, A = RNG.normal(0, 0.3, 50), RNG.normal(size=50)
    zero = jnp.zeros(())
    w = View(jnp.asarray(log_r), zero, zero, *[lambda: zero] * 3, None)
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(A))
    np.testing.assert_allclose(losses(DPPO(rate=0.0), log_r, A), ppo.clip(w, b, DPPO()))


def test_what_is_dropped_has_no_gradient_and_the_choice_none_either():
    log_r, A = RNG.normal(0, 0.1, 20), RNG.normal(size=20)
    zero = jnp.zeros(())

    def loss(x):
        w = View(x, zero, zero, *[lambda: zero] * 3, None)
        return d_ppo.dropout(w, Batch(0, 0, 0, 0, advantage=jnp.asarray(A)), DPPO()).sum()

    keep = kept_by_a_loop(np.exp(log_r) * A, 0.2)
    r = np.exp(log_r)
    free = np.where(A > 0, r < 1.2, r > 0.8) & keep
    want = np.where(free, -r * A, 0.0) / keep.mean()
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(log_r)), want, rtol=1e-4, atol=1e-6)
