"""A learned model and what is imagined with it, arXiv 1906.08253: by hand, and where it ends."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs
from jaxrl import dynamics
from jaxrl.core import Learner
from jaxrl.errors import InputError
from jaxrl.families import model_based
from jaxrl.families.model_based import fit_model, imagine, likelihood
from jaxrl.hyper import cast, check, replace
from jaxrl.papers.model_based import mbpo
from jaxrl.papers.model_based.mbpo import MBPO
from jaxrl.types import Transitions
from tests.papers.by_hand import KEY, quick, transitions

pytestmark = pytest.mark.equation("mbpo")

M = 400


def hyper(**changes) -> Any:
    return cast(replace(MBPO(members=2, units=8, layers=1), **changes))


def model(b, hp, seed=0):
    """Parameters and optimiser of a model alone."""
    net, scale = dynamics.begin(jax.random.key(seed), b.obs, b.action, hp)
    return dict(model=net, scale=scale), model_based.optimisers("model")(dict(model=net), hp)


def test_the_likelihood_is_a_gaussian_s():
    rng = np.random.default_rng(0)
    mean, log_std, y = rng.normal(size=(3, 2, 5, 3))
    g = dynamics.Guess(jnp.asarray(mean), jnp.asarray(log_std), jnp.zeros((2, 5)))
    want = -stats.norm.logpdf(y, mean, np.exp(log_std)) - np.log(2 * np.pi) / 2
    got = likelihood(g, jnp.asarray(mean - y), None, None, 0, 0, None)
    np.testing.assert_allclose(got, want.mean(-1), rtol=1e-4)


def test_terminals_are_learned_by_cross_entropy():
    over, discount = np.array([[2.0, -1.0, 0.3]]), np.array([0.0, 0.9, 0.9])
    g = dynamics.Guess(jnp.zeros(0), jnp.zeros(0), jnp.asarray(over))
    p = 1 / (1 + np.exp(-over[0]))
    want = -np.where(discount == 0, np.log(p), np.log(1 - p))
    b: Any = SimpleNamespace(discount=jnp.asarray(discount))
    np.testing.assert_allclose(dynamics.terminal(g, b)[0], want, rtol=1e-5)


def test_a_model_learns_a_linear_system_its_noise_and_its_end():
    """s' = A s + B a + e, r = c s, over where s₀ > 1: means, deviation and terminals."""
    rng = np.random.default_rng(0)
    A, B, c = rng.normal(size=(3, 3)) / 2, rng.normal(size=(1, 3)), rng.normal(size=3)
    s, a = rng.normal(size=(4000, 3)), rng.uniform(-1, 1, (4000, 1))
    clean = s @ A + a @ B
    rows = s, a, s @ c, 0.99 * (s[:, 0] < 1), clean + 0.1 * rng.normal(size=s.shape)
    b = Transitions(*(jnp.asarray(x, jnp.float32) for x in rows))
    hp = hyper(units=32, model_lr=0.01)
    params, opt = model(b, hp)

    def one(carry, key):
        *carry, _ = fit_model(*carry, likelihood, b, key, 0, 0, hp)
        return tuple(carry), None

    fit = quick(lambda carry: jax.lax.scan(one, carry, jax.random.split(KEY, 500))[0])
    params, _ = fit((params, opt))
    g = dynamics.guess(params["model"], params["scale"], b.obs, b.action, hp)
    ahead, reward = dynamics.read(g.mean, params["scale"], b.obs)
    assert np.sqrt(np.mean((ahead - clean) ** 2)) < 0.05
    assert np.sqrt(np.mean((reward - s @ c) ** 2)) < 0.05
    std = np.exp(g.log_std) * dynamics.deviation(params["scale"])
    np.testing.assert_allclose(np.median(std[..., :3], (0, 1)), 0.1, rtol=0.2)
    assert ((g.over > 0) == (s[:, 0] > 1)).mean() > 0.97
    drawn = model_based.step(params, b.obs, b.action, KEY, hp, noisy=True)[0]
    assert 0.08 < np.std(drawn - ahead.mean(0)) < 0.13


def test_imagined_rows_branch_from_real_states_and_stop_at_terminals(monkeypatch):
    """In a model that is known: s' = s + a, r = 10 s, over from 4 on."""
    know = lambda params, s, a, key, hp, noisy: (s + a, 10 * s[:, 0], s[:, 0] + a[:, 0] >= 4)
    monkeypatch.setattr(model_based, "step", know)
    start = jnp.asarray(np.arange(M) % 4, jnp.float32)[:, None]
    real = jnp.full((M, 1), -1.0)
    b = Transitions(start, real, jnp.full(M, -7.0), jnp.full(M, 0.5), start)
    act = lambda obs, key: jnp.ones((M, 1))
    row = imagine(act, {}, b, KEY, hyper(depth=3, real=0.3, gamma=0.9), True)
    taken = np.asarray(row.action[:, 0] == -1)
    assert 0.22 < taken.mean() < 0.38
    for x, y in zip(jax.tree.leaves(row), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x[taken], y[taken])
    row = jax.tree.map(lambda x: np.asarray(x)[~taken], row)
    s, first = row.obs[:, 0], np.asarray(start)[~taken, 0]
    np.testing.assert_array_equal(row.next_obs[:, 0], s + 1)
    np.testing.assert_array_equal(row.reward, 10 * s)
    np.testing.assert_allclose(row.discount, np.where(s == 3, 0, 0.9), rtol=1e-6)
    depth = s - first
    assert depth.min() == 0 and depth.max() == 2 and s.max() == 3
    early = depth[first == 0]
    assert np.bincount(early.astype(int), minlength=3).min() > 0.2 * len(early)
    assert (depth[first == 3] == 0).all()


def test_a_learner_inside_is_given_what_was_imagined_and_nothing_else():
    given = []

    def update(params, opt, b, key, t, i, hp):
        given.append(b)
        return params, opt, dict(seen=b.reward.mean())

    act = lambda params, obs, memory, key, t, hp: (jnp.full((len(obs), 1), 0.25), memory)
    inside = Learner(lambda *_: dict(other=jnp.ones(2)), lambda *_: {}, update, act)
    world = envs.make("distract/pendulum", count=1)
    learner, hp = model_based.imagining(world, inside), hyper(real=0.0)
    b = transitions(np.random.default_rng(0), 16, 4, jnp.zeros((16, 1)))
    params = learner.init(KEY, b.obs, hp)
    assert set(params) == {"other", "model", "scale"}
    new, opt, said = learner.update(params, learner.opt(params, hp), b, KEY, 0, 0, hp)
    (row,) = given
    np.testing.assert_array_equal(row.obs, b.obs)
    assert (row.action == 0.25).all() and (row.reward != b.reward).all()
    assert set(said) == {"model_loss", "model_error", "seen"} and set(opt) == {"model"}
    assert new["scale"][0].count == 16
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), params["model"], new["model"])
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_what_a_model_cannot_be_of_is_said_in_a_line():
    for env in ("grid/fetch", "Breakout-MinAtar", "safe/navigation", "CartPole-v1"):
        with pytest.raises(InputError) as e:
            mbpo.make(envs.make(env)).init(KEY, hyper(), envs.make(env))
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="n_step: 3; a model is of single steps"):
        check(MBPO(n_step=3))
