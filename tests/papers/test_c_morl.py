"""C-MORL, arXiv 2410.02236: the barrier's gradient, the choice of policies, the two stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.families.multi_objective import Archive, State
from jaxrl.families.on_policy import State as Single
from jaxrl.optim import adam
from jaxrl.papers.multi_objective import c_morl
from jaxrl.papers.multi_objective.c_morl import CMORL
from jaxrl.rollout import Episodes, Stage

pytestmark = pytest.mark.equation("c_morl")

KEY = jax.random.key(0)
HP = CMORL(initial=0.5, extension=3, beta=0.9, barrier=20.0, horizon=10.0, population=4)


def barrier(G, l, least, t):
    """G_l + Σ_{j≠l} log(G_j - least_j) / t, by a loop."""
    return G[l] + sum(np.log(G[j] - least[j]) / t for j in range(len(G)) if j != l)


@pytest.mark.parametrize("l", [0, 1, 2])
def test_weights_are_the_barriers_gradient(l):
    G, least, h = np.array([2.0, -3.0, 0.5]), np.array([1.5, -3.3, 0.2]), 1e-6
    got = c_morl.interior(jnp.asarray(G), l, jnp.asarray(least), HP)
    for k in range(3):
        up, down = G + h * np.eye(3)[k], G - h * np.eye(3)[k]
        slope = (barrier(up, l, least, 20.0) - barrier(down, l, least, 20.0)) / (2 * h)
        assert float(got[k]) == pytest.approx(slope, rel=1e-4)
    out = c_morl.interior(jnp.asarray(G), l, jnp.asarray(G + 5.0), HP)  # all bounds broken
    want = np.full(3, 1 / (20.0 * 0.001))
    want[l] = 1.0
    np.testing.assert_allclose(out, want, rtol=1e-5)


def test_advantages_so_weighed_give_the_gradient_of_the_barrier_in_the_policy():
    """A softmax over four actions, K = 3 rewards each: ∇F against E[∇log π (A·w)], A = r - G."""
    rng = np.random.default_rng(0)
    r, theta = rng.normal(size=(4, 3)), rng.normal(size=4)
    pi = np.exp(theta) / np.exp(theta).sum()
    G, l = pi @ r, 1
    least = G - np.array([0.1, 0.2, 0.05])
    w = np.asarray(c_morl.interior(jnp.asarray(G), l, jnp.asarray(least), HP))
    gradient = sum(pi[a] * (np.eye(4)[a] - pi) * ((r[a] - G) @ w) for a in range(4))

    def F(theta):
        pi = np.exp(theta) / np.exp(theta).sum()
        return barrier(pi @ r, l, least, 20.0)

    h = 1e-5 * np.eye(4)
    slope = [(F(theta + d) - F(theta - d)) / 2e-5 for d in h]
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)


def test_the_bound_is_beta_g_and_below_g_where_that_is_negative():
    G = jnp.array([10.0, 0.0, -10.0])
    np.testing.assert_allclose(c_morl.bound(G, HP), [9.0, 0.0, -11.0], rtol=1e-6)


def problem():
    """Four policies, and an archive: a front of five, of which one was used, a dominated policy,
    and an empty place."""
    points = [[0, 10], [1, 9], [6, 5], [8, 4], [10, 0], [5, 1], [99, 99]]
    points = jnp.array(points, jnp.float32)
    players = (dict(a=10.0 * jnp.arange(7)), ())
    archive = Archive(players, points, jnp.array([1.0] * 6 + [0.0]), jnp.zeros(7, bool))
    params = dict(a=-jnp.arange(4.0))
    opt = jax.vmap(adam(HP).init)(params)
    opt = jax.tree.map(lambda x: x + 1, opt)  # it has been at work
    stage = Stage((), (), jnp.zeros((4, 1), bool), (), Episodes.begin(4))
    population = Single(params, opt, jax.random.split(KEY, 4), stage, {})
    return State(population, jnp.ones((4, 2)), archive, (), KEY)


def test_policies_are_begun_in_the_sparsest_places_of_the_front_unused_ones_first():
    s = problem()
    # the ends, then the interior by its neighbours' distance: (6, 5): 0.7 + 0.5, (1, 9): 0.6 + 0.5,
    # (8, 4): 0.4 + 0.5; the dominated and the empty only after them
    assert c_morl.sparsest(s.archive, 5).tolist() == [0, 4, 2, 1, 3]
    used = s.archive.replace(used=jnp.zeros(7, bool).at[jnp.array([0, 2])].set(True))
    assert c_morl.sparsest(used, 5).tolist() == [4, 1, 3, 0, 2]


def extend(s, least, t):
    least, (s, w) = c_morl.extend(least, s, None, jnp.int32(t), HP, None)
    return s, least, np.asarray(w)


def same(x, y):
    return all(
        bool((a == b).all()) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )


def test_stage_one_is_at_fixed_preferences_and_stage_two_goes_in_rounds():
    s0, none = problem(), jnp.zeros((4, 2))
    s, least, w = extend(s0, none, 4)  # of 10 iterations the first 5
    assert same(s.population.params, s0.population.params) and same(least, none)
    np.testing.assert_allclose(w, [[0, 1], [1 / 3, 2 / 3], [2 / 3, 1 / 3], [1, 0]], rtol=1e-6)

    s, least, w = extend(s0, none, 5)  # a round begins: from 0 and 4 one for each objective
    assert s.population.params["a"].tolist() == [0, 0, 40, 40]
    assert same(s.population.opt, jax.vmap(adam(HP).init)(s.population.params))
    assert s.archive.used.tolist() == [True, False, False, False, True, False, False]
    G = np.array([[0, 10], [0, 10], [10, 0], [10, 0]], np.float32)
    np.testing.assert_array_equal(s.points, G)
    np.testing.assert_allclose(least, 0.9 * G, rtol=1e-6)
    # slacks of a tenth of 10, and of 0 where there is nothing to lose
    full, broken = 1 / (20 * 1.0), 1 / (20 * 0.001)
    want = [[1, full], [broken, 1], [1, broken], [full, 1]]
    np.testing.assert_allclose(w, want, rtol=1e-4)

    moved = s.replace(points=jnp.array([[2.0, 9.5], [0.0, 11.0], [9.5, 3.0], [11.0, 0.0]]))
    later, still, w = extend(moved, least, 7)  # within the round the bounds stay
    assert same(later.population.params, s.population.params) and same(still, least)
    assert w[0, 1] == pytest.approx(1 / (20 * 0.5), rel=1e-4)
    assert w[3, 0] == pytest.approx(1 / (20 * 2.0), rel=1e-4)

    after, least, _ = extend(moved, least, 8)  # the next one: from 2 and 1
    assert after.population.params["a"].tolist() == [20, 20, 10, 10]
    np.testing.assert_allclose(least[0], [5.4, 4.5], rtol=1e-6)
