"""HL-Gauss, arXiv 2403.03950: DQN's targets learned as histograms, against NumPy and SciPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.errors import InputError
from jaxrl.hyper import cast, check
from jaxrl.papers.off_policy import dqn, hl_gauss_value_learning
from jaxrl.papers.off_policy.hl_gauss_value_learning import BINS, HLGauss
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    close,
    discrete,
    forward,
    gradient,
    quick,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("hl_gauss_value_learning")

M, ACTIONS = 10, 3
WORLD = discrete(ACTIONS)
LEARNER = dqn.learner(WORLD, Network(hidden=()), BINS, hl_gauss_value_learning.critic)
HP: Any = HLGauss(lr=0.0, low=-3.0, high=5.0)  # of targets, some lie outside
update = quick(LEARNER.update)

WIDTH = (HP.high - HP.low) / BINS
EDGES = HP.low + WIDTH * np.arange(BINS + 1)
CENTRES = EDGES[:-1] + WIDTH / 2


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 2, jnp.asarray(rng.integers(0, ACTIONS, M)))
    b = b.replace(reward=b.reward.at[0].set(9.0).at[1].set(-7.0))
    return shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, HP)), b


def step(loss, **changes):
    params, b = problem()
    hp = cast(HP.replace(loss=loss, **changes))
    _, opt, said = update(params, LEARNER.opt(params, hp), b, KEY, 0, 0, hp)
    return gradient(opt["critic"], params["critic"])["params"]["Dense_0"], said


def logits(entry, obs):
    return forward(entry, obs).reshape(-1, ACTIONS, BINS)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def targets():
    """y = r + γ max_a Σᵢ p̂ᵢ(s', a; θ⁻) zᵢ."""
    params, b = problem()
    Q = softmax(logits(params["target"]["critic"], b.next_obs)) @ CENTRES
    assert len(set(Q.argmax(1))) > 1
    return np.asarray(b.reward) + np.asarray(b.discount) * Q.max(1)


def histogram(y, sigma=0.75):
    """The Gaussian around y, cut to the support."""
    y = np.clip(y, CENTRES[0], CENTRES[-1])
    mass = np.diff(stats.norm.cdf(EDGES, y, sigma * WIDTH))
    return mass / mass.sum()


def two_centres(y):
    """Mass on the two centres next to y, the more the nearer."""
    y, p = np.clip(y, CENTRES[0], CENTRES[-1]), np.zeros(BINS)
    i = min(int((y - CENTRES[0]) / WIDTH), BINS - 2)
    share = (y - CENTRES[i]) / WIDTH
    p[i], p[i + 1] = 1 - share, share
    return p


def scattered(rows):
    """Gradients by the logits of what was done [M, BINS], as those of a linear layer."""
    _, b = problem()
    kernel, bias = np.zeros((2, ACTIONS, BINS)), np.zeros((ACTIONS, BINS))
    for m in range(M):
        a = int(b.action[m])
        kernel[:, a] += np.asarray(b.obs[m], float)[:, None] * rows[m] / M
        bias[a] += rows[m] / M
    return dict(kernel=kernel.reshape(2, -1), bias=bias.ravel())


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot"])
def test_an_update_is_the_cross_entropy_of_the_target_s_histogram(loss):
    params, b = problem()
    y, z = targets(), logits(params["critic"], b.obs)[np.arange(M), b.action]
    assert (y > CENTRES[-1]).any() and (y < CENTRES[0]).any()
    p = np.stack([(histogram if loss == "hl_gauss" else two_centres)(x) for x in y])
    grads, said = step(loss)
    close(grads, scattered(softmax(z) - p), atol=1e-5)
    want = -np.mean([p[m] @ np.log(softmax(z[m])) for m in range(M)])
    np.testing.assert_allclose(said["critic_loss"], want, rtol=1e-5)
    np.testing.assert_allclose(said["q"], (softmax(z) @ CENTRES).mean(), rtol=1e-4)


def test_sigma_is_in_widths_of_a_bin():
    params, b = problem()
    z = logits(params["critic"], b.obs)[np.arange(M), b.action]
    p = np.stack([histogram(y, 3.0) for y in targets()])
    close(step("hl_gauss", sigma=3.0)[0], scattered(softmax(z) - p), atol=1e-5)


def test_the_baseline_is_regression_by_the_squared_error():
    """L = E[(y - Q)²], Q the first output; the others are learned by nothing."""
    params, b = problem()
    first = lambda entry, obs: logits(entry, obs)[..., 0]
    y = np.asarray(b.reward) + np.asarray(b.discount) * first(
        params["target"]["critic"], b.next_obs
    ).max(1)
    error = first(params["critic"], b.obs)[np.arange(M), b.action] - y
    rows = np.zeros((M, BINS))
    rows[:, 0] = 2 * error
    grads, said = step("squared")
    close(grads, scattered(rows), atol=1e-5)
    np.testing.assert_allclose(said["critic_loss"], (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(said["q"], (error + y).mean(), rtol=1e-4)


def test_it_acts_by_the_means_of_its_histograms():
    params, _ = problem()
    obs = np.random.default_rng(2).normal(size=(50, 2))
    want = (softmax(logits(params["critic"], obs)) @ CENTRES).argmax(1)
    assert len(set(want)) > 1
    got = LEARNER.act(params, jnp.asarray(obs, jnp.float32), (), None, 0, cast(HP))[0]
    np.testing.assert_array_equal(got, want)


def test_a_support_has_a_width():
    with pytest.raises(InputError, match=r"^high: -2.0 is not above low = 1.0$"):
        check(HLGauss(low=1.0, high=-2.0))
    with pytest.raises(InputError, match=r"^loss: huber is not one of hl_gauss, two_hot, squared$"):
        check(HLGauss(loss="huber"))
    with pytest.raises(InputError, match="buffer_size"):
        check(HLGauss(buffer_size=7))
