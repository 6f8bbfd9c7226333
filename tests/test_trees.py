"""Trees against a slow greedy search, boosting against a loop, prediction against a walk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.spaces import Box, Discrete, MultiDiscrete
from jaxrl import trees

RNG = np.random.default_rng(0)
NUMBERS = np.zeros(3, int)
MIXED = np.array([0, 4, 0, 3])  # the second and the last are categories


def grow(x, g, bins, kinds, depth):
    """The tree by its definition: the question (feature, low, high) of each level, {path: mean}."""
    ask = []
    for f, n in enumerate(kinds):
        if n:
            ask += [(f, c - 0.5, c + 0.5) for c in range(n)]
        else:
            groups = np.array_split(np.sort(x[:, f]), bins + 1)[:-1]
            ask += [(f, group[-1], np.inf) for group in groups if len(group)]

    def children(rows, question):
        f, low, high = question
        yes = (x[rows, f] > low) & (x[rows, f] <= high)
        return rows[~yes], rows[yes]

    def cosine(rows, question):
        along, length = 0.0, 0.0
        for c in children(rows, question):
            if len(c):
                mean = g[c].mean(0)
                along += sum(g[i] @ mean for i in c)
                length += len(c) * mean @ mean
        return along / np.sqrt(length) if length else 0.0

    nodes, chosen = {"": np.arange(len(x))}, []
    for _ in range(depth):
        chosen.append(max(ask, key=lambda q: sum(cosine(rows, q) for rows in nodes.values())))
        nodes = {
            path + bit: rows
            for path, parent in nodes.items()
            for bit, rows in zip("01", children(parent, chosen[-1]))
        }
    none = np.zeros(g.shape[1])
    return chosen, {path: g[rows].mean(0) if len(rows) else none for path, rows in nodes.items()}


def walk(tree, row):
    """One row's answer from a tree as `grow` gives it."""
    chosen, leaves = tree
    return leaves["".join("01"[bool(low < row[f] <= high)] for f, low, high in chosen)]


def by_hand(tree):
    """A fitted tree in the form of `grow`."""
    depth = tree.feature.shape[-1]
    low, high = np.asarray(tree.low, float), np.asarray(tree.high, float)
    chosen = list(zip(np.asarray(tree.feature).tolist(), low, np.where(high > 1e38, np.inf, high)))
    return chosen, {f"{i:0{depth}b}": v for i, v in enumerate(np.asarray(tree.value))}


def same(tree, want, rtol=1e-4):
    got = by_hand(tree)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    for path, value in want[1].items():
        np.testing.assert_allclose(got[1][path], value, rtol=rtol, atol=1e-5)


def data(kinds, rows=61, outputs=2, rng=RNG):
    columns = [rng.integers(n, size=rows) if n else rng.normal(size=rows) for n in kinds]
    x = np.stack(columns, 1).astype(np.float32)
    return x, rng.normal(size=(rows, outputs)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("bins", "kinds", "depth"))
def fit(x, g, bins=5, kinds=tuple(NUMBERS), depth=3):
    return trees.fit(x, g, trees.questions(x, bins, np.array(kinds)), depth)


@pytest.mark.parametrize("kinds", [NUMBERS, MIXED], ids=["numbers", "mixed"])
def test_a_tree_is_the_greedy_search(kinds):
    for _ in range(4):
        x, g = data(kinds)
        same(fit(x, g, kinds=tuple(kinds)), grow(x, g, 5, kinds, 3))


def test_what_is_asked():
    x = np.arange(10.0)[:, None] * np.array([1.0, 0.0, 1.0])
    q = trees.questions(x, 4, np.array([0, 3, 9]))  # nine categories are more than 4 bins: a number
    np.testing.assert_array_equal(q.feature, [0] * 4 + [1] * 3 + [2] * 4)
    np.testing.assert_array_equal(q.low, [1, 3, 5, 7, -0.5, 0.5, 1.5, 1, 3, 5, 7])
    np.testing.assert_array_equal(q.high[4:7], [0.5, 1.5, 2.5])
    assert (np.asarray(q.high)[[0, 8]] > 1e38).all() and np.isfinite(q.high).all()
    few = trees.questions(jnp.array([[3.0], [1.0], [2.0]]), 4, np.array([0]))
    np.testing.assert_array_equal(few.low, [1, 2, 3, 3])


