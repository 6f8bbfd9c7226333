"""The subspaces of PPO's losses, arXiv 2401.06604, against dense Hessians in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.families.on_policy import State, sgd
from jaxrl.hyper import cast
from jaxrl.optim import adam
from jaxrl.papers.on_policy.ppo import clip, clipped_value
from jaxrl.papers.studies import pg_subspaces as study
from jaxrl.papers.studies.pg_subspaces import PGSubspaces
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("pg_subspaces")
quick = functools.partial(jax.jit, compiler_options=QUICK)

T, N, K = 9, 4, 3
WORLD = envs.make("CartPole-v1")
LINEAR = policy_for(WORLD, Network(hidden=()))  # 10 parameters of the actor, 5 of the critic
KEY = jax.random.key(0)
HP = cast(
    PGSubspaces(k=K, lanczos=15, every=2, ent_coef=0.3, num_envs=N, num_steps=T, lr=0.1, epochs=1)
)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@functools.cache
def problem(seed=0):
    """Parameters with their actor's and critic's [5, 2], [5], and a rollout that they collected."""
    rng = np.random.default_rng(seed)
    obs, theta, w = rng.normal(size=(T, N, 4)), rng.normal(size=(5, 2)), rng.normal(size=5)
    params = LINEAR.init(KEY, jnp.asarray(obs[0], jnp.float32))
    f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    params["net"]["params"]["Dense_0"] = dict(kernel=f32(w[:4, None]), bias=f32(w[4:]))
    params["net"]["params"]["Dense_1"] = dict(kernel=f32(theta[:4]), bias=f32(theta[4]))
    raw = rng.integers(0, 2, (T, N))
    logits = features(obs) @ theta
    taken = np.take_along_axis(log_softmax(logits), raw.reshape(-1, 1), 1).reshape(T, N)
    record = dict(raw=jnp.asarray(raw), out=f32(logits).reshape(T, N, 2), log_prob=f32(taken))
    b = Batch(f32(obs), jnp.asarray(raw), record, jnp.zeros((T, N), bool), old=record)
    A, target, value = rng.normal(size=(3, T, N))
    value = (features(obs) @ w).reshape(T, N)
    return params, theta, w, b.replace(advantage=f32(A), target=f32(target), value=f32(value))


def features(obs):
    return np.concatenate([np.asarray(obs, float).reshape(-1, 4), np.ones((T * N, 1))], 1)


def actor_loss(theta, old, b):
    """- E[r A] - c₂ H, the clip being idle at θ_old, in float64."""
    phi, a, A = features(b.obs), np.ravel(b.action), np.ravel(b.advantage).astype(float)
    log_pi, log_old = log_softmax(phi @ theta.reshape(5, 2)), log_softmax(phi @ old)
    rows = np.arange(len(a))
    r = np.exp(log_pi[rows, a] - log_old[rows, a])
    entropy = -(np.exp(log_pi) * log_pi).sum(1)
    return -(r * A).mean() - float(HP.ent_coef) * entropy.mean()


def derivatives(f, x, h=1e-3):
    """The gradient and the Hessian by central differences."""
    e = h * np.eye(len(x))
    g = np.array([f(x + d) - f(x - d) for d in e]) / (2 * h)
    H = [[f(x + d + c) - f(x + d - c) - f(x - d + c) + f(x - d - c) for c in e] for d in e]
    return g, np.array(H) / (4 * h * h)


def dense(g, H):
    """The share of g in the span of the K largest eigenvalues' vectors, and these [K, n]."""
    V = np.linalg.eigh(H)[1][:, ::-1][:, :K].T
    return (V @ g) @ (V @ g) / (g @ g), V


def expected(theta, w, b):
    phi, error = features(b.obs), features(b.obs) @ w - np.ravel(b.target)
    critic = phi.T @ error / len(phi), phi.T @ phi / len(phi)  # c₁ cancels
    return dict(
        actor=dense(*derivatives(lambda x: actor_loss(x, theta, b), theta.ravel())),
        critic=dense(*critic),
    )


@quick
def update(slot, params, b, t):
    s = State(params, adam(HP).init(params), KEY, None, {})
    inner = sgd(LINEAR, clip, value_loss=clipped_value)
    part = study.measuring(LINEAR, inner)
    empty = part.init(KEY, s, HP, WORLD)
    slot = jax.tree.map(lambda x, y: jnp.where(t == 0, x, y), empty, slot or empty)
    slot, (after, stats) = part.apply(slot, s, b, t, HP, WORLD)
    plain = inner.apply((), s.replace(key=jax.random.split(KEY)[0]), b, t, HP, WORLD)[1][0]
    return slot, stats, after.params, plain.params


def test_fractions_overlaps_and_chance_are_those_of_the_dense_hessians():
    first, second = problem(0), problem(1)
    slot, stats, *_ = update(None, first[0], first[3], 0)
    slot, later, *_ = update(slot, second[0], second[3], 2)
    want, then = (expected(theta, w, b) for _, theta, w, b in (first, second))
    for name, n in (("actor", 10), ("critic", 5)):
        np.testing.assert_allclose(stats[f"{name}_fraction"], want[name][0], rtol=2e-3)
        np.testing.assert_allclose(later[f"{name}_fraction"], then[name][0], rtol=2e-3)
        np.testing.assert_allclose(stats[f"{name}_chance"], K / n, rtol=1e-6)
        assert stats[f"{name}_overlap"] < 1e-6  # with nothing before
        cross = want[name][1] @ then[name][1].T
        np.testing.assert_allclose(later[f"{name}_overlap"], (cross**2).sum() / K, rtol=5e-3)
    np.testing.assert_allclose(stats["actor_over_chance"], want["actor"][0] / (K / 10), rtol=2e-3)
    np.testing.assert_allclose(
        stats["critic_minus_actor"], want["critic"][0] - want["actor"][0], atol=2e-3
    )


def test_between_measurements_the_last_is_repeated():
    first, second = problem(0), problem(1)
    slot, stats, *_ = update(None, first[0], first[3], 0)
    again, repeated, *_ = update(slot, second[0], second[3], 1)
    jax.tree.map(np.testing.assert_array_equal, slot, again)
    assert repeated["actor_fraction"] == stats["actor_fraction"]


def test_it_only_looks():
    """The parameters after it are those after PPO's update."""
    params, *_, b = problem()
    *_, after, plain = update(None, params, b, 0)
    jax.tree.map(np.testing.assert_array_equal, after, plain)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), params, after)
    assert max(jax.tree.leaves(moved)) > 0.01
