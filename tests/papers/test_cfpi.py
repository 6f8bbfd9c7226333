"""CFPI, arXiv 2211.15956: steps against numerical optimisation, updates and acts against NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jaxrl.hyper import cast
from jaxrl.papers.offline import cfpi
from jaxrl.papers.offline.cfpi import CFPI
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
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("cfpi")

M, N, D = 6, 3, 2
LEARNER = cfpi.learner(box(D), Network(hidden=(4,)))
SET: dict[str, Any] = dict(lr=0.05, tau=0.2, components=N)


def mixtures(seed, n):
    """λ [n], μ and σ [n, D] of M states."""
    rng = np.random.default_rng(seed)
    loc, std = rng.normal(size=(M, n, D)), np.exp(0.4 * rng.normal(size=(M, n, D)))
    return rng.dirichlet(3 * np.ones(n), M), loc, std


def best(slope, start, bound):
    """What makes slopeᵀ u most where bound(u) >= 0, by numbers; None where that is nowhere."""
    if bound(start) < -1e-9:  # it is concave, and most at the start
        return None
    say = dict(type="ineq", fun=bound)
    scale = np.linalg.norm(slope)
    loss: Any = lambda u: -slope @ (u - start) / scale
    return optimize.minimize(loss, start + 1e-3 * slope, constraints=say, tol=1e-12).x


def candidates(weight, loc, std, slope, log_tau):
    """The solutions of problems 11 (one for each component) and 13, in that order."""
    log_pdf = lambda u, i: stats.norm.logpdf(u, loc[i], std[i]).sum()
    peaks = [np.log(w) + log_pdf(m, i) for i, (w, m) in enumerate(zip(weight, loc))]
    delta, out = log_tau - max(peaks), []
    for i, w in enumerate(weight):
        bound = lambda u, i=i, w=w: np.log(w) + log_pdf(u, i) + delta
        out.append(best(slope(loc[i]), loc[i], bound))
    # by Jensen's bound the mode is the mean by precision, and δ is from the components' own modes
    precision = weight[:, None] / std**2
    mean = (precision * loc).sum(0) / precision.sum(0)
    delta = log_tau - sum(w * log_pdf(m, i) for i, (w, m) in enumerate(zip(weight, loc)))
    bound = lambda u: sum(w * log_pdf(u, i) for i, w in enumerate(weight)) + delta
    return [*out, best(slope(mean), mean, bound)]


def chosen(weight, loc, std, value, log_tau):
    """The best of the candidates, and which one it is."""
    slope = lambda u: optimize.approx_fprime(u, value, 1e-6)
    found = candidates(weight, loc, std, slope, log_tau)
    worth = [-np.inf if u is None else value(u) for u in found]
    return found[int(np.argmax(worth))], int(np.argmax(worth)), sum(u is None for u in found)


def quadratic(u):
    """Somewhere it is best, and slopes differ."""
    return -((u[..., 0] - 1.5) ** 2) - 2 * (u[..., 1] + 0.5) ** 2


improved = quick(lambda *pi_tau: cfpi.improved(pi_tau[:3], quadratic, pi_tau[3]))


def ours(weight, loc, std, log_tau):
    return np.asarray(improved(np.log(weight), loc, std, log_tau))


@pytest.mark.parametrize("log_tau", [0.05, 0.5, 2.0])
def test_one_gaussian_gives_the_best_of_its_ellipsoid(log_tau):
    """Problem 5, and eq. 8: the density is the mode's over τ."""
    pi = mixtures(0, 1)
    for m, u in enumerate(ours(*pi, log_tau)):
        _, (loc,), (std,) = (x[m] for x in pi)
        density = lambda x, loc=loc, std=std: stats.norm.logpdf(x, loc, std).sum()
        assert density(u) == pytest.approx(density(loc) - log_tau, abs=1e-4)
        want, *_ = chosen(*(x[m] for x in pi), quadratic, log_tau)
        np.testing.assert_allclose(u, want, atol=1e-3)


def test_a_mixture_takes_the_best_of_its_bounds():
    """Problems 11 and 13; in some states either bound is the better, in some one has no action."""
    which, missing = set(), 0
    for seed, log_tau in ((1, 0.1), (2, 0.7)):
        pi = mixtures(seed, N)
        for m, u in enumerate(ours(*pi, log_tau)):
            want, i, none = chosen(*(x[m] for x in pi), quadratic, log_tau)
            np.testing.assert_allclose(u, want, atol=1e-3, err_msg=f"{seed}, {m}, {i}")
            which.add(i)
            missing += none
    assert N in which and len(which) > 2 and missing > 4


def test_alike_components_are_one_gaussian():
    weight, loc, std = mixtures(3, 1)
    thrice = np.tile([0.2, 0.5, 0.3], (M, 1)), *(np.repeat(x, N, 1) for x in (loc, std))
    np.testing.assert_allclose(ours(*thrice, 0.5), ours(weight, loc, std, 0.5), atol=1e-4)


