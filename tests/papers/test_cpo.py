"""CPO's step, arXiv 1705.10528, with an explicit Fisher matrix and a solver."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import envs
from jaxrl.families.on_policy import State
from jaxrl.families.safe import Account
from jaxrl.hyper import cast
from jaxrl.optim import adam
from jaxrl.papers.safe import cpo
from jaxrl.papers.safe.cpo import CPO
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("cpo")

T, N, LENGTH = 8, 6, 20.0
MATCH = envs.make("probe/match")
WORLD = SimpleNamespace(name="match", objectives=("return", "one", "other"))
LINEAR = policy_for(MATCH, Network(hidden=()), values=3)  # 1 feature, 2 actions
HP = CPO(lr=0.0, ent_coef=0.0, damping=0.01, num_envs=N, num_steps=T, minibatches=1, epochs=1)
HP = HP.replace(budget=(5.0, 5.0))


@functools.partial(jax.jit, compiler_options=QUICK)
def update(params, b, hp):
    s = State(params, adam(hp).init(params), jax.random.key(0), None, {})
    _, (s, stats) = cpo.constrained_step(LINEAR).apply((), s, b, 0, hp, WORLD)
    return s.params, stats


def layer(v):
    return dict(kernel=jnp.asarray(v[:2], jnp.float32)[None], bias=jnp.asarray(v[2:], jnp.float32))


def actor_of(params):
    layer = params["net"]["params"]["Dense_1"]
    return np.concatenate([np.ravel(layer["kernel"]), np.ravel(layer["bias"])]).astype(float)


def features(obs):
    x = np.asarray(obs, float).reshape(-1, 1)
    return np.concatenate([x, np.ones_like(x)], 1)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def problem(cost, seed=0):
    """A linear softmax policy, and a batch that it collected, of an episode's costs [2]."""
    rng = np.random.default_rng(seed)
    obs, theta = rng.normal(size=(T, N, 1)).astype(np.float32), rng.normal(size=4)
    params = jax.tree.map(jnp.ones_like, LINEAR.init(jax.random.key(0), jnp.asarray(obs[0])))
    params["net"]["params"]["Dense_1"] = layer(theta)
    theta = actor_of(params)
    logits = features(obs) @ theta.reshape(2, 2)
    p = softmax(logits)
    action = (rng.random(T * N) < p[:, 1]).astype(np.int32)
    A = rng.normal(size=(T, N, 3)).astype(np.float32)
    A -= A.mean((0, 1))
    taken = np.take_along_axis(p, action[:, None], 1)
    record = dict(
        raw=jnp.asarray(action.reshape(T, N)),
        out=jnp.asarray(logits.reshape(T, N, 2), jnp.float32),
        log_prob=jnp.asarray(np.log(taken).reshape(T, N), jnp.float32),
    )
    account = Account(jnp.asarray(cost, jnp.float32), jnp.float32(LENGTH))
    b = Batch(jnp.asarray(obs), record["raw"], record, jnp.zeros((T, N), bool), old=record)
    b = b.replace(advantage=jnp.asarray(A), target=jnp.zeros((T, N, 3)), dual=account)
    return params, theta, b


def judged(theta, old, b):
    """E[r A] [3], KL(π_old || π), gradients [3, 4] of the first, and the Fisher matrix at old."""
    phi, action, A = features(b.obs), np.ravel(b.action), np.asarray(b.advantage).reshape(-1, 3)
    gain, slope, kl, F = np.zeros(3), np.zeros((3, 4)), 0.0, np.zeros((4, 4))
    for x, a, adv in zip(phi, action, A):
        p, q = softmax(x @ theta.reshape(2, 2)), softmax(x @ old.reshape(2, 2))
        gain += p[a] / q[a] * adv / len(phi)
        score = np.outer(x, np.eye(2)[a] - p).ravel()
        slope += np.outer(adv, p[a] / q[a] * score) / len(phi)
        kl += (q * np.log(q / p)).sum() / len(phi)
        F += np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) / len(phi)
    return gain, kl, slope, F


def best(g, b, H, c, delta):
    """The largest gᵀx within both constraints, by SQP; if none is, the least bᵀx."""
    trust = dict(type="ineq", fun=lambda x: delta - 0.5 * x @ H @ x, jac=lambda x: -H @ x)
    solve = lambda v, held, start: minimize(
        lambda x: v @ x, start, jac=lambda x: v, constraints=held, method="SLSQP"
    )
    starts = np.random.default_rng(0).normal(size=(6, 4)) * 0.05
    least = min((solve(b, [trust], x) for x in starts), key=lambda out: out.fun).x
    if c + b @ least > 0:
        return least
    held = [trust, dict(type="ineq", fun=lambda x: -(c + b @ x), jac=lambda x: -b)]
    found = [out for x in (*starts, least) if (out := solve(-g, held, x)).success]
    return min(found, key=lambda out: out.fun).x


@pytest.mark.parametrize(
    ("cost", "kind"),
    [
        ((0.0, 0.0), "the budget is out of reach"),
        ((4.95, 0.0), "the budget holds it"),
        ((0.0, 4.9), "the other one does"),
        ((5.1, 0.0), "it is over, and can come back"),
        ((9.0, 6.0), "it is far over"),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_a_step_is_the_best_that_both_constraints_allow(cost, kind, seed):
    params, theta, b = problem(cost, seed)
    new, stats = update(params, b, cast(HP))
    gain_0, _, slope, F = judged(theta, theta, b)
    worst = int(np.argmax(cost))
    c, g, b_c = (cost[worst] - 5.0) / LENGTH, slope[0], slope[1 + worst]
    step = best(g, b_c, F + 0.01 * np.eye(4), c, HP.delta)
    for k in range(HP.backtracks):
        tried = theta + 0.8**k * step
        gain, kl, _, _ = judged(tried, theta, b)
        grown = gain[1 + worst] - gain_0[1 + worst]
        kept = kl <= HP.delta and grown <= max(-c, 0.0) + 1e-6
        if kept and (gain[0] > gain_0[0] or c > 0):
            break
    moved = actor_of(new) - theta
    np.testing.assert_allclose(moved, 0.8**k * step, atol=0.03 * np.abs(step).max())
    np.testing.assert_allclose(stats["accepted"], 0.8**k, rtol=1e-4)
    assert stats["kl"] <= HP.delta * 1.001
    gain, _, _, _ = judged(actor_of(new), theta, b)
    assert gain[1 + worst] - gain_0[1 + worst] <= max(-c, 0.0) + 1e-4
    if kind == "the budget is out of reach":  # TRPO's own step, as long as the bound
        free = np.linalg.solve(F + 0.01 * np.eye(4), g)
        assert np.dot(step, free) / np.linalg.norm(step) / np.linalg.norm(free) > 0.999
    if c > 0:
        assert gain[1 + worst] < gain_0[1 + worst]  # the cost falls


def test_without_advantages_nothing_moves():
    params, theta, b = problem((4.0, 4.0))
    new, stats = update(params, b.replace(advantage=0 * b.advantage), cast(HP))
    assert stats["accepted"] == 0
    np.testing.assert_array_equal(actor_of(new), theta)
