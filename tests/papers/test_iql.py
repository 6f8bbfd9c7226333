"""IQL, arXiv 2110.06169, against NumPy: three losses, in the order of the released code."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrl.hyper import cast
from jaxrl.papers.offline import bc, iql
from jaxrl.papers.offline.iql import IQL
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
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
from tests.papers.test_bc import nll

pytestmark = pytest.mark.equation("iql")

M, D, TAU = 6, 2, 0.8
LEARNER = iql.learner(box(D), Network(hidden=(4,)))
SET: dict[str, Any] = dict(lr=0.05, tau=0.2, expectile=TAU, beta=0.9)
update = quick(LEARNER.update)


@functools.cache
def before():
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    params = shaken(rng, LEARNER.init(KEY, b.obs, cast(IQL())))
    params["actor"]["head"]["log_std"] = jnp.array([-0.4, 0.3])
    return params, b


@functools.cache
def updated(**changes):
    params, b = before()
    hp = cast(IQL(**SET | changes))
    new, opt, said = update(params, LEARNER.opt(params, hp), b, KEY, 0, 0, hp)
    return new, {k: gradient(opt[k], params[k]) for k in opt}, said


def V(entry, obs):
    return forward(entry, obs)[:, 0]


def advantage(value):
    params, b = before()
    return pair(params["target"]["critic"], b.obs, b.action).min(0) - V(value, b.obs)


def test_values_are_expectiles_of_the_lesser_target():
    """L₂^τ(Q' - V) = |τ - 1(u < 0)| u²."""
    params, b = before()
    _, grads, said = updated()
    u = advantage(params["value"])
    assert (u > 0).any() and (u < 0).any()
    lesser = pair(params["target"]["critic"], b.obs, b.action).argmin(0)
    assert set(lesser) == {0, 1}

    def loss(p):
        return np.mean([(TAU if x > 0 else 1 - TAU) * x**2 for x in advantage(p)])

    np.testing.assert_allclose(said["value_loss"], loss(params["value"]), rtol=1e-5)
    close(grads["value"], differences(loss, params["value"]), atol=1e-5)


def test_critics_look_ahead_by_the_new_values():
    params, b = before()
    new, grads, said = updated()
    y = np.asarray(b.reward) + np.asarray(b.discount) * V(new["value"], b.next_obs)
    loss = lambda p: sum(np.mean((y - q) ** 2) for q in pair(p, b.obs, b.action))
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)
    close(grads["critic"], differences(loss, params["critic"]), atol=1e-5)
    close(new["target"]["critic"], moved(params["target"]["critic"], new["critic"], 0.2))


def by_hand(beta):
    """The actor's gradient: each row's likelihood has the weight exp(β A), at most 100."""
    params, b = before()
    weight = np.minimum(np.exp(beta * advantage(updated(beta=beta)[0]["value"])), 100.0)

    def loss(p):
        each = [nll_of_row(p, i) for i in range(M)]
        return np.mean(weight * each)

    def nll_of_row(p, i):
        rows = np.asarray(b.obs)[i : i + 1], np.asarray(b.action)[i : i + 1]
        return nll("box", p, *rows)

    return weight, loss


@pytest.mark.parametrize("beta", [0.9, 20.0])
def test_better_actions_are_cloned_more(beta):
    params, _ = before()
    weight, loss = by_hand(beta)
    assert (weight == 100).any() == (beta == 20.0) and (weight < 1).any()
    _, grads, said = updated(beta=beta)
    np.testing.assert_allclose(said["actor_loss"], loss(params["actor"]), rtol=1e-4)
    np.testing.assert_allclose(said["weight"], weight.mean(), rtol=1e-4)
    close(grads["actor"], differences(loss, params["actor"]), rtol=1e-3, atol=1e-4)


def test_without_a_preference_it_is_bc():
    params, b = before()
    clone = bc.learner(box(D), Network(hidden=(4,)))
    hp = cast(bc.BC(lr=0.05))
    actor = {"actor": params["actor"]}
    cloned, _, _ = quick(clone.update)(actor, clone.opt(actor, hp), b, KEY, 0, 0, hp)
    close(updated(beta=0.0)[0]["actor"], cloned["actor"], rtol=1e-5)
    assert not same(updated(beta=0.9)[0]["actor"], cloned["actor"])


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_the_minimiser_is_the_expectile(tau):
    """τ E[(x - m)⁺] = (1 - τ) E[(m - x)⁺] (Newey and Powell 1987); the mean at τ = 1/2."""
    x = np.random.default_rng(0).normal(size=50)
    gap = lambda m: tau * np.maximum(x - m, 0).mean() - (1 - tau) * np.maximum(m - x, 0).mean()
    want: Any = optimize.brentq(gap, x.min(), x.max())
    slope = jax.grad(lambda m: iql.expectile_loss(jnp.asarray(x) - m, tau).mean())
    assert abs(slope(want)) < 1e-5 and slope(want - 0.1) < -1e-3 and slope(want + 0.1) > 1e-3
    assert tau != 0.5 or want == pytest.approx(x.mean())