def test_nowhere_to_go_is_no_step():
    """A slope of 0: the mode itself, and not NaN."""
    pi = [jnp.asarray(x, jnp.float32) for x in mixtures(4, 1)]
    still = lambda u: 0 * u.sum(-1)
    u = cfpi.improved((jnp.log(pi[0]), pi[1], pi[2]), still, 0.5)
    np.testing.assert_array_equal(u, pi[1][:, 0])


# ---- the learner -----------------------------------------------------------------------------


@functools.cache
def updated():
    """Parameters before, batch, parameters after, gradients and stats."""
    rng = np.random.default_rng(0)
    a, ahead = (jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32) for _ in range(2))
    b = transitions(rng, M, 3, a).replace(next_action=ahead)
    hp = cast(CFPI(**SET))
    params = shaken(rng, LEARNER.init(KEY, b.obs, hp))
    new, opt, said = quick(LEARNER.update)(params, LEARNER.opt(params, hp), b, KEY, 0, 0, hp)
    return params, b, new, {k: gradient(opt[k], params[k]) for k in opt}, said


def mixture(entry, obs, n=N):
    """λ [M, n], μ and σ [M, n, D]."""
    x = forward(entry, obs).reshape(-1, n, 1 + 2 * D)
    weight = np.exp(x[..., 0]) / np.exp(x[..., 0]).sum(1, keepdims=True)
    return weight, x[..., 1 : 1 + D], np.exp(np.clip(x[..., 1 + D :], -5, 2))


def test_the_behaviour_is_cloned():
    """-log Σᵢ λᵢ N(arctanh a; μᵢ, Σᵢ), its mean."""
    params, b, _, grads, said = updated()

    def loss(p):
        weight, loc, std = mixture(p, b.obs)
        u = np.arctanh(np.asarray(b.action, float))
        pdf = [
            sum(w * stats.norm.pdf(u[m], *ms).prod() for w, *ms in zip(weight[m], loc[m], std[m]))
            for m in range(M)
        ]
        return -np.log(pdf).mean()

    np.testing.assert_allclose(said["actor_loss"], loss(params["actor"]), rtol=1e-4)
    close(grads["actor"], differences(loss, params["actor"]), rtol=1e-3, atol=1e-4)


def test_values_are_the_behaviour_s():
    """SARSA, with the action that the data have next; each critic by its own target."""
    params, b, new, grads, said = updated()
    later = pair(params["target"]["critic"], b.next_obs, b.next_action)
    y = np.asarray(b.reward) + np.asarray(b.discount) * later
    loss = lambda p: np.square(pair(p, b.obs, b.action) - y).mean(1).sum()
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)
    close(grads["critic"], differences(loss, params["critic"]), atol=1e-5)
    close(new["target"]["critic"], moved(params["target"]["critic"], new["critic"], 0.2))
    assert set(new["target"]) == {"critic"}


def test_it_acts_by_a_step_of_its_own_mixture_and_critics():
    params, b, *_ = updated()
    hp = cast(CFPI(**SET, log_tau=2.0))
    act = quick(lambda obs, key: LEARNER.act(params, obs, (), key, 0, hp)[0])
    got, pi, which, lesser = act(b.obs, None), mixture(params["actor"], b.obs), set(), set()
    np.testing.assert_array_equal(got, act(b.obs, KEY))  # nothing explores
    for m in range(M):
        q = lambda u, m=m: pair(params["critic"], b.obs[m : m + 1], np.tanh(u)[None])[:, 0]
        want, i, _ = chosen(*(x[m] for x in pi), lambda u, q=q: q(u).min(), 2.0)
        np.testing.assert_allclose(got[m], np.tanh(want), atol=2e-3)
        which.add(i)
        lesser.add(int(q(want).argmin()))
    assert len(which) > 1 and lesser == {0, 1}


def test_one_gaussian_and_no_step_is_the_clone_s_mean():
    _, b, *_ = updated()
    hp = cast(CFPI(components=1, log_tau=0.0))
    params = shaken(np.random.default_rng(5), LEARNER.init(KEY, b.obs, hp))
    act = lambda hp: LEARNER.act(params, b.obs, (), None, 0, hp)[0]
    mean = np.tanh(mixture(params["actor"], b.obs, 1)[1][:, 0])
    np.testing.assert_allclose(act(hp), mean, rtol=1e-5)
    assert (np.abs(act(hp.replace(log_tau=0.5)) - mean).max(1) > 1e-3).all()


def test_actions_on_the_edge_have_a_likelihood():
    params, b, *_ = updated()
    hp = cast(CFPI(**SET))
    edge = b.replace(action=jnp.sign(b.action))
    *_, said = quick(LEARNER.update)(params, LEARNER.opt(params, hp), edge, KEY, 0, 0, hp)
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x)), said))
