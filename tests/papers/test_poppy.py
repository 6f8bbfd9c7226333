"""Poppy, arXiv 2210.03475: theorem 1 by enumeration, and who learns from what."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.families import combinatorial as family
from jaxrl.papers.combinatorial import poppy

pytestmark = pytest.mark.equation("poppy")
HP = poppy.Poppy()


def test_theorem_1_the_expected_gradient_is_that_of_the_expected_best():
    """K = 3 softmaxes over 4 solutions: E[Σ w_k ∇log π_k] over all 4³ outcomes, and ∇E[max R]."""
    rng = np.random.default_rng(0)
    worth, theta = rng.normal(size=4), rng.normal(size=(3, 4))
    outcomes = list(itertools.product(range(4), repeat=3))

    def J(theta):
        pi = jax.nn.softmax(theta)
        return sum(
            pi[0, i] * pi[1, j] * pi[2, k] * max(worth[i], worth[j], worth[k])
            for i, j, k in outcomes
        )

    want = jax.grad(J)(jnp.asarray(theta))
    pi = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
    R = worth[np.array(outcomes)][..., None]  # [64, 3, 1]: an outcome is an instance
    w = np.asarray(poppy.winner(jnp.asarray(R), HP))[..., 0]
    got = np.zeros((3, 4))
    for o, row in zip(outcomes, w):
        p = np.prod([pi[k, o[k]] for k in range(3)])
        for k in range(3):
            got[k] += p * row[k] * (np.eye(4)[o[k]] - pi[k])
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("baseline", ["second", "pomo"])
def test_only_the_winner_of_an_instance_and_a_start_learns(baseline):
    R = np.random.default_rng(1).normal(size=(4, 3, 2))
    w = np.asarray(poppy.winner(jnp.asarray(R), poppy.Poppy(baseline=baseline)))
    own = np.asarray(family.shared_baseline(jnp.asarray(R)))
    for b, m in np.ndindex(4, 2):
        first, second = np.argsort(-R[b, :, m])[:2]
        ahead = R[b, first, m] - R[b, second, m] if baseline == "second" else own[b, first, m]
        want = np.zeros(3)
        want[first] = ahead
        np.testing.assert_allclose(w[b, :, m], want, rtol=1e-4, atol=1e-6)
    even = poppy.winner(jnp.ones((1, 3, 2)), HP)
    assert not even.any()  # nobody is ahead
