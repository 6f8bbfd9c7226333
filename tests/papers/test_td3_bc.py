"""TD3+BC, arXiv 2106.06860, against NumPy; what is TD3's is tested there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import td3
from jaxrl.papers.offline import td3_bc
from jaxrl.papers.offline.td3_bc import TD3BC
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    box,
    close,
    differences,
    forward,
    gradient,
    pair,
    quick,
    same,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("td3_bc")

M, D, ALPHA = 8, 2, 1.7
SMALL = Network(hidden=(4,))
HP = cast(TD3BC(lr=0.05, alpha=ALPHA, delay=1))


def step(actor_loss):
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    learner = td3.learner(box(D), SMALL, actor_loss=actor_loss)
    params = shaken(rng, learner.init(KEY, b.obs, HP))
    new, opt, said = quick(learner.update)(params, learner.opt(params, HP), b, KEY, 0, 0, HP)
    return params, b, new, {k: gradient(opt[k], params[k]) for k in opt}, said


@functools.cache
def updated():
    return step(td3_bc.actor_loss)


def test_the_actor_weighs_values_against_the_data():
    """-λ mean Q₁(s, π(s)) + mean (π(s) - a)², λ = α / mean |Q₁(s, π(s))|, a number that is kept."""
    params, b, new, grads, said = updated()
    mu = lambda p: np.tanh(forward(p, b.obs))
    q = lambda p: pair(new["critic"], b.obs, mu(p))[0]
    assert (q(params["actor"]) > 0).any() and (q(params["actor"]) < 0).any()
    lam = ALPHA / np.abs(q(params["actor"])).mean()
    loss = lambda p: -lam * q(p).mean() + np.mean((mu(p) - np.asarray(b.action, float)) ** 2)
    np.testing.assert_allclose(said["actor_loss"], loss(params["actor"]), rtol=1e-4)
    close(grads["actor"], differences(loss, params["actor"]), atol=1e-5)


def test_the_critics_are_td3_s():
    plain = step(td3.policy_gradient)
    assert same(plain[2]["critic"], updated()[2]["critic"])
    assert not same(plain[2]["actor"], updated()[2]["actor"])


def test_the_scale_of_values_does_not_matter():
    rng = np.random.default_rng(1)
    a, q = jnp.asarray(rng.normal(size=(M, D))), rng.normal(size=(2, M))
    b = updated()[1]
    slope = jax.grad(lambda a, c: td3_bc.actor_loss(a, c * (q + a.sum(1)), b, {}, KEY, HP))
    np.testing.assert_allclose(slope(a, 1.0), slope(a, 1000.0), rtol=1e-4)
    one = td3_bc.actor_loss(a, jnp.abs(jnp.asarray(q)), b, {}, KEY, HP)
    data = np.mean((np.asarray(a) - np.asarray(b.action)) ** 2)
    np.testing.assert_allclose(one, data - ALPHA, rtol=1e-5)  # the mean of λ Q is α where Q > 0


def test_it_does_not_explore():
    learner = td3.learner(box(D), SMALL, actor_loss=td3_bc.actor_loss)
    params, b, *_ = updated()
    act = lambda key: learner.act(params, b.obs, (), key, 0, HP)[0]
    np.testing.assert_array_equal(act(KEY), act(None))
