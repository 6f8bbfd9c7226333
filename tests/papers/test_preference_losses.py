"""Losses of preferences against loops over their formulas, and their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.papers.preference import dpo, psipo
from tests.papers.preferences_by_hand import gradient_at_the_optimum, said, train

rng = np.random.default_rng(0)
POLICY, REF = rng.normal(size=(5, 2)) - 3, rng.normal(size=(5, 2)) - 3


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(one, slope, beta):
    """Values of a loss f(h) and gradients in log π, from f and f' of the margin h."""
    h = [(POLICY[i, 0] - REF[i, 0]) - (POLICY[i, 1] - REF[i, 1]) for i in range(5)]
    return [one(x) for x in h], [[slope(x), -slope(x)] for x in h]


def check(module, hp, one, slope):
    values, grads = by_hand(one, slope, float(hp.beta))
    got = module.loss(said(POLICY, REF), None, hp)
    np.testing.assert_allclose(got, values, rtol=1e-5)
    of = lambda p: module.loss(said(p, REF, POLICY), None, hp).sum()
    np.testing.assert_allclose(jax.grad(of)(jnp.asarray(POLICY)), grads, rtol=1e-4)


@pytest.mark.equation("dpo")
def test_dpo_by_hand():
    one = lambda h: -math.log(sigmoid(0.3 * h))
    check(dpo, dpo.DPO(beta=0.3), one, lambda h: -0.3 * (1 - sigmoid(0.3 * h)))


@pytest.mark.equation("psipo")
def test_ipo_by_hand():
    one = lambda h: (h - 1 / 0.6) ** 2
    check(psipo, psipo.IPO(beta=0.3), one, lambda h: 2 * (h - 1 / 0.6))


@pytest.mark.equation("dpo")
def test_dpo_comes_to_gibbs_policy():
    assert gradient_at_the_optimum(dpo, dpo.DPO).max() < 1e-5
    metrics, _ = train(dpo, dpo.DPO, 1000)
    assert metrics["tv"][:, 0].min() > 0.05 and metrics["tv"][:, -1].max() < 0.01


@pytest.mark.equation("psipo")
def test_ipo_comes_to_its_closed_form():
    assert gradient_at_the_optimum(psipo, psipo.IPO).max() < 1e-5
    metrics, _ = train(psipo, psipo.IPO, 1000)
    assert metrics["tv"][:, 0].min() > 0.05 and metrics["tv"][:, -1].max() < 0.01
