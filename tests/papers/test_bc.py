"""Behaviour cloning: the likelihoods by SciPy, their gradients by differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.errors import InputError
from jaxrl.hyper import cast
from jaxrl.papers.offline import bc
from jaxrl.papers.offline.bc import BC
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    adam_step,
    box,
    close,
    differences,
    discrete,
    forward,
    gradient,
    quick,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("bc")

M, D, A = 6, 2, 3
HP = cast(BC(lr=0.05))
SMALL = Network(hidden=(4,))
WORLDS = {"box": box(D), "discrete": discrete(A)}


def nll(kind, p, obs, action):
    """-log π(a|s), its mean."""
    out = forward(p["net"], obs)
    if kind == "box":
        std = np.exp(np.clip(p["head"]["log_std"], -5, 2))
        return -stats.norm.logpdf(np.asarray(action, float), np.tanh(out), std).sum(1).mean()
    logits = out - np.log(np.exp(out).sum(1, keepdims=True))
    return -logits[np.arange(M), np.asarray(action)].mean()


@functools.cache
def updated(kind, log_std=-0.4):
    """Parameters before, batch, parameters after, gradients and stats."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (M, D)) if kind == "box" else rng.integers(0, A, M)
    a = jnp.asarray(a, jnp.float32 if kind == "box" else jnp.int32)
    b = transitions(rng, M, 3, a)
    learner = bc.learner(WORLDS[kind], SMALL)
    params = shaken(rng, learner.init(KEY, b.obs, HP))
    if kind == "box":
        params["actor"]["head"]["log_std"] = jnp.array([log_std, 0.3])
    new, opt, said = quick(learner.update)(params, learner.opt(params, HP), b, KEY, 0, 0, HP)
    return params["actor"], b, new["actor"], gradient(opt["actor"], params["actor"]), said


@pytest.mark.parametrize("kind", WORLDS)
def test_the_loss_is_the_negative_log_likelihood(kind):
    p, b, new, grads, said = updated(kind)
    loss = lambda p: nll(kind, p, b.obs, b.action)
    np.testing.assert_allclose(said["actor_loss"], loss(p), rtol=1e-5)
    close(grads, differences(loss, p), atol=1e-5)
    close(jax.tree.map(lambda x, y: x - y, new, p), adam_step(grads, 0.05), atol=1e-6)


@pytest.mark.parametrize("log_std", [-6.0, 3.0])
def test_deviations_have_bounds(log_std):
    p, b, _, grads, said = updated("box", log_std)
    np.testing.assert_allclose(said["actor_loss"], nll("box", p, b.obs, b.action), rtol=1e-4)
    assert grads["head"]["log_std"][0] == 0 and grads["head"]["log_std"][1] != 0


def test_it_acts_by_its_mode_or_as_it_was_fitted():
    p, _, _, _, _ = updated("box")
    learner, n = bc.learner(WORLDS["box"], SMALL), 4000
    obs = jnp.tile(jnp.array([[0.3, -1.0, 0.5]]), (n, 1))
    act = jax.jit(lambda key: learner.act(dict(actor=p), obs, (), key, 0, HP)[0])
    mean = np.tanh(forward(p["net"], obs[:1]))[0]
    np.testing.assert_allclose(act(None)[:2], [mean, mean], rtol=1e-5)
    a, std = np.asarray(act(KEY)), np.exp(p["head"]["log_std"])
    assert a.min() == -1 and a.max() == 1
    for j in range(D):
        inside = a[np.abs(a[:, j]) < 1, j]
        ends = (np.array([-1, 1]) - mean[j]) / std[j]
        assert stats.kstest(inside, stats.truncnorm(*ends, mean[j], std[j]).cdf).pvalue > 1e-4
        out = stats.binomtest(n - len(inside), n, 1 - np.diff(stats.norm.cdf(ends))[0])
        assert out.pvalue > 1e-4

    p, _, _, _, _ = updated("discrete")
    learner = bc.learner(WORLDS["discrete"], SMALL)
    act = jax.jit(lambda key: learner.act(dict(actor=p), obs, (), key, 0, HP)[0])
    logits = forward(p["net"], obs[:1])[0]
    assert (act(None) == logits.argmax()).all()
    counts = np.bincount(act(KEY), minlength=A)
    assert stats.chisquare(counts, n * np.exp(logits) / np.exp(logits).sum()).pvalue > 1e-4


def test_other_heads_are_refused():
    with pytest.raises(InputError, match="head: 'squashed'"):
        bc.make(box(D), Network(head="squashed"))
