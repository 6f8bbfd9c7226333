"""Teams: steps against slow ones in plain numbers, games by brute force, and how rows are made."""

import collections
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import envs
from envs import agents, registry
from envs.agents import Foraging, Spread, Team
from envs.base import AutoReset, Step
from envs.check import QUICK, check
from envs.spaces import Box, Discrete
from jaxrl.errors import InputError

KEY = jax.random.key(0)
fast = functools.partial(jax.jit, compiler_options=QUICK)


@pytest.mark.parametrize("name", registry.OWN["agents"])
def test_it_keeps_the_protocol(name):
    assert check(f"agents/{name}", steps=60) == []


def inner(name, **params):
    return envs.make(f"agents/{name}", **params).env.env.env


def fails(name, **params):
    with pytest.raises(InputError) as e:
        envs.make(f"agents/{name}", **params)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_names_sizes_and_parameters():
    sizes = dict(spread=(3, 14, 18), foraging=(2, 12, 13), climbing=(2, 1, 0), penalty=(2, 1, 0))
    lengths = dict(spread=25, foraging=50, climbing=1, penalty=1)
    for name, (A, own, whole) in sizes.items():
        world = envs.make(f"agents/{name}")
        assert envs.kind(world.name) == "agents" and registry.is_world(world)
        assert world.agents == A and world.objectives == ()
        shapes = {k: v.shape for k, v in world.observation_space.items()}
        assert shapes == dict(obs=(own,), agent=(A,)) | (dict(privileged=(whole,)) if whole else {})
        assert world.max_steps == lengths[name]
    assert envs.make("agents/spread", max_steps=7).max_steps == 7
    assert inner("foraging", coop=True).coop and not inner("foraging").coop
    assert "did you mean damping" in fails("spread", dampng=0.5)
    assert "did you mean coop?" in fails("foraging", cop=True)
    assert fails("foraging", coop=2) == "coop: 2 is not true or false"
    assert fails("foraging", sight="far") == "sight: 'far' is not a number"
    assert "shape (2,) instead of ()" in fails("penalty", k=[0.0, 1.0])
    assert "max_steps: 0 is outside" in fails("spread", max_steps=0)


# ---- matrix games ----------------------------------------------------------------------------

TABLES = {
    "climbing": lambda k: [[11, k, 0], [k, 7, 6], [0, 0, 5]],
    "penalty": lambda k: [[10, 0, k], [0, 2, 0], [k, 0, 10]],
}


@pytest.mark.parametrize(("name", "k"), [("climbing", -30.0), ("penalty", -100.0)])
def test_a_game_pays_by_its_table_and_its_equilibria_are_nobodys_to_improve(name, k):
    env = inner(name)
    table = np.array(TABLES[name](k), float)
    pairs = np.array(list(itertools.product(range(3), repeat=2)))
    s = fast(jax.vmap(lambda a: env.step(KEY, (), a)))(jnp.asarray(pairs))
    np.testing.assert_array_equal(s.reward, np.repeat(table.reshape(9, 1), 2, 1))
    assert s.terminated.all() and not s.truncated.any()
    np.testing.assert_array_equal(env.payoff, table)
    stable = lambda a, b: table[a, b] >= max(*table[:, b], *table[a])
    assert env.equilibria == [(a, b) for a, b in pairs.tolist() if stable(a, b)]
    assert float(env.optimum) == table.max() and env.equilibria[0] == (0, 0)


@pytest.mark.parametrize("name", TABLES)
def test_a_game_is_mapped_over_its_penalty(name):
    ks = jnp.array([-1000.0, 0.0, 3.0])
    many = jax.vmap(lambda k: inner(name).replace(k=k).payoff)(ks)
    np.testing.assert_array_equal(many, [TABLES[name](k) for k in ks.tolist()])
    assert float(inner(name, k=-3.0).payoff.min()) == -3.0


# ---- spread ----------------------------------------------------------------------------------


@fast
def played(env, start, actions):
    """The states before and after, [T, N], of bare steps [T, N, A] from states [N]; and the steps,
    with a fixed key."""

    def one(state, action):
        s = jax.vmap(lambda x, a: env.step(KEY, x, a))(state, action)
        return s.state, (state, s)

    before, steps = jax.lax.scan(one, start, actions)[1]
    return before, steps


def plain(x):
    return jax.tree.map(lambda y: np.asarray(y, float), x)


