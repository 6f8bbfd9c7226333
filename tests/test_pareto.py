"""Pareto sets against definitions written as loops, and volumes by inclusion and exclusion."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl import pareto

N = 6  # points of every set here, so that each function compiles once for each K
dominators = jax.jit(pareto.dominators)
crowding = jax.jit(pareto.crowding_distance)
volume = jax.jit(pareto.hypervolume)
sparsity = jax.jit(pareto.sparsity)


def sets(K):
    """Points on a coarse grid, so that ties are frequent, and which of them count."""
    point = st.tuples(*[st.integers(-2, 4)] * K)
    return st.tuples(st.lists(point, min_size=N, max_size=N), st.tuples(*[st.booleans()] * N))


def arrays(drawn):
    points, mask = drawn
    return jnp.array(points, jnp.float32), jnp.array(mask)


few = settings(max_examples=40, deadline=None, derandomize=True)


@few
@given(sets(3))
def test_dominators_are_counted_as_defined(drawn):
    points, mask = np.array(drawn[0]), drawn[1]
    got = dominators(*arrays(drawn))
    for i in range(N):
        count = 0
        for j in range(N):
            as_good, better = (points[j] >= points[i]).all(), (points[j] > points[i]).any()
            count += bool(mask[j] and as_good and (better or j < i))
        assert got[i] == (count if mask[i] else N)
    kept = points[np.asarray(pareto.on_front(*arrays(drawn)))]
    assert len(np.unique(kept, axis=0)) == len(kept)  # of equal points one


@few
@given(sets(2))
def test_crowding_distance_is_nsga2s(drawn):
    points, mask = np.array(drawn[0], float), np.array(drawn[1])
    mask &= np.asarray(dominators(*arrays(drawn))) == 0
    got = crowding(jnp.asarray(points, jnp.float32), jnp.asarray(mask))
    want, index = np.zeros(N), np.flatnonzero(mask)
    for k in range(2):
        order = index[np.argsort(points[index, k], kind="stable")]
        for place, i in enumerate(order):
            if place in (0, len(order) - 1):
                want[i] = np.inf
            else:
                gap = points[order[place + 1], k] - points[order[place - 1], k]
                want[i] += gap / (points[order[-1], k] - points[order[0], k])
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("K", [1, 2, 3, 4])
def test_hypervolume_is_that_of_a_union_of_boxes(K):
    origin = np.linspace(-1.0, 0.5, K)

    @few
    @given(sets(K))
    def check(drawn):
        boxes = [np.array(p) - origin for p, m in zip(*drawn) if m and (np.array(p) > origin).all()]
        want = sum(
            (-1) ** (n + 1)
            * sum(np.min(some, 0).prod() for some in itertools.combinations(boxes, n))
            for n in range(1, len(boxes) + 1)
        )
        got = volume(*arrays(drawn), jnp.asarray(origin, jnp.float32))
        assert float(got) == pytest.approx(want, rel=1e-4, abs=1e-4)

    check()


def test_hypervolume_of_a_known_front():
    """By hand: 3 x 1 + 2 x 1 + 1 x 2, and nothing for what is below the reference."""
    points = jnp.array([[3.0, 1.0], [2.0, 2.0], [1.0, 4.0], [9.0, -1.0]])
    assert volume(points, jnp.ones(4, bool), jnp.zeros(2)) == 7.0


@few
@given(sets(2))
def test_sparsity_is_that_of_pgmorl(drawn):
    points = np.array([p for p, m in zip(*drawn) if m], float).reshape(-1, 2)
    want = sum((np.diff(np.sort(y)) ** 2).sum() for y in points.T) / max(len(points) - 1, 1)
    assert float(sparsity(*arrays(drawn))) == pytest.approx(want, rel=1e-5)


def test_expected_utility_is_the_mean_of_the_best():
    rng = np.random.default_rng(0)
    points, w = rng.normal(size=(N, 3)), pareto.lattice(3, 4)
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    want = np.mean([max(w_i @ p for p in points[mask]) for w_i in w])
    got = pareto.expected_utility(jnp.asarray(points), jnp.asarray(mask), jnp.asarray(w))
    assert float(got) == pytest.approx(want, rel=1e-5)
    none = pareto.expected_utility(jnp.asarray(points), jnp.zeros(N, bool), jnp.asarray(w))
    assert none == -np.inf


def test_sets_are_vmapped():
    rng = np.random.default_rng(1)
    points, mask = jnp.asarray(rng.normal(size=(4, N, 3))), jnp.asarray(rng.random((4, N)) < 0.7)
    for f in (dominators, crowding, sparsity, lambda p, m: volume(p, m, jnp.linspace(-1, 0.5, 3))):
        each = np.stack([f(p, m) for p, m in zip(points, mask)])
        together = jax.jit(jax.vmap(f))(points, mask)
        np.testing.assert_allclose(together, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("K", "parts"), [(2, 10), (3, 4), (4, 3)])
def test_a_lattice_is_every_multiple(K, parts):
    got = {tuple(np.rint(w * parts).astype(int)) for w in pareto.lattice(K, parts)}
    grid = itertools.product(range(parts + 1), repeat=K)
    assert got == {w for w in grid if sum(w) == parts}
    assert len(pareto.lattice(K, parts)) == math.comb(parts + K - 1, K - 1)


def test_preferences_are_spread():
    np.testing.assert_allclose(
        pareto.spread(2, 6), np.stack([np.linspace(0, 1, 6), np.linspace(1, 0, 6)], 1)
    )
    for K, n in ((2, 2), (3, 6), (3, 8), (3, 17), (4, 16)):
        w = pareto.spread(K, n)
        assert w.shape == (n, K) and len(np.unique(w, axis=0)) == n
        np.testing.assert_allclose(w.sum(1), 1)
        assert (w >= 0).all()
        assert {tuple(row) for row in np.eye(K)} <= {tuple(row) for row in w}
        gaps = np.linalg.norm(w[:, None] - w, axis=-1) + 9 * np.eye(n)
        side = next(p for p in itertools.count(1) if math.comb(p + K - 1, K - 1) >= n)
        assert gaps.min() >= np.sqrt(2) / side - 1e-6  # neighbours of the lattice at the nearest
