"""The study's five methods, arXiv 2401.13662: at π_old each climbs the exact policy gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.families import exact
from jaxrl.papers.on_policy import ppo, trpo, vmpo
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.surrogate import policy_gradient
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("policygradientsjax")

GAMMA = 0.9
MDP = envs.make("tabular/random").tables
THETA = jax.random.normal(jax.random.key(0), (8, 3))


def quantities():
    """d, Q - V of the softmax policy, from the tables."""
    pi = jax.nn.softmax(THETA)
    V = exact.value(MDP, pi, GAMMA)
    return pi, exact.occupancy(MDP, pi, GAMMA), exact.action_value(MDP, V, GAMMA) - V[:, None]


def gradient(surrogate, hp):
    """∇ of the surrogate's mean over the exact distribution of (s, a): rows [S, A], weighed."""
    pi, d, A = quantities()
    old = jnp.log(pi)

    def loss(theta):
        log_prob = jax.nn.log_softmax(theta)
        w = View(log_prob - old, log_prob, A, *[lambda: 0 * A] * 3, None)
        per_sample = surrogate(w, Batch(0, 0, 0, 0, advantage=A), hp)
        return (d[:, None] * pi * per_sample).sum()

    return -jax.grad(loss)(THETA) / (1 - GAMMA)


@pytest.mark.parametrize(
    "surrogate", [policy_gradient, trpo.importance, ppo.clip], ids=["reinforce", "trpo", "ppo"]
)
def test_it_is_the_policy_gradient(surrogate):
    J = lambda theta: exact.expected_return(MDP, jax.nn.softmax(theta), GAMMA)
    want = jax.grad(J)(THETA)
    np.testing.assert_allclose(gradient(surrogate, PPO()), want, rtol=2e-3, atol=2e-4)


def test_vmpo_climbs_it_too():
    """A tilt of the better half: another direction, whose inner product with ∇J is positive."""
    want = gradient(policy_gradient, PPO())
    pi, d, A = quantities()
    weight = d[:, None] * pi
    keep = vmpo.better_half(A)
    psi = jnp.where(keep, weight * jnp.exp(A / 1.0), 0)
    psi = psi / psi.sum()
    step = jax.grad(lambda theta: (psi * jax.nn.log_softmax(theta)).sum())(THETA)
    assert float((step * want).sum()) > 0
