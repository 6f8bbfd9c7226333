"""Levels: steps against slow ones in plain numbers, what the generator draws, and their vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry
from envs.base import AutoReset, TimeLimit
from envs.check import QUICK, check
from envs.levels import CELLS, OBJECTS, SIZE, Level, draw
from envs.moves import MOVES
from jaxrl.errors import InputError

KEY = jax.random.key(0)
fast = functools.partial(jax.jit, compiler_options=QUICK)


@functools.cache
def drawn(n=300):
    return jax.tree.map(np.asarray, fast(jax.vmap(draw))(jax.random.split(KEY, n)))


def test_it_keeps_the_protocol():
    assert check("levels/grid", steps=60) == []


def test_names_and_parameters():
    assert envs.kind("levels/grid") == "levels" and registry.OWN["levels"] == ("grid",)
    assert envs.make("levels/grid", max_steps=7).max_steps == 7
    walls = [envs.make_env("levels/grid", seed=s).env.wall for s in (0, 1)]
    assert (walls[0] != walls[1]).any()
    for said, params in {
        "did you mean seed": dict(sede=1),
        "seed: -1 is outside": dict(seed=-1),
        "seed: 0.5 is outside": dict(seed=0.5),
    }.items():
        with pytest.raises(InputError, match=said):
            envs.make("levels/grid", **params)


def test_what_is_drawn():
    x = drawn()
    cells = np.concatenate([x.start[:, None], x.where], 1)
    assert all(len(set(row)) == 1 + OBJECTS for row in cells.tolist())
    assert not np.take_along_axis(x.wall, cells, 1).any()
    assert x.wall.sum(1).max() == 6 and 3 < x.wall.sum(1).mean() < 6
    assert (x.reward[:, 0] >= 0).all() and (x.reward[:, 1] < 0).mean() == pytest.approx(
        0.5, abs=0.1
    )
    for probabilities, low, high in ((x.terminate, 0.01, 1.0), (x.respawn, 0.001, 0.1)):
        logs = np.log(probabilities / low) / np.log(high / low)
        assert 0 <= logs.min() < 0.02 and 0.98 < logs.max() <= 1
        assert logs.mean() == pytest.approx(0.5, abs=0.05)


def test_steps_against_slow_ones():
    """Probabilities of 0 and 1, so that what comes is known."""
    level = Level(
        wall=jnp.zeros(CELLS, bool).at[jnp.array([1, 7])].set(True),
        start=jnp.int32(0),
        where=jnp.array([6, 12]),
        reward=jnp.array([0.5, -0.25]),
        terminate=jnp.array([0.0, 1.0]),
        respawn=jnp.array([1.0, 0.0]),
    )
    step, rng = fast(level.step), np.random.default_rng(0)
    wall, seen = np.asarray(level.wall), set()
    for _ in range(12):
        state, obs = level.reset(KEY)
        (x, y), there = (0, 0), [True, True]
        for t in range(40):
            assert obs.argmax() == x + SIZE * y + CELLS * (there[0] + 2 * there[1])
            a = int(rng.integers(4))
            to = tuple(np.clip((x, y) + MOVES[a], 0, SIZE - 1).tolist())
            x, y = (x, y) if wall[to[0] + SIZE * to[1]] else to
            cell = x + SIZE * y
            got = [there[i] and cell == (6, 12)[i] for i in range(OBJECTS)]
            reward = 0.5 * got[0] - 0.25 * got[1]
            there = [(there[0] and not got[0]) or not there[0], there[1] and not got[1]]
            s = step(jax.random.key(t), state, jnp.int32(a))
            assert s.reward == pytest.approx(reward) and bool(s.terminated) == got[1]
            state, obs = s.state, s.obs
            seen |= {("took", i) for i in range(OBJECTS) if got[i]}
            if got[1]:
                break
    assert len(seen) == OBJECTS


def test_many_levels_are_one_vmap():
    """Each as it is alone."""

    def play(level):
        world = AutoReset(TimeLimit(level, 20))

        def one(state, key):
            state, tr = world.step(key, state, jax.random.randint(key, (2,), 0, 4))
            return state, tr.reward

        state, _ = world.reset(KEY, 2)
        return jax.lax.scan(one, state, jax.random.split(KEY, 80))[1].sum()

    levels = jax.tree.map(lambda x: x[:8], drawn())
    many = fast(jax.vmap(play))(levels)
    alone = fast(play)
    each = [float(alone(jax.tree.map(lambda x, i=i: x[i], levels))) for i in range(8)]
    np.testing.assert_allclose(many, each, atol=1e-5)
    assert len(np.unique(many)) > 2
