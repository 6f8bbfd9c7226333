"""SAC, arXiv 1812.05905, against densities by SciPy and gradients by hand.

Networks are linear and the two rows have the observations [1, 0] and [0, 1], so that what an update
drew can be read off the gradients that Adam saw; then every equation is checked draw by draw.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxrl.hyper import cast, replace
from jaxrl.papers.off_policy import sac
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.policies import Network
from jaxrl.types import Transitions
from tests.papers.by_hand import KEY, adam_step, box, close, gradient, moved, same

pytestmark = pytest.mark.equation("sac")

M, D, DRAWS = 2, 2, 2000
LEARNER = sac.learner(box(D), Network(hidden=()))
LOC = np.array([[0.3, -0.5], [-0.2, 0.1]])  # of the policy, by row and number
STD = np.array([[0.5, 0.3], [0.4, 0.6]])
CRITIC = np.array([[0.5, -1.0, 1.5, 0.4, 0.2], [-0.3, 0.8, -1.0, 0.9, -0.1]])  # of s, of a, bias
TARGET = np.array([[1.0, 0.2, 0.7, -0.6, 0.3], [-0.4, 1.2, -0.5, 0.8, 0.6]])
NONE = np.zeros((2, 5))
ONE = [np.tile(np.eye(5)[2 + j], (2, 1)) for j in range(D)]  # Q(s, a) = a_j
B = Transitions(
    jnp.eye(2),
    jnp.array([[0.5, -0.1], [-0.7, 0.9]]),
    jnp.array([1.0, -2.0]),
    jnp.array([0.9, 0.5]),
    jnp.eye(2),
)


def parameters(critic, target, alpha):
    """kernel and bias of linear critics from their five numbers."""
    both = lambda w: dict(
        params=dict(
            Dense_0=dict(kernel=jnp.float32(w)[..., :4, None], bias=jnp.float32(w)[..., 4:])
        )
    )
    kernel = jnp.asarray(np.concatenate([LOC, np.log(STD)], 1), jnp.float32)
    actor = dict(params=dict(Dense_0=dict(kernel=kernel, bias=jnp.zeros(2 * D))))
    params = dict(actor=actor, critic=both(critic), log_alpha=jnp.log(jnp.float32(alpha)))
    return params | dict(target=dict(critic=both(target)))


def values(w, s, a):
    """Q [2] of a row."""
    return w[:, s] + w[:, 2:4] @ a + w[:, 4]


CASES = {  # critic, target, α
    "noise": (NONE, NONE, 1.0),
    "first": (NONE, ONE[0], 0.0),
    "second": (NONE, ONE[1], 0.0),
    "whole": (CRITIC, TARGET, 0.7),
}


def one(params, key, hp):
    new, opt, said = LEARNER.update(params, LEARNER.opt(params, hp), B, key, 0, 0, hp)
    return new, {k: opt[k] for k in opt}, said


@functools.cache
def program():
    over = jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, None))
    return jax.jit(over)  # compiled as a run is


@functools.cache
def outcome(**changes):
    """By case: parameters after, gradients by entry and stats, each [draws, ...]."""
    hp = cast(replace(SAC(lr=0.0, tau=0.2), **changes))
    cases = [parameters(*case) for case in CASES.values()]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    new, opt, said = program()(stacked, jax.random.split(KEY, DRAWS), hp)
    grads = {k: gradient(opt[k], cases[0][k]) for k in opt}
    take = lambda i: jax.tree.map(lambda x: np.asarray(x[i]), (new, grads, said))
    return {name: take(i) for i, name in enumerate(CASES)}


def rows(critic_grads):
    """The critics' gradients by the observation's weights, [draws, 2, M]: each row's own, / M."""
    return critic_grads["params"]["Dense_0"]["kernel"][..., :2, 0]


