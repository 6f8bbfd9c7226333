"""Four rooms: walls, doors, and goals of which one is as good as another."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import registry, rooms
from envs.base import AutoReset
from envs.check import check
from jaxrl.errors import InputError

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT = range(4)


def test_it_keeps_the_protocol():
    assert check("rooms/four", steps=120) == []


def test_names_and_parameters():
    assert registry.OWN["rooms"] == ("four",) and envs.kind("rooms/four") == "rooms"
    assert envs.make("rooms/four", max_steps=7).max_steps == 7
    with pytest.raises(InputError, match="did you mean slip"):
        envs.make("rooms/four", slips=0.1)


def test_the_walls_are_as_drawn():
    drawn = [line.split() for line in str(rooms.__doc__).splitlines() if set(line) <= set("GS.# ")]
    drawn = np.array([row for row in drawn if row]).T  # by x and y
    np.testing.assert_array_equal(drawn == "#", rooms.walls())
    assert {tuple(g) for g in np.argwhere(drawn == "G")} == {tuple(g) for g in rooms.GOALS}
    env = envs.make_env("rooms/four").env
    starts = jax.vmap(lambda k: env.reset(k)[0])(jax.random.split(KEY, 200))
    want = {tuple(c) for c in np.argwhere(drawn == "S")}
    assert {tuple(c) for c in np.asarray(starts).tolist()} == want


def test_moves_doors_walls_and_goals():
    env = envs.make_env("rooms/four", reward=2.0).env
    step = jax.jit(env.step)
    for cell, action, to, reward in [
        ((3, 2), RIGHT, (4, 2), 0.0),  # through the door
        ((3, 1), RIGHT, (3, 1), 0.0),  # a wall
        ((0, 1), LEFT, (0, 1), 0.0),  # the edge
        ((0, 1), UP, (0, 0), 0.0),  # onto a goal
        ((0, 0), RIGHT, (0, 0), 2.0),  # which whatever is done takes
        ((8, 8), UP, (8, 8), 2.0),
    ]:
        s = step(KEY, jnp.array(cell), jnp.int32(action))
        np.testing.assert_array_equal(s.state, to)
        assert (float(s.reward), bool(s.terminated)) == (reward, reward > 0)
        assert s.obs.argmax() == 9 * to[0] + to[1] and s.obs.sum() == 1


def test_which_goal_an_observation_is_on():
    env = envs.make_env("rooms/four").env
    cells = jnp.array([[(0, 0), (8, 0), (3, 3)], [(0, 8), (8, 8), (0, 1)]])
    obs = jax.vmap(jax.vmap(env.observe))(cells)
    want = [[[1, 0, 0, 0], [0, 1, 0, 0], [0] * 4], [[0, 0, 1, 0], [0, 0, 0, 1], [0] * 4]]
    np.testing.assert_array_equal(env.goals(obs), np.array(want, bool))


def test_every_goal_is_within_reach_and_at_its_own_distance():
    wall, far = rooms.walls(), {}
    for y in range(rooms.WALL):
        seen, queue = {(3, y): 0}, collections.deque([(3, y)])
        while queue:
            x = queue.popleft()
            for d in rooms.MOVES:
                c = (int(x[0] + d[0]), int(x[1] + d[1]))
                if min(c) >= 0 and max(c) < rooms.SIZE and not wall[c] and c not in seen:
                    seen[c] = seen[x] + 1
                    queue.append(c)
        far[y] = [seen[tuple(g)] for g in rooms.GOALS.tolist()]
    assert far[3] == [6, 8, 8, 12] and max(max(d) for d in far.values()) < 32


def test_slips_go_anywhere_and_time_runs_out():
    env = envs.make_env("rooms/four", slip=1.0).env
    to = jax.jit(jax.vmap(lambda k: env.step(k, jnp.array([1, 1]), jnp.int32(UP)).state))
    assert len(np.unique(np.asarray(to(jax.random.split(KEY, 100))), axis=0)) == 4
    world = AutoReset(envs.make_env("rooms/four", max_steps=3))
    state, _ = world.reset(KEY, 2)
    for t in range(3):
        state, tr = world.step(KEY, state, jnp.full(2, RIGHT))
        assert tr.truncated.all() == (t == 2) and not tr.terminated.any()