def test_no_gradient_gives_no_tree():
    x, g = data(NUMBERS)
    tree = fit(x, 0.0 * g)
    np.testing.assert_array_equal(tree.value, 0.0)


def test_boosting_is_the_loop_step_by_step():
    """F <- F + 0.3 h with h fitted to y - F, minus the gradient of |y - F|² / 2."""
    x, _ = data(MIXED)
    y = np.stack([np.sin(2 * x[:, 0]) + x[:, 1], (x[:, 3] == 1) * x[:, 2]], 1)

    @jax.jit
    def step(e, x):
        h = fit(x, y - trees.predict(e, x), kinds=tuple(MIXED))
        e = trees.append(e, h.replace(value=0.3 * h.value))
        return e, trees.predict(e, x)

    e, F, losses = trees.empty(20, 3, 2), np.zeros_like(y), [np.square(y).mean()]
    for _ in range(12):
        e, got = step(e, x)
        h = grow(x, y - F, 5, MIXED, 3)
        F = F + 0.3 * np.array([walk(h, row) for row in x])
        np.testing.assert_allclose(got, F, rtol=1e-3, atol=1e-4)
        losses.append(np.square(y - F).mean())
    assert (np.diff(losses) < 0).all() and losses[-1] < 0.2 * losses[0]
    assert e.count == 12


def grown(capacity, count, depth=3):
    """An ensemble of trees on noise."""
    e = trees.empty(capacity, depth, 2)
    append, alone = jax.jit(trees.append), []
    for _ in range(count):
        alone.append(fit(*data(MIXED), kinds=tuple(MIXED), depth=depth))
        e = append(e, alone[-1])
    return e, alone


@pytest.mark.parametrize(("capacity", "count"), [(40, 37), (7, 3), (33, 0)])
def test_prediction_is_a_walk_down_every_tree(capacity, count):
    e, alone = grown(capacity, count)
    x = data(MIXED, 9)[0]
    want = sum((np.array([walk(by_hand(h), row) for row in x]) for h in alone), np.zeros((9, 2)))
    np.testing.assert_allclose(jax.jit(trees.predict)(e, x), want, rtol=1e-4, atol=1e-5)
    if count:
        np.testing.assert_allclose(
            trees.answer(alone[0], x), [walk(by_hand(alone[0]), row) for row in x], rtol=1e-6
        )


def test_a_full_ensemble_stays_as_it_is():
    e, alone = grown(3, 5)
    assert e.count == 3
    first = jax.tree.map(lambda *a: jnp.stack(a), *alone[:3])
    jax.tree.map(np.testing.assert_array_equal, e.trees, first)


def test_a_batch_of_trees_is_each_tree():
    x, g = (np.stack(a) for a in zip(*[data(MIXED) for _ in range(3)]))
    one = lambda x, g: fit(x, g, kinds=tuple(MIXED))
    alone = [one(*pair) for pair in zip(x, g)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, jax.vmap(one)(x, g), jax.tree.map(lambda *a: jnp.stack(a), *alone))


def test_observations_are_tables():
    space = dict(
        b=Box(0, (1, 4), (2,), "int32"),
        a=Box(-1.0, 1.0, (2, 2)),
        action_mask=Box(0, 1, (3,), "int32"),
        privileged=Box(0.0, 1.0, (5,)),
        c=Box(-1, 3, (1,), "int32"),
    )
    np.testing.assert_array_equal(trees.categories(space), [0, 0, 0, 0, 2, 5, 0])
    np.testing.assert_array_equal(trees.categories(MultiDiscrete((3, 2))), [3, 2])
    np.testing.assert_array_equal(trees.categories(Discrete(6)), [6])
    obs = {k: jnp.full((4, *s.shape), i) for i, (k, s) in enumerate(space.items())}
    np.testing.assert_array_equal(trees.table(obs)[0], [1, 1, 1, 1, 0, 0, 4])
    assert trees.table(jnp.zeros(4, jnp.int32)).shape == (4, 1)
