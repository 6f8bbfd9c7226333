"""The study's five methods, arXiv 2401.13662: at π_old each climbs the exact policy gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.papers.on_policy import a2c, ppo, reinforce, trpo, vmpo
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.papers.on_policy.vmpo import VMPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("policygradientsjax")

GAMMA = 0.9
MDP = envs.make("tabular/random").tables
P, REWARD, RHO = (np.asarray(x, float) for x in (MDP.P, MDP.r, MDP.rho))  # [S, A, S], [S, A], [S]
THETA = np.random.default_rng(0).normal(size=REWARD.shape)


def enumerated(theta):
    """π, the share d of each state, A and J of a softmax policy, from the tables in NumPy."""
    pi = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
    ahead = np.linalg.inv(np.eye(len(RHO)) - GAMMA * np.einsum("sa,sat->st", pi, P))
    V = ahead @ (pi * REWARD).sum(1)
    A = REWARD + GAMMA * P @ V - V[:, None]
    return pi, (1 - GAMMA) * RHO @ ahead, A, RHO @ V


def exact_gradient():
    """∇J by central differences."""
    steps = 1e-5 * np.eye(THETA.size).reshape(-1, *THETA.shape)
    J = lambda theta: enumerated(theta)[-1]
    return np.reshape([(J(THETA + h) - J(THETA - h)) / 2e-5 for h in steps], THETA.shape)


def climbs(surrogate, advantage, weight, hp, dual=(), rows=None):
    """-∇ of the weighed sum of a surrogate at π_old = π; rows: (s, a) of each sample."""

    def loss(theta):
        log_prob = jax.nn.log_softmax(theta)
        log_prob = log_prob if rows is None else log_prob[rows]
        old = jax.lax.stop_gradient(log_prob)
        w = View(log_prob - old, log_prob, old, *[lambda: 0 * old] * 3, None)
        b = Batch(
            0, 0, 0, jnp.bool_(False), advantage=jnp.asarray(advantage, jnp.float32), dual=dual
        )
        return (weight * surrogate(w, b, hp)).sum()

    return -np.asarray(jax.grad(loss)(jnp.asarray(THETA, jnp.float32)))


@pytest.mark.parametrize(
    "surrogate",
    [reinforce.policy_gradient, a2c.policy_gradient, trpo.importance, ppo.clip],
    ids=["reinforce", "a2c", "trpo", "ppo"],
)
def test_it_is_the_policy_gradient(surrogate):
    pi, d, A, _ = enumerated(THETA)
    got = climbs(surrogate, A, d[:, None] * pi / (1 - GAMMA), PPO())
    np.testing.assert_allclose(got, exact_gradient(), rtol=1e-3, atol=1e-5)


def test_vmpo_is_parallel_to_it_where_it_is_hot_and_keeps_every_sample():
    """ψ ∝ d π exp(A/η) = d π (1 + A/η) for a large η, and E[∇log π] = 0.

    A takes up η log(d π), for the batch has each (s, a) once. As many samples that are far worse
    make the rest the better half.
    """
    pi, d, A, _ = enumerated(THETA)
    eta = 100.0
    tilted = A + eta * np.log(d[:, None] * pi)
    s, a = (np.tile(i.ravel(), 2) for i in np.indices(A.shape))
    advantage = np.concatenate([tilted.ravel(), tilted.ravel() - 1e5])
    dual = (eta, 0.0)
    got = climbs(vmpo.imitation, advantage, eta / advantage.size, VMPO(), dual, (s, a))
    want = (1 - GAMMA) * exact_gradient()
    np.testing.assert_allclose(got, want, rtol=0.02, atol=0.02 * np.abs(want).max())


def test_vmpo_climbs_it_too():
    """A tilt of the better half of what was sampled: another direction, but uphill."""
    pi, d, A, _ = enumerated(THETA)
    p = (d[:, None] * pi).ravel()
    rows = np.random.default_rng(1).choice(A.size, 2000, p=p / p.sum())
    s, a = np.unravel_index(rows, A.shape)
    got = climbs(vmpo.imitation, A[s, a], 1 / len(rows), VMPO(), (1.0, 0.0), (s, a))
    want = exact_gradient()
    assert (got * want).sum() > 0.3 * np.linalg.norm(got) * np.linalg.norm(want)