@functools.cache
def drawn():
    """What updates drew: a' in the next states and ε for the actor, each [draws, M, D].

    Q = 0, α = 0 and Q' = a_j: ∂L/∂wᵢ = -yᵢ / M for y = r + γ a'_j.
    Q = 0, α = 1: the actor's loss is log π(a|s) and u = μ + σ ε has the slope 2 tanh u.
    """
    ahead = []
    for name in ("first", "second"):
        y = -M * rows(outcome()[name][1]["critic"])
        np.testing.assert_allclose(y[:, 0], y[:, 1], atol=1e-5)  # both critics, one target
        ahead.append((y[:, 0] - np.asarray(B.reward)) / np.asarray(B.discount))
    slope = M * outcome()["noise"][1]["actor"]["params"]["Dense_0"]["kernel"][..., :D]
    return np.stack(ahead, -1), (np.arctanh(slope / 2) - LOC) / STD


def log_prob(a, m):
    """log π(a|s) of row m: the Gaussian's density where tanh u = a, over the slope of tanh."""
    u = np.arctanh(a)
    return (stats.norm.logpdf(u, LOC[m], STD[m]) - np.log1p(-(a**2))).sum(-1)


def test_actions_are_of_a_squashed_gaussian():
    ahead, eps = drawn()
    for m in range(M):
        for j in range(D):
            z = (np.arctanh(ahead[:, m, j]) - LOC[m, j]) / STD[m, j]
            assert stats.kstest(z, "norm").pvalue > 1e-4
            assert stats.kstest(eps[:, m, j], "norm").pvalue > 1e-4
    z = (np.arctanh(ahead) - LOC) / STD
    every = np.concatenate([z.reshape(DRAWS, -1), eps.reshape(DRAWS, -1)], 1)
    apart = np.corrcoef(every.T) - np.eye(8)
    assert np.abs(apart).max() < 4.5 / np.sqrt(DRAWS)  # the target's and the actor's, and all rows


def test_the_density_that_is_used_here_is_one():
    f = lambda y, x: np.exp(log_prob(np.array([x, y]), 0))
    total = integrate.dblquad(f, -0.9999, 0.9999, -0.9999, 0.9999, epsabs=1e-4)[0]
    assert total == pytest.approx(1.0, abs=1e-3)


def test_the_soft_target_is_paid_for_entropy():
    """y = r + γ (minᵢ Q'ᵢ(s', a') - α log π(a'|s')), L = Σᵢ E[(Qᵢ - y)²] / 2; α = 0.7."""
    ahead, _ = drawn()
    _, grads, said = outcome()["whole"]
    q = np.stack([values(CRITIC, m, np.asarray(B.action[m])) for m in range(M)], 1)  # [2, M]
    lesser = set()
    for k in range(200):
        y = np.zeros(M)
        for m in range(M):
            both = values(TARGET, m, ahead[k, m])
            lesser.add(int(both.argmin()))
            soft = min(both) - 0.7 * log_prob(ahead[k, m], m)
            y[m] = B.reward[m] + B.discount[m] * soft
        np.testing.assert_allclose(rows(grads["critic"])[k], (q - y) / M, rtol=1e-4, atol=1e-4)
        loss = (0.5 * (q - y) ** 2).mean(1).sum()
        np.testing.assert_allclose(said["critic_loss"][k], loss, rtol=1e-4)
    assert lesser == {0, 1}


def actor_gradient(eps, w, alpha):
    """∂/∂(μ, log σ) of E[α log π(a|s) - minᵢ Qᵢ(s, a)], a = tanh(μ + σ ε), [M, 2 D] by hand.

    log π = -ε²/2 - log σ - log(1 - tanh² u) + ..., whose slope by u is 2 tanh u.
    """
    out = np.zeros((M, 2 * D))
    for m in range(M):
        a = np.tanh(LOC[m] + STD[m] * eps[m])
        least = w[values(w, m, a).argmin()]
        by_u = alpha * 2 * a - least[2:4] * (1 - a**2)
        out[m] = np.concatenate([by_u, by_u * STD[m] * eps[m] - alpha]) / M
    return out


