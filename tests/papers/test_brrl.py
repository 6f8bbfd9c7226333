"""BPO's best ratio and losses, arXiv 2604.18578, against loops and the theorem on random MDPs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import returns
from jaxrl.core import View
from jaxrl.papers.on_policy import brrl
from jaxrl.papers.on_policy.brrl import BPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("brrl")

ZERO = jnp.zeros(())


def look(log_ratio, value):
    return View(log_ratio, log_ratio, value, *[lambda: ZERO] * 3, None)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_losses_are_the_formulas():
    rng, hp = np.random.default_rng(0), BPO(eps=0.3, temperature=0.5)
    log_r, A, G, V, mu = rng.normal(size=(5, 40))
    b = Batch(0, 0, 0, 0, advantage=jnp.asarray(A), target=jnp.asarray(G))
    w = look(jnp.asarray(log_r), jnp.stack([V, mu], -1))
    surrogate, critic = [], []
    for x, a, g, v, m in zip(log_r, A, G, V, mu):
        best = 1 - 0.3 + 2 * 0.3 * sigmoid((g - m) / 0.5)
        surrogate.append(abs(a) * abs(np.exp(x) - best))
        critic.append((v - g) ** 2 / 2 + np.log1p(np.exp(g - m)) - (g - m) / 2)
    np.testing.assert_allclose(brrl.bounded(w, b, hp), surrogate, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(brrl.mean_and_median(w, b, hp), critic, rtol=1e-4)


def test_the_surrogate_moves_the_policy_alone_and_from_either_side():
    """Cold: d/dx |A| |e^x - (1 + ε sign(G - μ))|. It is nothing to V and μ."""
    hp, cases = BPO(eps=0.2), [(1.0, 1), (1.3, -1), (0.7, 1), (1.0, -1), (0.7, -1)]

    def loss(x, v, A, G):
        return brrl.bounded(look(x, v), Batch(0, 0, 0, 0, advantage=A, target=G), hp)

    slope = jax.jit(jax.grad(loss, (0, 1)))
    for (r, side), A in zip(cases, [2.0, -2.0, 1.0, 0.5, -1.0]):
        g, to_critic = slope(jnp.log(r), jnp.array([4.0, 5.0]), A, 5.0 + side)
        np.testing.assert_allclose(g, abs(A) * r * np.sign(r - 1 - 0.2 * side), rtol=1e-5)
        assert not to_critic.any()


def test_the_second_output_of_the_critic_becomes_the_median():
    G = np.array([0.0, 30.0, 31.0, 32.0, 1000.0])  # the mean is 218.6
    b = Batch(0, 0, 0, 0, target=jnp.asarray(G))
    loss = lambda m: brrl.mean_and_median(look(0.0, jnp.stack([0.0, m])), b, None).mean()
    descend = lambda _, m: m - 2 * jax.grad(loss)(m)
    mu = jax.jit(lambda: jax.lax.fori_loop(0, 300, descend, jnp.float32(0.0)))()
    np.testing.assert_allclose(mu, 31.0, atol=1e-3)


def test_advantages_are_those_of_the_mean():
    rng, hp = np.random.default_rng(1), BPO(normalise_advantage=False)
    x = jnp.asarray(rng.normal(size=(6, 3, 5)), jnp.float32)
    done = jnp.asarray(rng.random((6, 3)) < 0.3)
    b = Batch(0, 0, 0, 0, x[..., :2], x[..., 2:4], x[..., 4], done, done)
    got = brrl.gae_of_mean(None, b, 0, hp, None)
    want = returns.gae(x[..., 4], x[..., 0], x[..., 2], done, done, hp.gamma, hp.lam)
    np.testing.assert_allclose(got.advantage, want, rtol=1e-6)
    np.testing.assert_allclose(got.target, want + x[..., 0], rtol=1e-6)
    assert got.value.shape == (6, 3)  # of the mean, for what explains the variance


# ---- the theorem: with the exact Q and its smooth median, π* is a policy and no worse ----------

GAMMA, STATES, ACTIONS = 0.9, 4, 3


def solve(P, R, pi):
    """Q and V of a policy, by a linear solve."""
    V = np.linalg.solve(np.eye(STATES) - GAMMA * np.einsum("sa,sap->sp", pi, P), (pi * R).sum(1))
    return R + GAMMA * P @ V, V


def smooth_median(Q, pi, ratio):
    """μ(s) at which the ratios' mean is 1, by bisection: it falls as μ grows."""
    low, high = Q.min(1) - 1e3, Q.max(1) + 1e3
    for _ in range(200):
        mid = (low + high) / 2
        more = (pi * ratio(Q - mid[:, None])).sum(1) > 1
        low, high = np.where(more, mid, low), np.where(more, high, mid)
    return (low + high) / 2


@pytest.mark.parametrize("eps", [0.2, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_best_ratio_is_a_policy_and_improves_on_random_mdps(eps, temperature):
    hp, rng, gains = BPO(eps=eps, temperature=temperature), np.random.default_rng(0), []
    with jax.enable_x64(True):
        f = jax.jit(brrl.best_ratio)
        ratio = lambda d: np.asarray(f(jnp.asarray(d), hp))
        for _ in range(12):
            P = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
            R = rng.normal(size=(STATES, ACTIONS))
            pi = rng.dirichlet(np.ones(ACTIONS), STATES)
            Q, V = solve(P, R, pi)
            best = ratio(Q - smooth_median(Q, pi, ratio)[:, None])
            assert best.dtype == np.float64
            assert (np.abs(best - 1) <= eps + 1e-12).all()
            np.testing.assert_allclose((pi * best).sum(1), 1.0, atol=1e-12)
            gains.append(solve(P, R, pi * best)[1] - V)
    assert np.min(gains) > -1e-12
    assert np.mean(gains) > 0.02 * eps
