"""VaGraM's loss, arXiv 2204.01464, against the formula by differences of the critics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import dynamics
from jaxrl.families import model_based
from jaxrl.hyper import cast
from jaxrl.papers.model_based import vagram
from jaxrl.papers.model_based.vagram import VaGraM
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    close,
    differences,
    forward,
    gradient,
    pair,
    quick,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("vagram")

M, D = 12, 5
WORLD = envs.make("distract/pendulum", count=2)
LEARNER = vagram.learner(WORLD, Network(hidden=(4,)))


def network(net, x):
    """A member's outputs, by NumPy: silu layers, then a linear one."""
    x, layers = np.asarray(x, float), net["params"]
    for layer in layers["MLP_0"].values():
        x = x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)
        x = x / (1 + np.exp(-x))
    last = layers["Dense_0"]
    return x @ np.asarray(last["kernel"], float) + np.asarray(last["bias"], float)


@functools.cache
def updated(t=0):
    """(hp, params before, batch, parameters after, what Adam saw of the model, stats)."""
    rng = np.random.default_rng(0)
    hp = cast(VaGraM(units=3, layers=1, members=2, quantile=0.8, early=0.5))
    hp = hp.replace(horizon=jnp.float32(10.0))
    a = jnp.asarray(rng.uniform(-1, 1, (M, 1)), jnp.float32)
    b = transitions(rng, M, D, a)
    params = shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, hp))
    params["scale"] = dynamics.begin(KEY, b.obs, a, hp)[1]
    new, opt, said = quick(LEARNER.update)(params, LEARNER.opt(params, hp), b, KEY, t, 0, hp)
    return hp, params, b, new, gradient(opt["model"], params["model"]), said


def value_slopes(params, obs):
    """∂Q/∂s of all four critics by differences, the action being held: [4, M, D]."""
    out = forward(params["actor"], obs)
    a, h, g = np.tanh(out[:, :1]), 1e-5, np.zeros((4, M, D))
    for k, critic in enumerate((params["critic"], params["target"]["critic"])):
        for i in range(D):
            e = h * np.eye(D)[i]
            g[2 * k : 2 * k + 2, :, i] = (pair(critic, obs + e, a) - pair(critic, obs - e, a)) / 2
    return g / h


@pytest.mark.parametrize("t", [0, 7])
def test_the_model_descends_the_weighed_error(t):
    """Weights by hand, of each member's own rows; the plain error only early."""
    hp, params, b, _, seen, said = updated(t)
    obs, ahead = np.asarray(b.obs, float), np.asarray(b.next_obs, float)
    y = np.concatenate([ahead - obs, np.asarray(b.reward, float)[:, None]], 1)
    x = np.concatenate([obs, np.asarray(b.action, float)], 1)
    x, std = (x - x.mean(0)) / x.std(0), y.std(0)
    g = value_slopes(params, ahead) * std[:-1]
    for k in range(4):
        norms = np.linalg.norm(g[k], axis=1)
        most = np.quantile(norms, 0.8)
        g[k] *= np.minimum(1, most / norms)[:, None]
    w = (g**2).sum(0) * (np.asarray(b.discount) > 0)[:, None]
    w = w / w.mean()
    rows = np.asarray(jax.random.exponential(jax.random.split(KEY, 3)[0], (2, M)), float)
    over = np.asarray(b.discount) == 0

    def loss(nets, weight=rows):
        total = 0.0
        for m in range(2):
            out = network(jax.tree.map(lambda x, m=m: x[m], nets), x)
            e = out[:, : D + 1] - (y - y.mean(0)) / std
            each = (w * e[:, :D] ** 2).mean(1) + e[:, D] ** 2
            each = each + (e**2).mean(1) * (t < 5)
            each = each + np.log1p(np.exp(np.where(over, -out[:, -1], out[:, -1])))
            total += (weight[m] * each).mean()
        return total

    close(seen, differences(loss, params["model"]), rtol=2e-3, atol=2e-4)
    assert said["model_loss"] == pytest.approx(loss(params["model"], np.ones((2, M))) / 2, rel=1e-4)


def test_it_bounds_the_value_s_error_where_the_value_is_linear():
    """(∇V·e)² <= D Σ (∂ᵢV eᵢ)², which is what is minimised; distractors weigh nothing."""
    rng = np.random.default_rng(1)
    c, std = np.array([2.0, -1.0, 0.5, 0.0, 0.0]), rng.uniform(0.5, 2, D)
    g = jnp.asarray(np.broadcast_to(c, (4, M, D)))
    w = np.asarray(vagram.weights(g, std, jnp.ones(M, bool), 1.0))
    want = (c * std) ** 2 / ((c * std) ** 2).mean()
    np.testing.assert_allclose(w, np.broadcast_to(want, (M, D)), rtol=1e-5)
    assert (w[:, 3:] == 0).all()
    e = rng.normal(size=(M, D))
    share = ((c * std) ** 2).mean()
    assert ((e * std) @ c <= np.sqrt(D * (w * e**2).sum(1) * share) + 1e-6).all()


def test_a_deterministic_model_imagines_its_mean():
    hp, params, b, *_ = updated()
    hp = hp.replace(real=0.0, depth=1)
    act = lambda obs, key: jnp.zeros((M, 1))
    net = jax.tree.map(lambda x: x[:1], params["model"])
    params = params | dict(model=net, scale=dynamics.seen(params["scale"], b))
    row = model_based.imagine(act, params, b, KEY, hp.replace(members=1), noisy=False)
    x = np.concatenate([b.obs, np.zeros((M, 1))], 1)
    first, second = params["scale"]
    out = network(jax.tree.map(lambda x: x[0], net), (x - first.mean) / np.sqrt(first.var + 1e-8))
    y = second.mean + np.sqrt(second.var) * out[:, : D + 1]
    np.testing.assert_allclose(row.next_obs, b.obs + y[:, :D], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(row.reward, y[:, D], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(row.discount, np.where(out[:, -1] > 0, 0, 0.99), rtol=1e-6)
