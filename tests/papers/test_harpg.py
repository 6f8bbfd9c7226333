"""N-HARPG and N-PG-IGT, arXiv 2302.01734: the estimators by enumeration, the recursions by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import gradients
from jaxrl.core import Part
from jaxrl.families.on_policy import State
from jaxrl.papers.on_policy import harpg
from jaxrl.papers.on_policy.harpg import HARPG
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("harpg")

WORLD = envs.make("tabular/chain", length=2)
POLICY = policy_for(WORLD, Network(hidden=()))
REWARD = np.array([[0.3, -1.0], [2.0, 0.7]])  # [state, action]; action a leads to state a
T = 3
KEY = jax.random.key(0)
HP = HARPG(ent_coef=0.0, num_envs=1, num_steps=T)
PARAMS = POLICY.init(jax.random.key(3), jnp.eye(2))
PARAMS["net"]["params"]["Dense_1"]["kernel"] = jnp.array([[0.5, -0.3], [0.2, 0.9]])
V = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), PARAMS)


def log_pi(params):
    """[state, action]."""
    layer = params["net"]["params"]["Dense_1"]
    return jax.nn.log_softmax(layer["kernel"] + layer["bias"])


def trajectories():
    """(states, actions, rewards to go, return) of all eight from state 0."""
    for actions in itertools.product((0, 1), repeat=T):
        states = (0, *actions[:-1])
        r = np.array([REWARD[s, a] for s, a in zip(states, actions)])
        yield np.array(states), np.array(actions), np.cumsum(r[::-1])[::-1], r.sum()


def J(params):
    table = log_pi(params)
    return sum(jnp.exp(table[s, a].sum()) * R for s, a, _, R in trajectories())


def batch(states, actions, to_go):
    obs = jnp.eye(2)[states][:, None]
    start = jnp.arange(T)[:, None] == 0
    raw = jnp.asarray(actions)[:, None]
    old = dict(raw=raw, out=jnp.zeros((T, 1, 2)), log_prob=jnp.zeros((T, 1)))
    return Batch(obs, raw, old, start, old=old, advantage=jnp.asarray(to_go)[:, None])


def mean_over_trajectories(estimate):
    """Σ p(τ) T estimate(τ)."""
    one = jax.jit(estimate)
    total = jax.tree.map(jnp.zeros_like, PARAMS)
    table = log_pi(PARAMS)
    for states, actions, to_go, _ in trajectories():
        p = T * jnp.exp(table[states, actions].sum())
        got = one(batch(states, actions, to_go))
        total = jax.tree.map(lambda x, y, p=p: x + p * y, total, got)
    return total


def close(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_the_gradients_mean_is_that_of_j():
    got = mean_over_trajectories(lambda b: gradients.gradient(POLICY, PARAMS, b, KEY, HP))
    close(got, jax.grad(J)(PARAMS))


def test_the_hessian_vector_products_mean_is_that_of_j():
    product = gradients.hessian_vector_product
    got = mean_over_trajectories(lambda b: product(POLICY, PARAMS, b, V, KEY, HP))
    want = jax.jvp(jax.grad(J), (PARAMS,), (V,))[1]
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.05
    close(got, want)


def test_sums_over_episodes_stop_at_their_ends():
    start = jnp.array([[True, False], [False, False], [True, True], [False, False]])
    x = jnp.arange(8.0).reshape(4, 2)
    want = [[2, 4], [2, 4], [10, 12], [10, 12]]  # 0+2, 4+6; 1+3, 5+7
    np.testing.assert_array_equal(gradients.whole(x, start), want)


def updates(variant, count):
    """(d, η, g, step) of some updates on given batches, the critic left out."""
    hp = HP.replace(variant=variant, lr=0.4)
    still = Part(lambda *_: (), lambda _, s, *rest: ((), (s, {})))
    part = harpg.ascent(POLICY, still)
    s = State(PARAMS, (), KEY, None, {})
    slot, out = part.init(None, s, hp, WORLD), []
    tree = list(trajectories())
    for t in range(count):
        b = batch(*tree[3 * t + 1][:3])
        eta, theta = harpg.ahead(s.params, slot, t, hp)
        g = gradients.gradient(POLICY, theta, b, s.key, hp)
        before = s.params
        slot, (s, _) = part.apply(slot, s, b, t, hp, WORLD)
        out.append((slot, eta, theta, before, g, s.params))
    return out


def test_igt_looks_ahead_and_remembers():
    first, second = updates("igt", 2)
    eta = (2 / 3) ** 0.8
    assert first[1] == pytest.approx(1.0) and second[1] == pytest.approx(eta)
    moved = jax.tree.map(jnp.subtract, second[3], first[3])
    close(second[2], jax.tree.map(lambda x, v: x + (1 - eta) / eta * v, second[3], moved))
    d = jax.tree.map(lambda d, g: (1 - eta) * d + eta * g, first[0]["d"], second[4])
    close(second[0]["d"], d)
    norm = np.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(d)))
    length = 0.4 * 2 / 3
    close(second[5], jax.tree.map(lambda x, d: x + length * d / norm, second[3], d))


def test_harpg_brings_its_memory_by_a_hessian_vector_product(monkeypatch):
    other = batch(*list(trajectories())[6][:3])
    seen = []

    def collect(policy, params, s, *rest):
        seen.append(params)
        return s, other, {}

    monkeypatch.setattr(harpg, "collect", collect)
    monkeypatch.setattr(harpg, "gae", lambda s, b, *rest: b)
    first, second = updates("harpg", 2)
    eta, moved = 2 / 3, jax.tree.map(jnp.subtract, second[3], first[3])
    B = gradients.hessian_vector_product(POLICY, seen[1], other, moved, KEY, HP)
    d = jax.tree.map(lambda d, h, g: (1 - eta) * (d + h) + eta * g, first[0]["d"], B, second[4])
    close(second[0]["d"], d)
    kernel = lambda p: np.asarray(p["net"]["params"]["Dense_1"]["kernel"])[0]
    q = (kernel(seen[1]) - kernel(first[3])) / kernel(moved)  # where between the two it is
    assert np.ptp(q) < 1e-3 and 0 <= q.min() <= 1


def test_the_transported_gradient_of_a_quadratic_is_exact():
    """∇f = H x: d = (1-η) H x₀ + η H x̃ is H x₁ for x̃ = x₁ + (1-η)/η (x₁ - x₀)."""
    H, x0, x1, hp = np.diag([1.0, 3.0]), np.array([1.0, 2.0]), np.array([0.5, 1.0]), HP
    hp = hp.replace(variant="igt")
    eta, ahead = harpg.ahead(jnp.asarray(x1), dict(step=jnp.asarray(x1 - x0)), 5, hp)
    np.testing.assert_allclose((1 - eta) * H @ x0 + eta * H @ np.asarray(ahead), H @ x1, rtol=1e-5)


def test_without_memory_the_step_is_the_newest_gradients():
    (slot, eta, _, before, g, after) = updates("pg", 1)[0]
    assert eta == 1.0
    norm = np.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(g)))
    close(after, jax.tree.map(lambda x, g: x + 0.4 * g / norm, before, g))


def test_a_memory_that_is_left_where_it_was_is_momentum():
    first, second = updates("still", 2)
    d = jax.tree.map(lambda d, g: d / 3 + 2 / 3 * g, first[0]["d"], second[4])
    close(second[0]["d"], d)
