"""TD3's algorithm 1, arXiv 1802.09477, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import td3
from jaxrl.papers.off_policy.td3 import TD3
from jaxrl.policies import Network
from jaxrl.types import Transitions
from tests.papers.by_hand import (
    KEY,
    adam_step,
    box,
    close,
    differences,
    forward,
    gradient,
    moved,
    pair,
    quick,
    same,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("td3")

M, D = 8, 2
LEARNER = td3.learner(box(D), Network(hidden=(4,)))
HP = cast(TD3(lr=0.05, tau=0.2, delay=3, smooth=0.0))
update = quick(LEARNER.update)


def mu(p, obs):
    return np.tanh(forward(p, obs))


@functools.cache
def updates():
    """(parameters before, batch, [parameters, gradients by entry, stats] after a step i = 0..5)."""
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    params = shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, HP))
    out = []
    for i in range(6):
        new, opt, said = update(params, LEARNER.opt(params, HP), b, KEY, 0, jnp.int32(i), HP)
        out.append((new, {k: gradient(opt[k], params[k]) for k in opt}, said))
    return params, b, out


def test_both_critics_learn_from_the_lesser_of_the_targets():
    """L = Σᵢ E[(y - Qᵢ)²]; without smoothing ã = μ'(s')."""
    params, b, out = updates()
    new, grads, said = out[0]
    y, lesser = np.zeros(M), []
    for m in range(M):
        ahead = b.next_obs[m][None]
        q = pair(params["target"]["critic"], ahead, mu(params["target"]["actor"], ahead))[:, 0]
        lesser.append(int(q.argmin()))
        y[m] = b.reward[m] + b.discount[m] * min(q)
    assert set(np.array(lesser)[np.asarray(b.discount) > 0]) == {0, 1}
    loss = lambda p: sum(np.mean((y - q) ** 2) for q in pair(p, b.obs, b.action))
    close(grads["critic"], differences(loss, params["critic"]), atol=1e-5)
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)
    change = jax.tree.map(lambda x, y: x - y, new["critic"], params["critic"])
    close(change, adam_step(grads["critic"], 0.05), atol=1e-6)


def test_the_actor_and_the_targets_wait_for_every_third_step():
    params, _, out = updates()
    for i, (new, grads, said) in enumerate(out):
        assert not same(new["critic"], params["critic"])
        if i in (2, 5):
            assert not same(new["actor"], params["actor"])
            for name, old in params["target"].items():
                close(new["target"][name], moved(old, new[name], 0.2))
        else:
            assert same(new["actor"], params["actor"]) and same(new["target"], params["target"])
            assert not any(g.any() for g in jax.tree.leaves(grads["actor"]))  # nor Adam's moments
            assert said["actor_loss"] == 0.0
    assert set(params["target"]) == {"actor", "critic"}


def test_the_actor_follows_the_first_critic():
    """∇_a Q₁(s, a)|_{a=μ(s)} ∇μ(s): neither the lesser one nor their mean, after its own step."""
    params, b, out = updates()
    new, grads, said = out[2]
    loss = lambda p: -pair(new["critic"], b.obs, mu(p, b.obs))[0].mean()
    close(grads["actor"], differences(loss, params["actor"]), atol=1e-5)
    change = jax.tree.map(lambda x, y: x - y, new["actor"], params["actor"])
    close(change, adam_step(grads["actor"], 0.05), atol=1e-6)
    # a step of three has it: the mean of three is the loss
    np.testing.assert_allclose(said["actor_loss"] / 3, loss(params["actor"]), rtol=1e-4)


# ---- its noise: of linear networks, where it can be read off ---------------------------------

LINEAR = td3.learner(box(D), Network(hidden=()))
MODE = np.array([0.2, 0.9])  # what the actors do everywhere


def linear():
    """Actors that do the same everywhere, and two rows whose observations are [1, 0] and [0, 1]."""
    obs = jnp.eye(2)
    params = jax.tree.map(jnp.zeros_like, LINEAR.init(KEY, obs, HP))
    bias = jnp.asarray(np.arctanh(MODE), jnp.float32)
    params["actor"]["params"]["Dense_0"]["bias"] = bias
    params["target"]["actor"]["params"]["Dense_0"]["bias"] = bias
    reward, discount = jnp.array([1.0, -2.0]), jnp.array([0.9, 0.5])
    return params, Transitions(obs, jnp.zeros((2, D)), reward, discount, obs)


def test_target_actions_have_clipped_noise_and_stay_within_bounds():
    """y = r + γ ã_j for targets Q' = a_j, and y is read off a linear critic's gradient: with Q = 0
    and one of M rows where observation i is 1, ∂L/∂wᵢ = -2 yᵢ / M."""
    params, b = linear()
    n, sigma, c = 3000, 0.4, 0.5
    hp = cast(TD3(lr=0.0, smooth=sigma, clip=c))

    def target(j, key):
        p = jax.tree.map(lambda x: x, params)
        kernel = p["target"]["critic"]["params"]["Dense_0"]["kernel"]
        p["target"]["critic"]["params"]["Dense_0"]["kernel"] = kernel.at[:, 2 + j].set(1.0)
        return LINEAR.update(p, LINEAR.opt(p, hp), b, key, 0, 0, hp)[1]["critic"]

    each = jax.vmap(jax.vmap(target, (None, 0)), (0, None))
    opt = quick(each)(jnp.arange(D), jax.random.split(KEY, n))
    y = -gradient(opt, params["critic"])["params"]["Dense_0"]["kernel"][..., 0, :2, 0]
    a = (y - np.asarray(b.reward)) / np.asarray(b.discount)  # [D, n, M]
    noise = np.moveaxis(a, 0, -1) - MODE  # [n, M, D]
    edge = float(stats.norm.sf(c / sigma))
    for m in range(2):
        for j, above in ((0, c), (1, 1.0 - MODE[1])):
            x = noise[:, m, j]
            assert -c - 1e-5 < x.min() and x.max() < above + 1e-5
            for at, p in ((-c, edge), (above, float(stats.norm.sf(above / sigma)))):
                hit = int((np.abs(x - at) < 1e-5).sum())
                assert stats.binomtest(hit, n, p).pvalue > 1e-4, (m, j, at)
            inside = x[(x > -c + 1e-5) & (x < above - 1e-5)] / sigma
            between = stats.truncnorm(-c / sigma, above / sigma)
            assert stats.kstest(inside, between.cdf).pvalue > 1e-4, (m, j)
    each = np.corrcoef(noise.reshape(n, -1).T) - np.eye(4)
    assert np.abs(each).max() < 4 / np.sqrt(n)  # rows and numbers have noise of their own


def test_exploration_is_gaussian_and_stays_within_bounds():
    params, _ = linear()
    hp, n = cast(TD3(sigma=0.1)), 4000
    act = jax.jit(lambda k: LINEAR.act(params, jnp.zeros((n, 2)), (), k, 0, hp)[0])
    a = np.asarray(act(KEY))
    assert stats.kstest((a[:, 0] - MODE[0]) / 0.1, "norm").pvalue > 1e-4
    most = float(stats.norm.sf(1))  # from 0.9 to 1 is a deviation
    assert stats.binomtest(int((a[:, 1] == 1).sum()), n, most).pvalue > 1e-4
    mode = LINEAR.act(params, jnp.zeros((1, 2)), (), None, 0, hp)[0]
    np.testing.assert_allclose(mode, [MODE], rtol=1e-6)