def spread_step(p, pos, vel, marks, action):
    """A step of it, pair by pair: a force on each of two that come near; what a team is paid."""
    A = len(pos)
    force = [p["force"] * np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)][a]) for a in action]
    for i, j in itertools.combinations(range(A), 2):
        line = pos[i] - pos[j]
        away = np.hypot(*line)
        depth = p["margin"] * np.logaddexp(0.0, (2 * p["size"] - away) / p["margin"])
        force[i] = force[i] + p["contact"] * depth * line / away
        force[j] = force[j] - p["contact"] * depth * line / away
    vel = vel * (1 - p["damping"]) + np.array(force) * 0.1
    pos = pos + vel * 0.1
    apart = lambda i, j: np.hypot(*(pos[i] - pos[j]))
    pairs = sum(apart(i, j) < 2 * p["size"] for i, j in itertools.combinations(range(A), 2))
    far = sum(min(np.hypot(*(x - m)) for x in pos) for m in marks)
    return pos, vel, -far - p["collision"] * 2 * pairs / A, pairs


@pytest.mark.parametrize("team", [3, 2])
def test_spread_is_pushed_bumps_and_is_paid_as_pair_by_pair(team):
    params = dict(force=4.0, damping=0.3, contact=80.0, margin=2e-3, size=0.2, collision=1.5)
    params = agents.SPREAD if team == 3 else params
    env = Spread(**jax.tree.map(jnp.float32, params), name="", agents=team)
    rng = np.random.default_rng(0)
    pos, marks = rng.uniform(-0.35, 0.35, (2, 40, team, 2))
    start = jax.tree.map(jnp.float32, (pos, 0 * pos, marks))
    before, s = played(env, start, jnp.asarray(actions := rng.integers(0, 5, (8, 40, team))))
    (pos, vel, marks), after = plain(before), plain(s.state)
    counts = collections.Counter()
    for t, n in np.ndindex(8, 40):
        at = spread_step(params, pos[t, n], vel[t, n], marks[t, n], actions[t, n])
        np.testing.assert_allclose(after[0][t, n], at[0], atol=2e-4)
        np.testing.assert_allclose(after[1][t, n], at[1], atol=2e-3)
        counts[at[3]] += 1
        if min(abs(np.hypot(*np.subtract(*x)) - 2 * params["size"]) for x in two(at[0])) > 1e-4:
            np.testing.assert_allclose(s.reward[t, n], np.full(team, at[2]), atol=1e-3)
    assert min(counts[0], counts[1]) > 10  # contacts, and none
    np.testing.assert_array_equal(after[2], marks)
    assert not s.terminated.any() and not s.truncated.any()


def two(points):
    return itertools.combinations(points, 2)


def test_what_an_agent_of_spread_sees_and_where_it_begins():
    env = inner("spread")
    pos, vel, marks = np.arange(18.0).reshape(3, 3, 2) ** 1.5
    obs = jax.tree.map(np.asarray, fast(env.observe)(*jax.tree.map(jnp.float32, (pos, vel, marks))))
    for i in range(3):
        others = [pos[j] - pos[i] for j in range(3) if j != i]
        want = [*vel[i], *pos[i], *(marks - pos[i]).ravel(), *np.ravel(others)]
        np.testing.assert_allclose(obs["obs"][i], want, rtol=1e-5)
        np.testing.assert_allclose(obs["privileged"][i], [*pos.flat, *vel.flat, *marks.flat], 1e-5)
    np.testing.assert_array_equal(obs["agent"], np.eye(3))
    pos, vel, marks = plain(fast(jax.vmap(env.reset))(jax.random.split(KEY, 500))[0])
    assert (vel == 0).all()
    for x in (pos, marks):
        assert np.abs(x).max() <= 1 and np.abs(x.mean(0)).max() < 0.1
        np.testing.assert_allclose(x.std(0), 3**-0.5, atol=0.05)


def test_who_is_in_the_same_place_gets_numbers_and_gradients():
    env, pos = inner("spread"), jnp.zeros((3, 2))

    def paid(pos):
        s = env.step(KEY, (pos, pos, pos), jnp.zeros(3, jnp.int32))
        return s.reward[0], s.state

    (reward, state), slope = fast(jax.value_and_grad(paid, has_aux=True))(pos)
    assert float(reward) == pytest.approx(-2.0, abs=1e-5) and all(
        np.isfinite(x).all() for x in (*state, slope)
    )


def test_spread_is_mapped_over_its_physics():
    start, forces = inner("spread").reset(KEY)[0], [1.0, 5.0]
    step = lambda f: (
        inner("spread").replace(force=f).step(KEY, start, jnp.array([1, 2, 4])).state[0]
    )
    moved = np.asarray(fast(jax.vmap(step))(jnp.array(forces)) - start[0])
    want = 0.01 * np.array(forces)[:, None, None] * np.array([(-1, 0), (1, 0), (0, 1)])
    np.testing.assert_allclose(moved, want, atol=1e-5)


