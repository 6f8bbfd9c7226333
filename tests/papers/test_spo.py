"""SPO's surrogate, arXiv 2401.16025, against a loop and what the paper says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import View
from jaxrl.papers.on_policy import ppo, spo
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("spo")

RATIOS, ADVANTAGES = [0.3, 0.79, 0.8, 1.0, 1.1, 1.2, 1.21, 3.0], [-2.0, -0.5, 0.7, 1.5]
R, A = (x.ravel() for x in np.meshgrid(RATIOS, ADVANTAGES))


def losses(surrogate, eps, log_ratio, advantage):
    """Loss and its derivative with respect to log π, of each sample."""

    def one(x, A):
        zero = jnp.zeros(())
        w = View(x, x, zero, *[lambda: zero] * 3, None)
        return surrogate(w, Batch(0, 0, 0, 0, advantage=A), PPO(eps=eps))

    f = jax.vmap(jax.value_and_grad(one))
    return f(jnp.asarray(log_ratio, jnp.float32), jnp.asarray(advantage, jnp.float32))


@pytest.mark.parametrize("eps", [0.05, 0.2, 1.0])
def test_the_loss_is_the_formula(eps):
    want = [-(r * a - abs(a) / (2 * eps) * (r - 1) ** 2) for r, a in zip(R, A)]
    np.testing.assert_allclose(losses(spo.penalty, eps, np.log(R), A)[0], want, rtol=1e-4)


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("a", [-1.5, 0.4])
def test_the_best_ratio_is_one_plus_eps_sign_a(eps, a):
    r = np.linspace(0.01, 2.0, 19901)
    loss, grad = losses(spo.penalty, eps, np.log(r), np.full_like(r, a))
    best = 1 + eps * np.sign(a)
    assert abs(r[np.argmin(loss)] - best) < 2e-3
    assert (np.sign(grad) == np.sign(r - best))[np.abs(r - best) > 1e-3].all()  # nowhere else


def test_at_the_old_policy_it_is_the_policy_gradient():
    advantages = np.array(ADVANTAGES)
    grad = losses(spo.penalty, 0.2, np.zeros(4), advantages)[1]
    np.testing.assert_allclose(grad, -advantages, rtol=1e-6)


def test_a_sample_that_left_is_pulled_back_where_the_clip_lets_it_go():
    for r, a in ((1.3, 1.0), (0.6, -1.0)):
        (clipped,), (pulled,) = (
            losses(f, 0.2, [np.log(r)], [a])[1] for f in (ppo.clip, spo.penalty)
        )
        assert clipped == 0.0
        assert np.sign(pulled) == np.sign(r - 1)  # descending it brings the ratio back to 1


def test_without_a_range_there_is_no_penalty():
    np.testing.assert_allclose(losses(spo.penalty, jnp.inf, np.log(R), A)[0], -R * A, rtol=1e-5)
