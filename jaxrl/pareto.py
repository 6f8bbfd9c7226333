"""Sets of points that are compared by several objectives, each the more the better.

Points are [N, K], of which `mask` [N] says which ones count: sizes stay, so that everything here is
jitted and vmapped. A point dominates another if it is at least as good in every objective and
better in one; the front is what nothing dominates. Of equal points the first alone is on it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


def dominators(points: jax.Array, mask: jax.Array) -> jax.Array:
    """How many points dominate each, or equal it and come before it, [N] int32; N where masked."""
    n = len(points)
    a, b = points[:, None], points  # does a beat b?
    better = (a > b).any(-1) | (jnp.arange(n)[:, None] < jnp.arange(n))
    beaten = (a >= b).all(-1) & better & mask[:, None]
    return jnp.where(mask, beaten.sum(0), n)


def on_front(points: jax.Array, mask: jax.Array) -> jax.Array:
    """Which points nothing dominates, [N] bool."""
    return dominators(points, mask) == 0


def crowding_distance(points: jax.Array, mask: jax.Array) -> jax.Array:
    """How far apart a point's neighbours are, [N]; inf at an end, 0 where masked.

      d(i) = Σ_k (y_k(i+1) - y_k(i-1)) / (max y_k - min y_k),    y_k sorted, objective by objective

    See "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" by Deb et al. (2002),
    section III-B.
    """
    n = mask.sum()

    def along(y):
        order = jnp.argsort(jnp.where(mask, y, jnp.inf))
        y = y[order]
        i = jnp.arange(len(y))
        span = y[n - 1] - y[0]
        gap = jnp.roll(y, -1) - jnp.roll(y, 1)
        gap = jnp.where(span > 0, gap / jnp.where(span > 0, span, 1.0), 0.0)
        return jnp.zeros_like(y).at[order].set(jnp.where((i == 0) | (i == n - 1), jnp.inf, gap))

    return jnp.where(mask, sum(along(y) for y in points.T), 0.0)


def hypervolume(points: jax.Array, mask: jax.Array, reference: jax.Array) -> jax.Array:
    """The volume of what lies between a reference point [K] and some point; exact.

    By slices along the last objective, each the volume of the points that reach it in the others:
    Nᴷ⁻¹ log N operations. Dominated points add nothing, nor do those not above the reference.
    """
    x = jnp.where(mask[:, None], jnp.maximum(points - reference, 0.0), 0.0)
    x = jnp.where((x > 0).all(-1, keepdims=True), x, 0.0)

    def volume(x):
        if x.shape[1] == 1:
            return x.max()
        x = x[jnp.argsort(-x[:, -1])]
        thick = x[:, -1] - jnp.append(x[1:, -1], 0.0)
        if x.shape[1] == 2:
            return (thick * jax.lax.cummax(x[:, 0])).sum()
        higher = jnp.tril(
            jnp.ones((len(x), len(x)), bool)
        )  # of each slice, the points that reach it
        return (
            thick * jax.vmap(lambda m: volume(jnp.where(m[:, None], x[:, :-1], 0.0)))(higher)
        ).sum()

    return volume(x)


def expected_utility(points: jax.Array, mask: jax.Array, preferences: jax.Array) -> jax.Array:
    """The mean over preferences w [M, K] of the best point's utility, max w·y.

    See "Quality Assessment of MORL Algorithms: A Utility-Based Approach" by Zintgraf et al. (2015).
    -inf where no point counts.
    """
    return jnp.where(mask, preferences @ points.T, -jnp.inf).max(1).mean()


def sparsity(points: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean squared step between neighbours of a front, 0 where it has fewer than two points.

      S = Σ_k Σ_i (y_k(i+1) - y_k(i))² / (n - 1),    y_k sorted, objective by objective

    See "Prediction-Guided Multi-Objective Reinforcement Learning for Continuous Robot Control" by
    Xu et al. (2020). The less the denser; a front of few points that lie near each other is dense.
    """
    n = mask.sum()
    y = jnp.sort(jnp.where(mask[:, None], points, jnp.inf), 0)
    inside = jnp.arange(1, len(y)) < n
    steps = jnp.where(inside[:, None], y[1:] - y[:-1], 0.0)
    return jnp.where(n > 1, jnp.square(steps).sum() / jnp.maximum(n - 1, 1), 0.0)


def lattice(K: int, parts: int) -> np.ndarray:
    """Every preference on the simplex whose weights are multiples of 1 / parts, [M, K]."""
    bars = itertools.combinations(range(parts + K - 1), K - 1)
    cuts = np.array([(-1, *c, parts + K - 1) for c in bars])
    return (np.diff(cuts, axis=1) - 1) / parts


def spread(K: int, n: int) -> np.ndarray:
    """n preferences that are spread over the simplex, [n, K]: the corners, then always what is
    farthest from those that are there already, of the smallest lattice that has n.

    For two objectives they are n evenly spaced ones.
    """
    parts = next(p for p in itertools.count(1) if len(lattice(K, p)) >= n)
    points = lattice(K, parts)
    if len(points) == n:
        return points
    chosen = list(np.argsort(-points.max(1), kind="stable")[:K])
    gap = lambda i: np.linalg.norm(points - points[i], axis=1)
    near = np.min([gap(i) for i in chosen], 0)
    while len(chosen) < n:
        chosen.append(int(near.argmax()))
        near = np.minimum(near, gap(chosen[-1]))
    return points[chosen[:n]]
