"""On-policy MDPO's surrogate, arXiv 2005.09814, against a loop and mirror descent's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.spaces import Discrete
from jaxrl import heads
from jaxrl.hyper import Linear
from jaxrl.papers.on_policy.mdpo import MDPO, mirror_descent, step_size
from jaxrl.policies import view
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("mdpo")

HEAD, HP = heads.for_space(Discrete(4)), MDPO()
COUNTS = np.array([4, 2, 1, 1])  # of 8 samples: exactly π_k
PI_K = COUNTS / 8
ACTIONS = np.repeat(np.arange(4), COUNTS)
A = np.array([-0.5, 1.0, 0.3, -2.0])


def losses(logits, t_k, actions=ACTIONS):
    """The surrogate of each sample of a bandit, whose logits are all of the policy."""
    out = lambda z: jnp.broadcast_to(jnp.asarray(z, jnp.float32), (len(actions), 4))
    old = out(np.log(PI_K))
    record = dict(raw=actions, out=old, log_prob=HEAD.distribution(old).log_prob(actions))
    flags = jnp.zeros(len(actions), bool)
    b = Batch(0, actions, record, flags, old=record, advantage=jnp.asarray(A)[actions], dual=t_k)
    return mirror_descent(view(HEAD, out(logits), flags, b), b, HP)


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


@pytest.mark.parametrize("t_k", [0.01, 0.5, 1.0])
def test_the_loss_is_the_formula(t_k):
    logits = np.array([0.3, -1.0, 0.7, 2.0])
    pi, want = softmax(logits), []
    for a in ACTIONS:
        kl = sum(p * np.log(p / q) for p, q in zip(pi, PI_K))  # KL(π || π_k)
        want.append(-(pi[a] / PI_K[a] * A[a] - kl / t_k))
    np.testing.assert_allclose(losses(logits, t_k), want, rtol=1e-4)


@pytest.mark.parametrize("t_k", [0.1, 0.5, 1.5])
def test_many_inner_steps_converge_to_the_closed_form(t_k):
    grad = jax.grad(lambda z: losses(z, t_k).mean())
    descend = lambda _, z: z - t_k * grad(z)  # the price's curvature is 1 / t_k
    got = jax.jit(lambda z: jax.lax.fori_loop(0, 1000, descend, z))(jnp.log(PI_K))
    want = PI_K * np.exp(t_k * A)
    want /= want.sum()
    assert 0.5 * np.abs(softmax(np.asarray(got)) - want).sum() < 1e-3
    assert 0.5 * np.abs(PI_K - want).sum() > 0.02  # it had a way to go


def test_the_first_step_is_a_policy_gradient():
    """At π_k the KL is flat: d/dz E[r A] = π_k (A - E[A])."""
    grad = jax.grad(lambda z: losses(z, 1e-3).mean())(jnp.log(PI_K))
    np.testing.assert_allclose(grad, -PI_K * (A - PI_K @ A), atol=2e-4)


def test_the_step_size_goes_linearly_from_one_towards_nothing():
    K = 10
    at = lambda hp, k: float(step_size.apply((), None, None, k, hp.replace(horizon=K), None)[1])
    np.testing.assert_allclose([at(HP, k) for k in range(K)], 1 - np.arange(K) / K, rtol=1e-6)
    assert at(MDPO(step=0.3), 7) == np.float32(0.3)
    assert at(MDPO(step=Linear(1.0, 0.5)), K) == 0.5


def test_a_step_size_of_nothing_is_no_division_by_it():
    assert np.isfinite(losses(np.zeros(4), 0.0)).all()
