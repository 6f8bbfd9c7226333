"""f-DVL, arXiv 2302.08560: conjugates and their minimisers by SciPy; the rest is IQL's."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jaxrl.errors import InputError
from jaxrl.hyper import cast, check
from jaxrl.papers.offline import dual_rl, iql
from jaxrl.papers.offline.dual_rl import DualRL
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

pytestmark = pytest.mark.equation("dual_rl")

M, D, LAM, ALPHA = 6, 2, 0.7, 0.15
LEARNER = iql.learner(box(D), Network(hidden=(4,)), dual_rl.value_loss)
SET: dict[str, Any] = dict(lr=0.05, tau=0.2, lam=LAM, alpha=ALPHA, beta=0.9)
X = np.random.default_rng(0).normal(size=40)
F = {
    "pearson": lambda w: (w - 1) ** 2,
    "tv": lambda w: abs(w - 1) / 2,
    "kl": lambda w: special.xlogy(w, w) - w + 1,
}


def conjugate(f, y):
    """max_{w >= 0} w y - f(w), by search."""
    w = np.concatenate([np.linspace(0, 60, 600_001), [0.0, 1.0]])
    return np.max(w * y - F[f](w))


@pytest.mark.parametrize("f", F)
def test_the_conjugates(f):
    """Where weights can't be negative: constant in the end, at -f(0)."""
    ys = [-8.0, -3.0, -2.0, -1.0, -0.5, -0.2, 0.0, 0.3, 0.5] + [1.0, 4.0] * (f != "tv")
    got = [float(dual_rl.CONJUGATES[f](jnp.float32(y))) for y in ys]
    np.testing.assert_allclose(got, [conjugate(f, y) for y in ys], atol=1e-4)
    assert dual_rl.CONJUGATES["tv"](jnp.float32(3.0)) == 3.0  # where w y - f(w) has no bound


def minimiser(alpha=1.0, **how):
    """Where the slope of L_V by V changes its sign."""
    hp = cast(DualRL(**SET | how)).replace(alpha=jnp.float32(alpha))
    x = jnp.asarray(X, jnp.float32)
    slope = jax.jit(jax.grad(lambda v: dual_rl.value_loss(x - v, hp).sum()))
    zero: Any = optimize.bisect(lambda v: float(slope(v)) + 1e-7, -40.0, 40.0)
    return zero


def test_known_values():
    """A quantile, a mean, the logarithm of a mean exponential; and f*_p's beyond the best."""
    assert minimiser(f="tv") == pytest.approx(
        np.quantile(X, (2 * LAM - 1) / LAM, method="inverted_cdf"), abs=1e-4
    )
    assert minimiser(flat=False, lam=0.5, alpha=9.0) == pytest.approx(X.mean(), abs=1e-4)
    soft = 0.5 * np.log(np.mean(np.exp(X / 0.5)))
    xql: dict[str, Any] = dict(f="kl", flat=False, alpha=0.5)
    assert minimiser(lam=0.5, **xql) == pytest.approx(soft, abs=1e-4)
    assert minimiser(**xql) == pytest.approx(soft + 0.5 * np.log(LAM / (1 - LAM)), abs=1e-4)
    excess = lambda v: LAM * np.mean(np.maximum(1 + (X - v) / 2, 0) * (v < X)) - (1 - LAM)
    want: Any = optimize.brentq(excess, -9, 9)
    assert minimiser() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("f", ["pearson", "tv"])
def test_values_go_up_to_the_best(f):
    """As λ goes to 1, where f*_p is flat."""
    v = [minimiser(f=f, lam=lam) for lam in (0.55, 0.7, 0.85, 0.999)]
    assert v == sorted(v) and v[0] < v[1] < v[3]
    assert v[-1] == pytest.approx(X.max(), abs=0.05)
    assert minimiser(f=f, lam=0.999, flat=False) > X.max() + 0.4


