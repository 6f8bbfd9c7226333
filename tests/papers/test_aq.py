"""AQ's loss, arXiv 2506.05968, against SciPy's expectile, and what it is at τ = 1/2."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jaxrl.hyper import Linear, arg, cast, hyper
from jaxrl.papers.off_policy import aq, sac, td3
from jaxrl.papers.off_policy.aq import AQ
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.papers.off_policy.td3 import TD3
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

pytestmark = pytest.mark.equation("aq")

M, D, NETWORK = 8, 2, Network(hidden=(4,))
PLAIN = td3.learner(box(D), NETWORK)
ANNEALED = td3.learner(box(D), NETWORK, aq.expectile)


@hyper
class AQSAC(SAC):
    expectile: float | Linear = arg(Linear(0.9, 0.5), "τ of the critics' error", "(0, 1)")


@functools.cache
def problem(soft: bool = False):
    """Parameters of TD3, or of SAC, and a batch."""
    rng, paper = np.random.default_rng(0), sac if soft else td3
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    init = paper.learner(box(D), NETWORK).init
    return shaken(rng, jax.jit(init)(KEY, b.obs, None)), b


@functools.cache
def program(learner):
    return quick(learner.update)


def step(learner, hp, i=1, t=0, soft=False):
    params, b = problem(soft)
    new, opt, said = program(learner)(
        params, learner.opt(params, hp), b, KEY, jnp.int32(t), jnp.int32(i), cast(hp)
    )
    return new, gradient(opt["critic"], params["critic"]), said


def test_what_minimises_the_loss_is_the_expectile():
    """E[|τ - 1(δ < 0)| δ²] over targets y, by a search: at 1/2 it is the mean, above it more."""
    y, found = np.random.default_rng(0).exponential(size=50), []
    for tau in (0.5, 0.7, 0.95):
        hp = cast(AQ(expectile=tau))
        loss = lambda q, hp=hp: float(aq.expectile(q[0], y, 0, hp).mean())
        q = optimize.fmin(loss, [1.0], disp=False)[0]
        assert q == pytest.approx(stats.expectile(y, tau), abs=2e-3)
        found.append(q)
    assert found == sorted(found) and found[0] == pytest.approx(y.mean(), abs=2e-3)


def test_the_loss_is_twice_the_paper_s():
    rng, hp = np.random.default_rng(1), cast(AQ(expectile=0.8))
    q, y = rng.normal(size=(2, M)), rng.normal(size=M)
    want = np.zeros((2, M))
    for i, m in np.ndindex(2, M):
        delta = y[m] - q[i, m]
        want[i, m] = 2 * abs(0.8 - (1 if delta < 0 else 0)) * delta**2
    np.testing.assert_allclose(aq.expectile(q, y, 0, hp), want, rtol=1e-5)


def test_an_update_weighs_errors_and_nothing_else():
    """TD3's target, with each error's weight: 0.9 for a value too low, 0.1 for one too high."""
    params, b = problem()
    hp = AQ(expectile=0.9, smooth=0.0)
    _, grads, said = step(ANNEALED, hp)
    ahead = np.tanh(forward(params["target"]["actor"], b.next_obs))
    least = pair(params["target"]["critic"], b.next_obs, ahead).min(0)
    y = np.asarray(b.reward) + np.asarray(b.discount) * least

    def loss(p):
        delta = y - pair(p, b.obs, b.action)
        return (2 * np.where(delta < 0, 0.1, 0.9) * delta**2).mean(1).sum()

    delta = y - pair(params["critic"], b.obs, b.action)
    assert 2 < (delta < 0).sum() < 2 * M - 2
    close(grads, differences(loss, params["critic"]), atol=1e-4)
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)


def test_at_one_half_it_is_td3():
    hp: Any = dict(lr=0.01, tau=0.2)
    plain, half = step(PLAIN, TD3(**hp)), step(ANNEALED, AQ(**hp, expectile=0.5))
    close(half, plain, rtol=1e-6, atol=1e-7)
    assert not same(step(ANNEALED, AQ(**hp, expectile=0.6))[0], plain[0])


def test_tau_goes_from_one_end_of_the_run_to_the_other():
    """t counts iterations of the run's `horizon`; the gradient is linear in τ between two ends."""
    horizon: Any = dict(horizon=100.0, smooth=0.0)
    fixed = {tau: step(ANNEALED, AQ(**horizon, expectile=tau))[1] for tau in (0.9, 0.8, 0.5)}
    assert AQ().expectile == Linear(0.9, 0.5)
    for t, tau in ((0, 0.9), (25, 0.8), (100, 0.5)):
        close(step(ANNEALED, AQ(**horizon), t=t)[1], fixed[tau], atol=1e-5)


def test_with_sac_it_is_twice_sac_s_loss_at_one_half():
    """SAC's is half the square, and 2 |1/2 - 1(δ < 0)| δ² the whole: the gradient twice as long."""
    crossed = sac.learner(box(D), NETWORK, aq.expectile)
    plain = step(sac.learner(box(D), NETWORK), SAC(lr=0.01), soft=True)
    half = step(crossed, AQSAC(lr=0.01, expectile=0.5), soft=True)
    close(half[1], jax.tree.map(lambda g: 2 * g, plain[1]), rtol=1e-5)
    np.testing.assert_allclose(half[2]["critic_loss"], 2 * plain[2]["critic_loss"], rtol=1e-5)
    before = problem(True)[0]
    assert not same(half[0]["actor"], before["actor"])  # it is a whole update
    np.testing.assert_allclose(half[2]["entropy"], plain[2]["entropy"], rtol=1e-5)