# ---- foraging --------------------------------------------------------------------------------

NOTHING, NORTH, SOUTH, WEST, EAST, LOAD = range(6)


def foraging_step(size, cells, levels, foods, left, total, action, seen):
    """A step of it: who is refused the cell it asks for asks for its own. seen: counts."""
    cells, left = [tuple(c) for c in cells], list(left)
    lies = {tuple(f) for f, n in zip(foods, left) if n}
    want = []
    for (x, y), a in zip(cells, action):
        ahead = {NORTH: (x, y - 1), SOUTH: (x, y + 1), WEST: (x - 1, y), EAST: (x + 1, y)}
        to = ahead.get(a, (x, y))
        want.append(to if to not in lies and min(to) >= 0 and max(to) < size else (x, y))
    while clash := {c for c in want if want.count(c) > 1}:
        want = [own if c in clash else c for own, c in zip(cells, want)]
        seen["refused"] += 1
        assert len(set(cells)) == len(cells)
    seen["swapped"] += any(
        want[i] == cells[j] and want[j] == cells[i] and i != j
        for i, j in itertools.permutations(range(len(cells)), 2)
    )
    paid = 0
    for f, (x, y) in enumerate(foods):
        beside = {(x, y - 1), (x, y + 1), (x - 1, y), (x + 1, y)}
        who = [i for i, a in enumerate(action) if a == LOAD and want[i] in beside]
        if left[f] and who:
            enough = sum(levels[i] for i in who) >= left[f]
            seen["alone" if len(who) == 1 else "together", enough] += 1
            if enough:
                paid, left[f] = paid + left[f], 0
    seen["over"] += not any(left)
    return want, left, paid / total, not any(left)


