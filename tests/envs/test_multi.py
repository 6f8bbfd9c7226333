"""Several objectives: fronts by search over what the environments do, and published numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import multi, registry
from envs.base import Step
from envs.check import QUICK, check
from jaxrl import pareto
from jaxrl.errors import InputError
from tests.turns import turn

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT = range(4)


@pytest.mark.parametrize("name", [n for n in registry.OWN["multi"] if n != "halfcheetah"])
def test_it_keeps_the_protocol(name):
    assert check(f"multi/{name}", steps=120) == []


def inner(name, **params):
    env = envs.make_env(f"multi/{name}", **params)
    while not hasattr(env, "front"):
        env = env.env
    return env


def on_front(points):
    return np.asarray(points)[np.asarray(pareto.on_front(points, jnp.ones(len(points), bool)))]


def successors(env, cells):
    """Of every state's four moves: the cells after, rewards and whether it ended."""
    step = jax.vmap(jax.vmap(env.step, (None, None, 0)), (None, 0, None))
    s = jax.jit(step)(KEY, cells, jnp.arange(4))
    return jax.tree.map(np.asarray, (s.state, s.reward, s.terminated))


# ---- deep-sea treasure -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "far"), [("", 23.7), ("-concave", 124.0)])
def test_the_seas_front_is_that_of_all_shortest_ways(name, far):
    """A search in breadth over the environment's own moves. At γ = 1 the front is MO-Gymnasium's:
    steps 1, 3, 5, 7, 8, 9, 13, 14, 17, 19."""
    env = inner("deep-sea-treasure" + name)
    grid = np.stack(np.meshgrid(range(11), range(11), indexing="ij"), -1).reshape(-1, 2)
    after, reward, over = successors(env, jnp.asarray(grid, jnp.int32))
    row = {tuple(c): i for i, c in enumerate(grid.tolist())}
    steps, frontier, found = 0, {(0, 0)}, {}
    seen = set(frontier)
    while frontier:
        steps, last, frontier = steps + 1, frontier, set()
        for cell in last:
            for a in range(4):
                i, to = row[cell], tuple(after[row[cell], a].tolist())
                assert reward[i, a, 1] == -1.0
                if over[i, a]:
                    found.setdefault(to, (float(reward[i, a, 0]), steps))
                elif to not in seen:
                    assert reward[i, a, 0] == 0.0
                    seen.add(to)
                    frontier.add(to)
    assert len(found) == 10 and len(seen) == 11 * 11 - len(found) - 49  # cells of rock
    for gamma in (1.0, 0.97):
        want = [(v * gamma ** (n - 1), -sum(gamma**t for t in range(n))) for v, n in found.values()]
        np.testing.assert_allclose(
            sorted(np.asarray(env.front(gamma)).tolist()), sorted(want), 1e-5
        )
    times = sorted(-on_front(env.front(1.0))[:, 1])
    assert times == [1, 3, 5, 7, 8, 9, 13, 14, 17, 19]
    assert env.front(1.0)[:, 0].max() == np.float32(far)


def test_what_weights_can_find_in_either_sea():
    w = jnp.linspace(0, 1, 2001)
    weights = jnp.stack([w, 1 - w], 1)
    best = lambda name, gamma: set((weights @ inner(name).front(gamma).T).argmax(1).tolist())
    assert best("deep-sea-treasure", 0.99) == set(range(10))
    assert best("deep-sea-treasure-concave", 1.0) == {0, 9}


def test_rock_and_the_rim_stop_the_submarine():
    env = inner("deep-sea-treasure")
    for cell, move, to in (
        ((0, 0), UP, (0, 0)),
        ((0, 0), LEFT, (0, 0)),
        ((2, 2), LEFT, (1, 2)),  # a treasure
        ((3, 3), LEFT, (2, 3)),
        ((6, 5), LEFT, (6, 5)),  # rock under the treasure in column 5
        ((10, 10), RIGHT, (10, 10)),
    ):
        s = env.step(KEY, jnp.array(cell), jnp.int32(move))
        assert tuple(np.asarray(s.state).tolist()) == to
        np.testing.assert_array_equal(np.flatnonzero(s.obs), [to[0], 11 + to[1]])
    assert env.step(KEY, jnp.array([9, 9]), jnp.int32(DOWN)).reward[0] == np.float32(23.7)
    with pytest.raises(InputError, match="treasures"):
        envs.make("multi/deep-sea-treasure", treasures=[1.0, 2.0])


# ---- resource gathering ----------------------------------------------------------------------

CELLS = [(x, y) for x in range(5) for y in range(5)]


@functools.cache
def gathering():
    """Of every state's moves: where it leads, the rewards of coming home, and whether an enemy is
    there. States are (x, y, gold, gem)."""
    states = [(x, y, gold, gem) for x, y in CELLS for gold in (0, 1) for gem in (0, 1)]
    table = np.array(states)
    at = (jnp.asarray(table[:, :2], jnp.int32), jnp.asarray(table[:, 2:], bool))
    (cell, bag), reward, over = successors(inner("resource-gathering", death=0.0), at)
    killed = successors(inner("resource-gathering", death=1.0), at)[1][..., 2] < 0
    ahead = np.concatenate([cell, bag], -1).astype(int)
    row = {s: i for i, s in enumerate(states)}
    to = np.array([[row[tuple(s)] for s in moves] for moves in ahead.tolist()])
    return row[2, 4, 0, 0], to, reward, over, killed


