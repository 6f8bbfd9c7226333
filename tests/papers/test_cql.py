"""CQL(H), arXiv 2006.04779: the integral by quadrature, its gradient in closed form, SAC's rest.

Critics are linear and the two rows have the observations [1, 0] and [0, 1], so that what an update
aimed at is read off the gradients that Adam saw.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import sac
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.papers.offline import cql
from jaxrl.papers.offline.cql import CQL
from jaxrl.policies import Network
from jaxrl.types import Transitions
from tests.papers.by_hand import KEY, box, close, gradient, moved, quick

pytestmark = pytest.mark.equation("cql")

M = 2
LOC, LOG_STD = np.array([0.4, -0.3]), -1.0  # of the policy, by row
LEARNER = cql.learner(box(1), Network(hidden=()))
B = Transitions(
    jnp.eye(2),
    jnp.array([[0.5], [-0.7]]),
    jnp.array([1.0, -2.0]),
    jnp.array([0.9, 0.5]),
    jnp.eye(2)[::-1],
)
SLOPE = np.array([3.0, -0.8])  # of each critic by its action
update = quick(LEARNER.update)


def linear(w):
    """Critics from their weights of the rows [2, 2], of the action and their biases [2] each."""
    rows, action, bias = (np.asarray(x, float) for x in w)
    kernel = jnp.asarray(np.concatenate([rows, action[:, None]], 1)[..., None], jnp.float32)
    return dict(
        params=dict(Dense_0=dict(kernel=kernel, bias=jnp.asarray(bias[:, None], jnp.float32)))
    )


def parameters(log_std=LOG_STD, alpha=0.7):
    kernel = jnp.asarray(np.stack([LOC, [log_std] * 2], 1), jnp.float32)
    actor = dict(params=dict(Dense_0=dict(kernel=kernel, bias=jnp.zeros(2))))
    critic = linear(([[0.5, -1.0], [0.2, 0.4]], SLOPE, [0.1, -0.2]))
    target = linear(([[1.0, 0.3], [0.6, 0.7]], [0.7, 0.9], [0.2, 0.1]))
    log_alpha = jnp.log(jnp.float32(alpha))
    return dict(actor=actor, critic=critic, log_alpha=log_alpha, target=dict(critic=target))


def step(hp, key=KEY, **how):
    params = parameters(**how)
    new, opt, said = update(params, LEARNER.opt(params, hp), B, key, 0, 0, hp)
    return params, new, gradients(opt, params), said


def gradients(opt, params):
    """By entry; of the temperature as an array of one."""
    return {
        k: gradient(opt[k], jnp.atleast_1d(x)) if k == "log_alpha" else gradient(opt[k], x)
        for k, x in params.items()
        if k in opt
    }


def values(entry, s, a):
    """Q [2] at the row s."""
    last = entry["params"]["Dense_0"]
    k = np.asarray(last["kernel"], float)[..., 0]
    return k[:, s] + k[:, 2] * a + np.asarray(last["bias"], float)[:, 0]


def test_the_integral_is_estimated_from_three_proposals():
    rng, n = np.random.default_rng(0), 40_000
    q = lambda a: 2 * np.sin(3 * a) + a
    u = [stats.norm(loc, 0.5).rvs(n, random_state=rng) for loc in (0.8, -0.2)]
    any_ = rng.uniform(-1, 1, n)
    a = np.concatenate([any_, *np.tanh(u)])
    density = [np.full(n, 0.5)]
    for loc, x in zip((0.8, -0.2), u):
        density.append(stats.norm.pdf(x, loc, 0.5) / (1 - np.tanh(x) ** 2))
    got = cql.log_integral(
        jnp.asarray(q(a))[None, :, None], jnp.asarray(np.log(np.concatenate(density)))[:, None]
    )
    want = np.log(integrate.quad(lambda x: np.exp(q(x)), -1, 1)[0])
    assert got.shape == (1, 1) and got[0, 0] == pytest.approx(want, abs=0.02)


def test_values_fall_where_the_data_are_not():
    """∂/∂w log ∫ exp(w a) da = coth w - 1 / w; less the data's a, and for rows and bias nothing."""
    hp = lambda weight: cast(CQL(lr=0.0, weight=weight, samples=20_000))
    *_, none, plain = step(hp(0.0), log_std=0.0)
    *_, some, said = step(hp(3.0), log_std=0.0)
    gap = jax.tree.map(lambda x, y: (x - y) / 3.0, some["critic"], none["critic"])
    kernel = gap["params"]["Dense_0"]["kernel"][..., 0]
    mean = 1 / np.tanh(SLOPE) - 1 / SLOPE
    np.testing.assert_allclose(kernel[:, 2], mean - np.mean(np.asarray(B.action)), atol=0.02)
    np.testing.assert_allclose(kernel[:, :2], 0.0, atol=1e-5)
    np.testing.assert_allclose(gap["params"]["Dense_0"]["bias"], 0.0, atol=1e-5)
    # log ∫ exp(w a) da = log(2 sinh(w) / w), over both critics
    level = np.log(2 * np.sinh(SLOPE) / SLOPE) - SLOPE * np.mean(np.asarray(B.action))
    assert said["gap"] == pytest.approx(level.sum(), abs=0.03)
    assert said["critic_loss"] == pytest.approx(float(plain["critic_loss"]), rel=1e-6)