def test_gumbel_regression_is_xql_s():
    u, hp = jnp.linspace(-3, 2, 9), cast(DualRL(f="kl", flat=False, lam=0.5, alpha=ALPHA))
    z = np.linspace(-3, 2, 9) / ALPHA
    gumbel = np.exp(z) - z - 1
    np.testing.assert_allclose(2 * dual_rl.value_loss(u, hp), gumbel, rtol=1e-5, atol=1e-6)


# ---- a whole update --------------------------------------------------------------------------


@functools.cache
def before():
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    params = shaken(rng, LEARNER.init(KEY, b.obs, cast(DualRL())))
    params["actor"]["head"]["log_std"] = jnp.array([-0.4, 0.3])
    return params, b


def step(learner, hp):
    params, b = before()
    new, opt, said = quick(learner.update)(params, learner.opt(params, hp), b, KEY, 0, 0, hp)
    return new, {k: gradient(opt[k], params[k]) for k in opt}, said


@functools.cache
def updated(**how):
    return step(LEARNER, cast(DualRL(**SET | how)))


def advantage(value):
    params, b = before()
    v = forward(value, b.obs)[:, 0]
    return pair(params["target"]["critic"], b.obs, b.action).min(0) - v


def test_values_minimise_the_dual():
    """(1 - λ) V + λ f*_p(max(Q' - V, 0)) in units of α, less (1 - λ) Q'."""
    params, _ = before()
    _, grads, said = updated()
    u = advantage(params["value"]) / ALPHA
    assert (u > 0).any() and (u < -4).any()

    def loss(p):
        y = advantage(p) / ALPHA
        return np.mean([LAM * max(z + z * z / 4, 0) * (z > 0) - (1 - LAM) * z for z in y])

    np.testing.assert_allclose(said["value_loss"], loss(params["value"]), rtol=1e-5)
    close(grads["value"], differences(loss, params["value"]), atol=1e-5)


def test_critics_look_ahead_by_the_new_values():
    params, b = before()
    new, grads, _ = updated()
    assert not same(new["value"], params["value"])
    y = np.asarray(b.reward) + np.asarray(b.discount) * forward(new["value"], b.next_obs)[:, 0]
    loss = lambda p: sum(np.mean((y - q) ** 2) for q in pair(p, b.obs, b.action))
    close(grads["critic"], differences(loss, params["critic"]), atol=1e-5)
    close(new["target"]["critic"], moved(params["target"]["critic"], new["critic"], 0.2))


@pytest.mark.parametrize("beta", [0.9, 20.0])
def test_better_actions_are_cloned_more(beta):
    """By the new V, and at most 100 times."""
    new, _, said = updated(beta=beta)
    weight = np.minimum(np.exp(beta * advantage(new["value"])), 100.0)
    assert (weight == 100).any() == (beta == 20.0)
    assert said["weight"] == pytest.approx(weight.mean(), rel=1e-4)


def test_all_but_the_values_is_iql_s():
    ours = updated(lr=0.0)
    theirs = step(iql.learner(box(D), Network(hidden=(4,))), cast(iql.IQL(lr=0.0, beta=0.9)))
    for name in ("actor", "critic"):
        close(ours[1][name], theirs[1][name], rtol=1e-5)
    assert not same(ours[1]["value"], theirs[1]["value"])


def test_it_is_iql_at_the_mean():
    """Pearson's f*_p and λ = 1/2: u² / 8 where u > -2, a quarter of IQL's u² / 2."""
    ours = updated(lam=0.5, flat=False, alpha=50.0)[1]["value"]
    theirs = step(iql.learner(box(D), Network(hidden=(4,))), cast(iql.IQL(expectile=0.5)))[1]
    scaled = jax.tree.map(lambda g: g / 4 / 50.0**2, theirs["value"])
    close(ours, scaled, rtol=1e-3, atol=1e-7)


def test_what_has_no_least_is_refused():
    with pytest.raises(InputError, match=r"lam: 0.4 is outside \[0.5, 1\)"):
        check(DualRL(lam=0.4))  # total variation: V without bound