def pareto_sets(gamma, death, steps=40):
    """The Pareto-optimal values of the start, by dynamic programming with sets of them. Who stands
    still in a state does so for ever, without memory: such moves are left out."""
    start, to, reward, over, killed = gathering()
    sets = [np.zeros((1, 3))] * len(to)
    for _ in range(steps):
        new = []
        for s in range(len(to)):
            options = [np.zeros((1, 3))]
            for a in np.flatnonzero(to[s] != s):
                lives = 1 - death * killed[s, a]
                gain = lives * reward[s, a] + np.array([0, 0, -death * killed[s, a]])
                later = 0.0 if over[s, a] else sets[to[s, a]]
                options.append(np.atleast_2d(gain + gamma * lives * later))
            points = np.unique(np.concatenate(options).round(9), axis=0)
            beaten = (points[:, None] <= points).all(-1) & (points[:, None] < points).any(-1)
            new.append(points[~np.any(beaten, axis=-1)])
        sets = new
    return sets[start]


@pytest.mark.parametrize(("gamma", "death"), [(1.0, 0.1), (0.99, 0.1), (0.9, 0.1), (0.95, 0.4)])
def test_the_gatherers_front_is_that_of_dynamic_programming(gamma, death):
    want = pareto_sets(gamma, death)
    got = on_front(inner("resource-gathering", death=death).front(gamma))
    order = lambda x: x[np.lexsort(np.round(x, 4).T)]
    np.testing.assert_allclose(order(got), order(want), atol=1e-5)
    if gamma == 1.0:
        np.testing.assert_allclose(got, [[1.0, 1.0, 0.0]])


def test_no_preference_is_served_better_than_by_the_gatherers_front():
    """Value iteration on w·r, for many w."""
    start, to, reward, over, killed = gathering()
    gamma, death = 0.9, 0.1
    lives = 1 - death * killed
    r = lives[..., None] * reward
    r[..., 2] -= death * killed
    front = np.asarray(inner("resource-gathering", death=death).front(gamma))
    for w in np.random.default_rng(0).dirichlet(np.ones(3), 20):
        V = np.zeros(len(to))
        for _ in range(200):
            V = (r @ w + gamma * lives * np.where(over, 0, V[to])).max(1)
        assert (front @ w).max() == pytest.approx(V[start], rel=1e-4)


def test_enemies_kill_as_often_as_said():
    env = inner("resource-gathering", death=0.3)
    state = (jnp.array([2, 2]), jnp.zeros(2, bool))
    s = jax.vmap(lambda k: env.step(k, state, jnp.int32(UP)))(jax.random.split(KEY, 4000))
    assert float(s.terminated.mean()) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(s.reward[:, 2], -s.terminated.astype(jnp.float32))
    assert (s.reward[:, :2] == 0).all()


# ---- regulator and cheetah -------------------------------------------------------------------


def test_the_regulators_front_is_that_of_riccati_and_the_published_one():
    """By iterating the matrix equation, and by playing. The front in Parisi et al.'s mips starts at
    10 and is of a Gaussian of unit covariance; certainty equivalence takes that noise out."""
    env, gamma = inner("lqr"), 0.9
    front = np.asarray(env.front(gamma), float)
    q, r = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.1, 0.9], [0.9, 0.1]])
    for i in (0, 30, 100):
        w = np.array([i / 100, 1 - i / 100])
        P, I = np.zeros((2, 2)), np.eye(2)
        for _ in range(500):
            K = gamma * np.linalg.solve(np.diag(w @ r) + gamma * P, P)
            P = np.diag(w @ q) + gamma * P @ (I - K)
        state, total, noise = jnp.ones(2), np.zeros(2), np.zeros(2)
        for t in range(200):
            s = env.step(KEY, state, -jnp.asarray(K) @ state)
            state, total = s.state, total + gamma**t * np.asarray(s.reward, float)
        np.testing.assert_allclose(front[i], total, rtol=1e-4)
        for k in range(2):
            value = np.zeros((2, 2))
            for _ in range(500):
                value = np.diag(q[k]) + K.T @ np.diag(r[k]) @ K + gamma * (I - K) @ value @ (I - K)
            noise[k] = np.trace(np.diag(r[k]) + gamma * value) / (1 - gamma)
        if i == 100:
            np.testing.assert_allclose(100 * total - noise, [-152.3688, -306.5027], rtol=1e-4)


class Paid:
    """An environment that pays 2.5."""

    def step(self, key, state, action):
        never = jnp.zeros((), bool)
        return Step(state, action, jnp.float32(2.5), never, never)


def test_speed_is_what_is_left_of_the_reward_without_the_energy():
    action = jnp.array([0.5, -1.0, 0.0, 3.0, 0.2, 0.1])  # 3 is cut to 1
    speed, energy = np.asarray(multi.Cheetah(Paid()).step(KEY, 0, action).reward)
    assert energy == pytest.approx(-0.1 * (0.25 + 1 + 0 + 1 + 0.04 + 0.01))
    assert speed == pytest.approx(2.5 - energy)


@pytest.mark.slow
def test_speed_and_energy_are_what_the_cheetah_itself_says_of_them():
    world = envs.make("multi/halfcheetah", max_steps=7)
    assert world.objectives == ("return", "energy") and world.max_steps == 7
    env = world.env.env.env
    upstream, action = env.env.upstream, jnp.array([0.5, -1.0, 0.0, 1.0, 0.2, 0.1])

    def both(key):
        state, _ = env.reset(key)
        own = upstream.step(upstream.reset(key), action).metrics
        return env.step(key, state, action).reward, own

    got, own = jax.jit(both, compiler_options=QUICK)(KEY)
    np.testing.assert_allclose(got, [own["reward_run"], own["reward_ctrl"]], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not turn("multi/halfcheetah", 2), reason="safe/hopper-velocity's day")
def test_the_cheetah_keeps_the_protocol():
    assert check("multi/halfcheetah", steps=10) == []