def test_the_actor_s_loss_is_alpha_log_prob_less_the_lesser_value():
    _, eps = drawn()
    _, grads, said = outcome()["whole"]
    kernel, least = grads["actor"]["params"]["Dense_0"]["kernel"], set()
    for k in range(200):
        want = actor_gradient(eps[k], CRITIC, 0.7)
        np.testing.assert_allclose(kernel[k], want, rtol=1e-3, atol=1e-4)
        a = np.tanh(LOC + STD * eps[k])
        q = [values(CRITIC, m, a[m]) for m in range(M)]
        least |= {int(x.argmin()) for x in q}
        loss = np.mean([0.7 * log_prob(a[m], m) - min(q[m]) for m in range(M)])
        np.testing.assert_allclose(said["actor_loss"][k], loss, rtol=1e-3, atol=1e-4)
    assert least == {0, 1}


def test_the_temperature_falls_where_there_is_more_entropy_than_wanted():
    """dJ/dα = -(E[log π] + H̄), H̄ = -|A|; by log α it is α times that."""
    _, eps = drawn()
    a = np.tanh(LOC + STD * eps)
    entropy = -np.mean([log_prob(a[:, m], m) for m in range(M)], 0)
    for name, alpha in (("whole", 0.7), ("noise", 1.0)):
        _, grads, said = outcome()[name]
        np.testing.assert_allclose(said["entropy"], entropy, rtol=1e-3, atol=1e-3)
        want = alpha * (entropy + D)
        np.testing.assert_allclose(grads["log_alpha"], want, rtol=1e-3, atol=2e-3)
    new = outcome(lr=0.05, entropy=0.2)["whole"][0]
    fell = new["log_alpha"] < np.log(np.float32(0.7))
    sure = np.abs(entropy - 0.2 * D) > 1e-3
    np.testing.assert_array_equal(fell[sure], (entropy > 0.2 * D)[sure])
    assert 0.2 < fell.mean() < 0.8


def test_the_order_is_critics_actor_temperature_targets():
    """Each step of Adam, and the actor's on the critics as they are after theirs."""
    _, eps = drawn()
    new, grads, _ = outcome(lr=0.05, entropy=0.2)["whole"]
    before = parameters(*CASES["whole"])
    for k in range(20):
        now, g = jax.tree.map(lambda x, k=k: x[k], (new, grads))
        for name in g:
            step = jax.tree.map(lambda x, y: x - y, now[name], before[name])
            close(step, adam_step(g[name], 0.05), atol=1e-6)
        dense = now["critic"]["params"]["Dense_0"]
        w = np.concatenate([dense["kernel"][..., 0], dense["bias"]], 1)
        want = actor_gradient(eps[k], w, 0.7)
        got = g["actor"]["params"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
        assert set(now["target"]) == {"critic"}
        close(now["target"]["critic"], moved(before["target"]["critic"], now["critic"], 0.2))


def test_it_acts_by_draws_and_at_its_mode_without_a_key():
    params, hp = parameters(*CASES["whole"]), cast(SAC())
    obs = jnp.eye(2)[jnp.arange(4000) % 2]
    a = np.asarray(jax.jit(lambda k: LEARNER.act(params, obs, (), k, 0, hp)[0])(KEY))
    for m in range(M):
        z = (np.arctanh(a[m::2]) - LOC[m]) / STD[m]
        assert all(stats.kstest(z[:, j], "norm").pvalue > 1e-4 for j in range(D))
    mode = LEARNER.act(params, jnp.eye(2), (), None, 0, hp)[0]
    np.testing.assert_allclose(mode, np.tanh(LOC), rtol=1e-5)


def test_learning_begins_at_a_temperature_of_one():
    params = jax.jit(LEARNER.init)(KEY, B.obs, cast(SAC()))
    assert params["log_alpha"] == 0.0
    assert same(params["target"]["critic"], params["critic"])