@pytest.mark.parametrize(("team", "size", "coop"), [(2, 5, False), (2, 5, True), (4, 6, False)])
def test_foraging_is_as_one_asks_and_loads_after_another(team, size, coop):
    env = Foraging(jnp.float32(9.0), "", coop, team, 2 if size > 5 else 1, size)
    N, T = 48, 50
    start = fast(jax.vmap(env.reset))(jax.random.split(KEY, N))[0]
    rng = np.random.default_rng(1)
    actions = rng.choice(6, (T, N, team), p=[0.06, 0.16, 0.16, 0.16, 0.16, 0.3])
    # every other team begins around a food, and mostly loads
    around = np.array(
        [rng.permutation([(0, 1), (1, 0), (0, -1), (-1, 0)])[:team] for _ in range(N)]
    )
    cells = np.where(np.arange(N)[:, None, None] % 2, start[0], start[2][:, :1] + around)
    start = jnp.asarray(cells), *start[1:]
    actions[0, ::2] = np.where(rng.random((N // 2, team)) < 0.8, LOAD, actions[0, ::2])
    before, s = played(env, start, jnp.asarray(actions))
    before, s = jax.tree.map(np.asarray, (before, s))
    seen, earned = collections.Counter(), np.zeros(N)
    for t, n in np.ndindex(T, N):
        x = [b[t, n].tolist() for b in before]
        cells, left, paid, over = foraging_step(size, *x, actions[t, n].tolist(), seen)
        np.testing.assert_array_equal(s.state[0][t, n], cells)
        np.testing.assert_array_equal(s.state[3][t, n], left)
        np.testing.assert_allclose(s.reward[t, n], np.full(team, paid), atol=1e-6)
        assert s.terminated[t, n] == over and not s.truncated[t, n]
        assert len(set(map(tuple, cells))) == team
        earned[n] += paid
        for i, k in ((1, 1), (2, 2), (4, 4)):  # levels, the places of the food, what it was
            np.testing.assert_array_equal(s.state[i][t, n], before[k][t, n])
    assert seen["refused"] > 50 and seen["swapped"] > 5 and seen["over"] > 100
    assert seen["together", True] > 10 and seen["alone", False] > 50
    assert (seen["alone", True] == 0) == coop
    np.testing.assert_allclose(earned[s.terminated[-1]], 1.0, atol=1e-5)
    assert earned.max() <= 1 + 1e-5 and (earned < 0.9).any()


@pytest.mark.parametrize("coop", [False, True])
def test_food_lies_inside_and_apart_and_needs_no_more_than_everybody(coop):
    env = inner("foraging", coop=coop)
    keys = jax.random.split(KEY, 2000)
    cells, levels, foods, left, total = plain(fast(jax.vmap(env.reset))(keys)[0])
    assert foods.min() == 1 and foods.max() == 6 and cells.min() == 0 and cells.max() == 7
    assert np.abs(foods[:, 0] - foods[:, 1]).sum(-1).min() == 3
    everybody = np.concatenate([cells, foods], 1)
    assert min(np.abs(everybody[:, i] - everybody[:, j]).sum(-1).min() for i, j in two(range(4)))
    assert collections.Counter(levels.ravel()).keys() == {1, 2}
    share = levels.mean(0) - 1
    assert (np.abs(share - 0.5) < 0.05).all()
    most = levels.sum(1)[:, None]
    np.testing.assert_array_equal(total, left.sum(1))
    if coop:
        np.testing.assert_array_equal(left, np.repeat(most, 2, 1))
    else:
        for m in (2, 3, 4):
            counts = collections.Counter(left[most[:, 0] == m].ravel())
            assert counts.keys() == set(range(1, m + 1))
            assert max(counts.values()) < 1.3 * min(counts.values())
    # the agents are anywhere: a count in each of 64 cells, by chance within five deviations
    count = np.bincount((cells[..., 0] * 8 + cells[..., 1]).astype(int).ravel(), minlength=64)
    assert (np.abs(count - 4000 / 64) < 5 * (4000 / 64) ** 0.5).all()


def test_an_agent_sees_as_far_as_its_sight_and_each_world_has_its_own():
    state = (
        jnp.array([(1, 2), (4, 7)]),
        jnp.array([2, 1]),
        jnp.array([(3, 1), (6, 5), (1, 6)]),
        jnp.array([3, 1, 0]),  # the third is eaten
        jnp.int32(6),
    )
    none = (-1, -1, 0)
    a, b, f, g = (1, 2, 2), (4, 7, 1), (3, 1, 3), (6, 5, 1)
    env: Any = Foraging(jnp.float32(8.0), "", foods=3)
    obs = fast(jax.vmap(lambda sight: env.replace(sight=sight).observe(*state)))(
        jnp.array([8.0, 2.0, 1.9, 5.0])
    )
    want = [
        [(f, g, none, a, b), (f, g, none, b, a)],
        [(f, none, none, a, none), (none, g, none, b, none)],
        [(none, none, none, a, none), (none, none, none, b, none)],
        [(f, g, none, a, b), (none, g, none, b, a)],
    ]
    np.testing.assert_array_equal(obs["obs"], np.reshape(want, (4, 2, 15)))
    whole = [*a, *b, *f, *g, *none, 6]
    np.testing.assert_array_equal(obs["privileged"], np.tile(whole, (4, 2, 1)))


# ---- teams -----------------------------------------------------------------------------------


@struct.dataclass
class Relay:
    """Two agents whose episode is a number drawn at its start. They see it, who they are and the
    time, and are paid what they do. An even one ends at three steps, an odd one is cut."""

    name = "relay"
    max_steps = 3

    @property
    def observation_space(self):
        return dict(obs=Box(0.0, 1e6, (3,)), agent=Box(0.0, 1.0, (2,)))

    @property
    def action_space(self):
        return Discrete(100)

    def seen(self, mark, t):
        rows = [jnp.stack([mark, jnp.int32(i), t]) for i in range(2)]
        return dict(obs=jnp.float32(jnp.stack(rows)), agent=jnp.eye(2))

    def reset(self, key):
        mark, t = jax.random.randint(key, (), 0, 10**6), jnp.int32(0)
        return (mark, t), self.seen(mark, t)

    def step(self, key, state, action):
        mark, t = state[0], state[1] + 1
        done, even = t == 3, mark % 2 == 0
        reward = jnp.float32(action)
        return Step((mark, t), self.seen(mark, t), reward, done & even, done & ~even)


@pytest.mark.parametrize("drawn", [False, True])
def test_a_teams_rows_are_episode_by_episode_and_agent_by_agent(drawn):
    world, n, T = Team(AutoReset(Relay())), 5, 7
    state, first = world.reset(KEY, n)
    keys = world.draw(KEY, T, n) if drawn else jax.random.split(KEY, T)
    actions = jnp.arange(T * 2 * n).reshape(T, 2 * n)
    go = lambda state, x: world.step(x[0], state, x[1])
    tr = jax.tree.map(
        np.asarray, fast(jax.lax.scan, static_argnums=0)(go, state, (keys, actions))[1]
    )
    assert world.agents == 2 and first["obs"].shape == (2 * n, 3)
    np.testing.assert_array_equal(tr.reward, actions)
    who = np.tile([0, 1], n)
    for obs in (
        first,
        *(jax.tree.map(lambda x, t=t: x[t], o) for o in (tr.obs, tr.final_obs) for t in range(T)),
    ):
        np.testing.assert_array_equal(obs["obs"][:, 1], who)
        np.testing.assert_array_equal(obs["agent"], np.eye(2)[who])
        np.testing.assert_array_equal(obs["obs"][::2, 0], obs["obs"][1::2, 0])
        assert len(set(obs["obs"][:, 0].tolist())) == n
    begun = np.asarray(first["obs"][:, 0])
    flags = []
    for t in range(T):
        done = t % 3 == 2
        mark, time = tr.final_obs["obs"][t][:, [0, 2]].T
        np.testing.assert_array_equal(mark, begun)
        assert (time == t % 3 + 1).all()
        np.testing.assert_array_equal(tr.terminated[t], done & (begun % 2 == 0))
        np.testing.assert_array_equal(tr.truncated[t], done & (begun % 2 == 1))
        mark, time = tr.obs["obs"][t][:, [0, 2]].T
        assert (time == (0 if done else t % 3 + 1)).all()
        assert (mark != begun).all() if done else (mark == begun).all()
        begun = mark
        flags.append(tr.terminated[t][::2].any() and tr.truncated[t][::2].any())
    assert flags[2] and flags[5]


def test_the_time_truncates_all_of_a_team_and_all_are_paid_the_same():
    world = envs.make("agents/spread", max_steps=4)
    state, obs = world.reset(KEY, 6)
    assert {k: v.shape for k, v in obs.items()} == dict(
        obs=(18, 14), agent=(18, 3), privileged=(18, 18)
    )
    step = fast(world.step)
    for t in range(9):
        state, tr = step(jax.random.fold_in(KEY, t), state, jnp.arange(18) % 5)
        assert not tr.terminated.any() and (np.asarray(tr.truncated) == (t % 4 == 3)).all()
        for x in (tr.reward, tr.obs["privileged"], tr.final_obs["privileged"]):
            teams = np.asarray(x).reshape(6, 3, -1)
            np.testing.assert_array_equal(teams, np.repeat(teams[:, :1], 3, 1))
            assert len(np.unique(teams[:, 0], axis=0)) == 6


def test_worlds_are_mapped_over_their_physics():
    """Two damped otherwise, from one start and by one play: rows of velocities [2, n * A]."""
    world = envs.make("agents/spread")
    action = jnp.array([1, 2, 3] * 2)

    def velocities(damping):
        env = world.env.env.env.replace(damping=damping)
        own = Team(AutoReset(world.env.env.replace(env=env)))
        state, _ = own.reset(KEY, 2)
        for _ in range(2):
            state, tr = own.step(KEY, state, action)
        return tr.final_obs["obs"][:, :2]

    v = fast(jax.vmap(velocities))(jnp.array([0.0, 0.5, 1.0]))
    push = 0.5 * np.array([(-1, 0), (1, 0), (0, -1)] * 2)
    np.testing.assert_allclose(v, np.stack([2 * push, 1.5 * push, push]), atol=1e-4)


def test_jaxmarl_s_spread_steps_as_jaxmarl():
    """A row an agent, what all are paid, and a time limit that truncates."""
    jaxmarl = pytest.importorskip("jaxmarl")
    world = envs.make("jaxmarl/MPE_simple_spread_v3", max_steps=4)
    assert world.agents == 3 and check("jaxmarl/MPE_simple_spread_v3", steps=30) == []
    theirs = jaxmarl.make("MPE_simple_spread_v3", max_steps=4)
    key = jax.random.key(3)
    obs, state = theirs.reset(jax.random.split(key, 1)[0])
    ours, seen = world.reset(key, 1)
    step = jax.jit(world.step)
    for t in range(4):
        for i, a in enumerate(theirs.agents):
            np.testing.assert_allclose(seen["obs"][i], obs[a], rtol=1e-5)
        action = jnp.array([t % 5, 1, 2])
        chosen = dict(zip(theirs.agents, action))
        obs, state, reward, _, _ = theirs.step_env(key, state, chosen)
        ours, tr = step(jax.random.fold_in(key, t), ours, action)
        seen = tr.final_obs
        np.testing.assert_allclose(tr.reward, [reward[a] for a in theirs.agents], rtol=1e-4)
        assert bool(tr.truncated.all()) == (t == 3) and not tr.terminated.any()