def test_densities_are_of_the_policy_now_and_ahead():
    """With few samples the estimate is biased unless every density is right: at Q = 0 each of the
    ratios 1 / density has the mean 2, whoever proposes."""
    hp = cast(CQL(lr=0.0, samples=4000))
    params = parameters(log_std=-0.3) | dict(critic=linear((np.zeros((2, 2)), [0, 0], [0, 0])))
    said = update(params, LEARNER.opt(params, hp), B, KEY, 0, 0, hp)[2]
    assert said["gap"] == pytest.approx(2 * np.log(2), abs=0.05)


def test_targets_are_not_paid_for_entropy():
    """y = r + γ min Q'(s', a'); the policy is narrow, so that a' is all but its mode."""
    params, _, grads, said = step(cast(CQL(lr=0.0, weight=0.0)), log_std=-5.0)
    y = np.zeros(M)
    for m, ahead in ((0, 1), (1, 0)):
        q = values(params["target"]["critic"], ahead, np.tanh(LOC[ahead]))
        y[m] = B.reward[m] + B.discount[m] * q.min()
    q = np.stack([values(params["critic"], m, float(B.action[m, 0])) for m in range(M)], 1)
    rows = grads["critic"]["params"]["Dense_0"]["kernel"][:, :2, 0]
    np.testing.assert_allclose(rows, 2 * (q - y) / M, atol=0.02)  # no 1/2, a mean over rows
    assert said["critic_loss"] == pytest.approx(np.mean((q - y) ** 2, 1).sum(), rel=0.02)


@functools.cache
def beside():
    """The gradients of an update of SAC and of CQL, from the same parameters and key."""
    hp = cast(SAC(lr=0.0))
    learner, params = sac.learner(box(1), Network(hidden=())), parameters()
    _, opt, _ = quick(learner.update)(params, learner.opt(params, hp), B, KEY, 0, 0, hp)
    return gradients(opt, params), step(cast(CQL(lr=0.0)))[2]


def test_actor_and_temperature_are_sac_s():
    theirs, ours = beside()
    close(ours["actor"], theirs["actor"])
    close(ours["log_alpha"], theirs["log_alpha"])
    assert not np.allclose(
        *(g["critic"]["params"]["Dense_0"]["kernel"] for g in (ours, theirs)), atol=1e-2
    )


def test_targets_move():
    params, new, *_ = step(cast(CQL(lr=0.05, tau=0.2)))
    close(new["target"]["critic"], moved(params["target"]["critic"], new["critic"], 0.2))
    assert set(new["target"]) == {"critic"}
