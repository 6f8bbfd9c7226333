"""The off-policy family's loop: what it remembers, draws and does, on a world that tells time."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import stats

import envs
from envs.base import Transition
from envs.spaces import Box, Discrete
from jaxrl.cli import main
from jaxrl.core import Learner, train
from jaxrl.errors import InputError
from jaxrl.families.exact import action_value, best
from jaxrl.families.off_policy import (
    OffPolicy,
    explorer,
    n_steps,
    off_policy,
    replay,
    warmup,
)
from jaxrl.hyper import Linear, cast, check, replace
from jaxrl.papers.off_policy import ddpg, dqn, sac, td3
from jaxrl.papers.off_policy.ddpg import DDPG
from jaxrl.papers.off_policy.dqn import DQN
from jaxrl.papers.off_policy.sac import SAC
from jaxrl.papers.off_policy.td3 import TD3
from jaxrl.policies import Network
from jaxrl.run import checkpoint
from jaxrl.run.battery import QUICK
from jaxrl.run.run import advance
from jaxrl.types import Batch, Transitions

KEY = jax.random.key(0)
LINEAR = Network(hidden=())
quick = functools.partial(jax.jit, compiler_options=QUICK)

# ---- n steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4])
def test_n_steps_go_to_the_first_cut(n):
    """Σ_{j<k} γʲ rⱼ, the true next observation, and γᵏ, or 0 at a terminal."""
    rng, M = np.random.default_rng(0), 300
    terminated, truncated = rng.random((2, M, n)) < 0.2
    done, reward = terminated | truncated, rng.normal(size=(M, n))
    obs = dict(x=rng.normal(size=(M, n, 2)), y=rng.integers(0, 9, (M, n)))
    ahead = dict(x=rng.normal(size=(M, n, 2)), y=rng.integers(0, 9, (M, n)))
    action = rng.normal(size=(M, n, 3))
    flags = dict(terminated=terminated, done=done)
    b = Batch(obs, action, (), done[:, 0], next_value=ahead, reward=reward, **flags)
    f, cuts = jax.jit(n_steps), set()
    for gamma in (0.9, 1.0, 0.0):
        got = jax.tree.map(np.asarray, f(b, gamma))
        for m in range(M):
            total, k = 0.0, 0
            while True:
                total += gamma**k * reward[m, k]
                k += 1
                if k == n or done[m, k - 1]:
                    break
            cuts.add((bool(terminated[m, k - 1]), bool(done[m, k - 1]), k))
            assert got.reward[m] == pytest.approx(total, rel=1e-5, abs=1e-5)
            want = 0.0 if terminated[m, k - 1] else gamma**k
            assert got.discount[m] == pytest.approx(want, rel=1e-5)
            for name in obs:
                np.testing.assert_allclose(got.obs[name][m], obs[name][m, 0], rtol=1e-6)
                np.testing.assert_allclose(got.next_obs[name][m], ahead[name][m, k - 1], rtol=1e-6)
            np.testing.assert_allclose(got.action[m], action[m, 0], rtol=1e-6)
    assert {(True, True, 1), (False, True, 1), (False, False, n), (True, True, n)} <= cuts


# ---- the loop, on a world that tells the time ------------------------------------------------

ACTIONS = 5


@struct.dataclass
class Clock:
    """Rows whose observation says which they are, the time, and the age of their episode.

    Episode e of row i ends at the age 2 + (i + 2 e) % 4, by turns for good and cut. A step pays
    100 i + time + action / 4.
    """

    action_space: Any = struct.field(pytree_node=False, default=Discrete(ACTIONS))
    name = "clock"
    observation_space = Box(0.0, 1e6, (3,))
    max_steps = 0

    def reset(self, key, n):
        row, none = jnp.arange(n), jnp.zeros(n, jnp.int32)
        return (row, none, none, none), self.observe(row, none, none)

    def observe(self, row, time, age):
        return jnp.stack([row, time, age], -1).astype(jnp.float32)

    def step(self, key, state, action):
        row, time, age, episode = state
        paid = 100.0 * row + time + action.reshape(len(row), -1)[:, 0] / 4
        time, age = time + 1, age + 1
        over, last = age == length(row, episode), self.observe(row, time, age)
        terminated = over & ends(row, episode)
        age, episode = jnp.where(over, 0, age), episode + over
        obs, cut = self.observe(row, time, age), over & ~terminated
        return (row, time, age, episode), Transition(obs, paid, terminated, cut, last)


def length(row, episode):
    return 2 + (row + 2 * episode) % 4


def ends(row, episode):
    return (row + episode) % 2 == 0


@functools.cache
def history(row: int) -> list[tuple[int, bool, bool]]:
    """(age, terminated, truncated) of each step of a row, written out."""
    out, episode = [], 0
    while len(out) < 200:
        for age in range(length(row, episode)):
            last = age + 1 == length(row, episode)
            out.append((age, last and ends(row, episode), last and not ends(row, episode)))
        episode += 1
    return out


def spy() -> Learner:
    """Its action is the number of steps that its memory counted; it keeps the batch it was given
    and counts updates; `in_order` stays true while i goes up by one."""

    def init(key, obs, hp):
        zeros = jnp.zeros((hp.batch_size, 3))
        flat = zeros[:, 0]
        none = Transitions(zeros, flat.astype(jnp.int32), flat, flat, zeros)
        return dict(batch=none, count=jnp.int32(0), i=jnp.int32(-1), in_order=jnp.bool_(True))

    def update(params, opt, b, key, t, i, hp):
        count, fine = params["count"], (params["count"] == 0) | (i == params["i"] + 1)
        fine &= (i // hp.updates == t) & params["in_order"]
        said = dict(value=jnp.float32(1.0))
        return dict(batch=b, count=count + 1, i=jnp.int32(i), in_order=fine), opt, said

    def act(params, obs, memory, key, t, hp):
        return memory, memory + 1

    return Learner(init, lambda params, hp: (), update, act, lambda n: jnp.zeros(n, jnp.int32))


GAMMA, ROWS, N, T = 0.5, 10, 6, 4  # rows that are kept of each of N, and steps an iteration
SIZES = dict(num_envs=N, num_steps=T, buffer_size=N * ROWS, batch_size=256, updates=2, n_step=3)
HP = cast(check(replace(OffPolicy(gamma=GAMMA, learning_starts=230), **SIZES)))
LEARNS, ACTS = 9, 10  # (9 + 1) 24 >= 230, and 10 * 24 >= 230: the first iteration that does


@functools.cache
def states() -> list[tuple[Any, dict]]:
    """The state and the metrics after each of 24 iterations."""
    algo, world, out = off_policy(spy()), Clock(), []
    s = jax.jit(lambda k: algo.init(k, HP, world))(KEY)
    step = quick(lambda s, t: algo.step(s, t, HP, world))
    for t in range(24):
        s, metrics = step(s, jnp.int32(t))
        out.append(jax.device_get((s.replace(key=(), stage=()), metrics)))
    return out


def remembered(t: int) -> Batch:
    """All rows that the buffer holds after iteration t, [N, rows]; the newest are the last."""
    rows = states()[t][0].buffer.experience
    full = (t + 1) * T >= ROWS
    order = np.argsort(rows.obs[0, :, 1]) if full else np.arange((t + 1) * T)
    return jax.tree.map(lambda x: x[:, order], rows)


@pytest.mark.parametrize("t", [0, 1, 2, 9, 10, 23])
def test_the_buffer_holds_the_newest_steps_as_they_were(t):
    """reward, action, flags and the true next observation of one step lie side by side."""
    b, now = remembered(t), (t + 1) * T
    first = max(0, now - ROWS)
    for row in range(N):
        np.testing.assert_array_equal(b.obs[row, :, 1], np.arange(first, now))
        for j, time in enumerate(range(first, now)):
            age, terminated, truncated = history(row)[time]
            np.testing.assert_array_equal(b.obs[row, j], [row, time, age])
            assert b.reward[row, j] == 100 * row + time + b.action[row, j] / 4
            assert bool(b.terminated[row, j]) == terminated
            assert bool(b.done[row, j]) == (terminated or truncated)
            ahead = [0, 0, 0] if terminated else [row, time + 1, age + 1]
            np.testing.assert_array_equal(b.next_value[row, j], ahead)
    assert b.terminated.any() and (b.done & ~b.terminated).any()


@pytest.mark.parametrize("t", [0, 1, 2, 3, 22, 23])
def test_windows_are_steps_in_a_row_and_all_are_as_likely(t):
    """None crosses the place where the ring is written; none reaches into what is not yet there."""
    draw = quick(lambda buffer, k: replay(HP.replace(batch_size=6000)).sample(buffer, k).experience)
    obs = np.asarray(draw(states()[t][0].buffer, jax.random.fold_in(KEY, t)).obs)
    assert obs.shape == (6000, 3, 3)
    for j in (1, 2):
        np.testing.assert_array_equal(obs[:, j, 0], obs[:, 0, 0])
        np.testing.assert_array_equal(obs[:, j, 1], obs[:, 0, 1] + j)
    now = (t + 1) * T
    starts = range(max(0, now - ROWS), now - 2)
    counts = np.zeros((N, len(starts)))
    np.add.at(counts, (obs[:, 0, 0].astype(int), obs[:, 0, 1].astype(int) - starts[0]), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_what_an_update_is_given():
    """Whole transitions of three steps, or of fewer before a cut; by the last iteration all that is
    remembered was done by the learner, so that the history tells every reward."""
    b, kinds = states()[-1][0].params["batch"], set()
    for m in range(len(b.reward)):
        row, time, age = map(int, b.obs[m])
        assert int(b.action[m]) == age == history(row)[time][0]
        total, k, terminated = 0.0, 0, False
        for k in range(1, 4):
            age, terminated, truncated = history(row)[time + k - 1]
            total += GAMMA ** (k - 1) * (100 * row + time + k - 1 + age / 4)
            if terminated or truncated:
                break
        kinds.add((k, terminated))
        assert b.reward[m] == pytest.approx(total, rel=1e-6)
        assert b.discount[m] == (0.0 if terminated else GAMMA**k)
        ahead = [0, 0, 0] if terminated else [row, time + k, age + 1]
        np.testing.assert_array_equal(b.next_obs[m], ahead)
    assert kinds == {(1, True), (1, False), (2, True), (2, False), (3, True), (3, False)}


def test_actions_are_uniform_until_learning_starts_and_no_parameter_moves_before():
    newest = [remembered(t) for t in range(24)]
    action = np.stack([b.action[:, -T:] for b in newest])  # [iterations, N, T]
    age = np.stack([b.obs[:, -T:, 2] for b in newest])
    counts = np.bincount(action[:ACTS].ravel(), minlength=ACTIONS)
    assert counts.sum() == ACTS * N * T and stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(action[ACTS:], age[ACTS:])
    for t, (s, metrics) in enumerate(states()):
        done = max(0, t + 1 - LEARNS) * 2
        assert s.params["count"] == done and s.params["in_order"] and s.t == t + 1
        assert metrics["value"] == (done > 0)


def test_a_learner_s_memory_begins_anew_with_an_episode():
    """Its action is what its memory counted; after a cut or an end it counts from 0."""
    b = remembered(23)
    np.testing.assert_array_equal(b.action, b.obs[..., 2])
    assert b.done.any(1).all() and set(b.action.ravel()) == set(range(5))


def test_the_least_that_is_allowed_can_be_drawn():
    """One window in the buffer of each, from the first update on."""
    small = dict(num_envs=2, num_steps=1, n_step=3, buffer_size=6, learning_starts=6)
    hp = cast(check(replace(OffPolicy(batch_size=8, updates=1), **small)))
    algo, world = off_policy(spy()), Clock()
    s = jax.jit(lambda k: algo.init(k, hp, world))(KEY)
    step = quick(lambda s, t: algo.step(s, t, hp, world)[0])
    for t in range(5):
        s = step(s, jnp.int32(t))
        assert s.params["count"] == max(0, t - 1)
        if t >= 2:
            np.testing.assert_array_equal(s.params["batch"].obs[:, 1], t - 2)
            assert (s.params["batch"].reward % 100 >= t - 2).all()


def test_ddpg_explores_anew_with_each_episode():
    """θ = 0: its noise is a random walk, whose k-th step in an episode has the variance k σ²."""
    learner, sigma, n = ddpg.learner(Clock(Box(-1.0, 1.0, (1,))), LINEAR), 0.1, 48
    small = dict(num_envs=n, num_steps=24, buffer_size=24 * n, learning_starts=n, updates=1)
    hp = cast(check(replace(DDPG(batch_size=2, sigma=sigma, theta=0.0, lr=0.0), **small)))
    idle = lambda key, obs, hp: jax.tree.map(jnp.zeros_like, learner.init(key, obs, hp))
    algo, world = off_policy(learner._replace(init=idle)), Clock(Box(-1.0, 1.0, (1,)))
    s = jax.jit(lambda k: algo.init(k, hp, world))(KEY)
    step = quick(lambda s, t: algo.step(s, t, hp, world)[0])
    s = step(s, jnp.int32(0))
    at_random = np.asarray(s.buffer.experience.action).ravel()
    assert stats.kstest(at_random, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    rows = step(s, jnp.int32(1)).buffer.experience
    age, x = np.asarray(rows.obs[..., 2]), np.asarray(rows.action[..., 0])
    begun = np.cumsum(age == 0, 1) > 0  # in this iteration
    for k in range(5):
        of = x[(age == k) & begun]
        assert stats.kstest(of / (sigma * math.sqrt(k + 1)), "norm").pvalue > 1e-4, k


def test_a_run_past_two_to_the_31_steps_still_learns_and_acts():
    """Steps are counted by iterations: their product with an iteration's steps would overflow."""
    hp = cast(replace(OffPolicy(), num_envs=4096, num_steps=1, learning_starts=9000))
    assert [warmup(hp.replace(learning_starts=n)) for n in (4096, 4097, 9000)] == [1, 2, 3]
    act = lambda params, obs, memory, key, t, hp: (jnp.full(len(obs), 9), memory)
    policy = lambda t: explorer(spy()._replace(act=act), Clock(), t, hp)
    play = lambda t: policy(t).act({}, jnp.zeros((8, 3)), jnp.zeros(8, bool), spy().memory(8), KEY)[
        0
    ]
    early, late = jax.jit(lambda: (play(jnp.int32(2)), play(jnp.int32(2**31 - 2))))()
    assert (early < ACTIONS).all() and (late == 9).all()


# ---- what is refused -------------------------------------------------------------------------

FIELDS = [
    (dict(num_envs=4, buffer_size=30), "buffer_size: 30 is not num_envs = 4 times 1 steps or more"),
    (
        dict(num_envs=4, num_steps=2, n_step=3, buffer_size=8),
        "buffer_size: 8 is not num_envs = 4 times 3 steps or more",
    ),
    (
        dict(num_envs=4, num_steps=8, buffer_size=16),
        "buffer_size: 16 is not num_envs = 4 times 8 steps or more",
    ),
    (
        dict(num_envs=4, n_step=3, buffer_size=400, learning_starts=11),
        "learning_starts: 11 is below num_envs * n_step = 12",
    ),
    (dict(tau=1.5), "tau: 1.5 is outside [0, 1]"),
    (dict(n_step=0), "n_step: 0 is outside [1, inf)"),
    (dict(batch_size=0), "batch_size: 0 is outside [1, inf)"),
    (dict(updates=0), "updates: 0 is outside [1, inf)"),
    (dict(learning_starts=0), "learning_starts: 0 is outside [1, inf)"),
]


@pytest.mark.parametrize(("fields", "said"), FIELDS)
@pytest.mark.parametrize("cls", [DQN, TD3])
def test_fields_that_do_not_fit_are_named(cls, fields, said):
    with pytest.raises(InputError) as e:
        check(cls(**fields))
    assert str(e.value) == said


def test_the_least_that_fits_is_taken():
    check(DQN(num_envs=4, num_steps=2, n_step=3, buffer_size=12, learning_starts=12))
    check(TD3(num_envs=4, num_steps=8, buffer_size=32, learning_starts=4))


def test_a_method_refuses_actions_that_it_has_not():
    said = r"^env: probe/one-continuous has Box\(1,\) actions; allowed is Discrete"
    with pytest.raises(InputError, match=said):
        dqn.make(envs.make("probe/one-continuous"))
    for paper in (ddpg, td3, sac):
        with pytest.raises(
            InputError, match=r"^env: probe/one has Discrete\(2\) actions; allowed is a Box"
        ):
            paper.make(envs.make("probe/one"))


def test_a_method_of_actions_in_minus_one_to_one_refuses_others():
    wide = Clock(Box(-2.0, 2.0, (3,)))
    with pytest.raises(InputError, match=r"^env: clock has .* actions; allowed are limits of -1 "):
        td3.make(wide)


@pytest.mark.parametrize("paper", [dqn, ddpg, td3, sac])
def test_networks_that_it_has_not_are_refused(paper):
    world = envs.make("probe/one" if paper is dqn else "probe/one-continuous")
    for field, value in (("memory", 4), ("shared", True), ("head", "gaussian")):
        with pytest.raises(InputError, match=f"^{field}: .*{value}") as e:
            paper.make(world, replace(Network(), **{field: value}))
        assert "\n" not in str(e.value)


def test_a_world_that_pays_several_rewards_is_refused():
    world = envs.make("cover/coverage")
    algo = dqn.make(world)
    with pytest.raises(InputError, match="^env: cover/coverage pays 2 rewards a step; .* one"):
        jax.eval_shape(lambda k: algo.init(k, cast(DQN()), world), KEY)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("dqn --env Pendulum-v1", "Pendulum-v1 has Box(1,) actions; allowed is Discrete"),
        ("sac --env CartPole-v1", "CartPole-v1 has Discrete(2) actions; allowed is a Box"),
        ("dqn --env cover/coverage", "cover/coverage pays 2 rewards a step"),
        ("td3 --env Pendulum-v1 --buffer-size 2", "buffer_size: 2 is not num_envs = 4 times 1"),
        ("ddpg --env Pendulum-v1 --memory 8", "memory: 8; off-policy networks have none"),
        (
            "dqn --env CartPole-v1 --torso cnn",
            "torso: cnn needs images [H, W, C] of at least 3 x 3",
        ),
        (
            "td3 --env Pendulum-v1 --torso cnn",
            "torso: cnn needs images [H, W, C] of at least 3 x 3",
        ),
    ],
)
def test_the_command_says_it_in_a_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", *argv.split(), "--run", "out"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert said in err and list(tmp_path.iterdir()) == []


# ---- a run, and what comes of it -------------------------------------------------------------


def test_linear_dqn_finds_the_values_of_a_table():
    """Against value iteration. Episodes are cut after five steps, which ends nothing."""
    world, gamma = envs.make("tabular/chain", length=4, slip=0.0, max_steps=5), 0.8
    hp = DQN(num_envs=8, num_steps=4, updates=4, batch_size=128, buffer_size=8 * 600, tau=1.0)
    hp = replace(hp, lr=Linear(0.03, 0.0), gamma=gamma, eps=1.0, target_every=10)
    algo = dqn.make(world, LINEAR)
    s, _ = quick(lambda k: train(algo, k, cast(check(hp)), world, 500))(KEY)
    layer = s.params["critic"]["params"]["Dense_0"]
    Q = np.asarray(layer["kernel"] + layer["bias"])  # a state is a row of zeros with a one
    mdp = world.tables
    want = np.asarray(action_value(mdp, jax.jit(best)(mdp, gamma), gamma))
    np.testing.assert_allclose(Q, want, atol=1e-3)


MATCH = envs.make("probe/match-continuous")  # one step from s in [-1, 1], and -(a - s)² is paid
SMALL = dict(num_envs=8, num_steps=4, updates=8, batch_size=64, buffer_size=8 * 500)
SOON = dict(lr=Linear(0.01, 0.0), tau=0.05, learning_starts=256, horizon=400.0)


METHODS = dict(td3=(td3, TD3(smooth=0.05, sigma=0.3, delay=4)), sac=(sac, SAC(entropy=-2.0)))


@functools.cache
def matching(slug: str):
    """A method on it: itself, what begins, and what goes 200 iterations on from t."""
    paper, hp = METHODS[slug]
    algo, hp = paper.make(MATCH, Network(hidden=(16,))), cast(check(replace(hp, **SMALL, **SOON)))
    go = lambda s, t: advance(algo, 200, s, t, jnp.int32(200), hp, MATCH)[0]
    return algo, jax.jit(lambda k: algo.init(k, hp, MATCH)), quick(go)


@pytest.mark.parametrize("slug", ["td3", pytest.param("sac", marks=pytest.mark.slow)])
def test_the_best_action_is_found_where_it_depends_on_the_state(slug):
    """Of 16 other seeds each came within 0.1."""
    algo, begin, go = matching(slug)
    s = go(go(begin(KEY), jnp.int32(0)), jnp.int32(200))
    obs = jnp.linspace(-0.8, 0.8, 9)[:, None]
    action, _ = algo.act(s, obs, algo.memory(9), None, METHODS[slug][1])
    np.testing.assert_allclose(action, obs, atol=0.2)


def test_a_checkpoint_holds_the_buffer_and_what_is_resumed_goes_on_bit_for_bit(tmp_path):
    """As if nothing had happened; and without what was remembered it would not."""
    _, begin, go = matching("td3")
    half = go(begin(KEY), jnp.int32(0))
    about = dict(iteration=200, seconds=0.0, score=None, tables={}, versions={})
    checkpoint.write(tmp_path / "200", checkpoint.plain(half), {}, about)
    stored = checkpoint.read(tmp_path / "200", half).state
    kept = {k: x for k, x in checkpoint.plain(stored).items() if k.startswith(".buffer")}
    shapes = [x.shape for x in kept.values()]  # N, rows and what a row is
    assert shapes.count((8, 500)) == 3 and shapes.count((8, 500, 1)) == 3
    after = lambda s: checkpoint.digest(checkpoint.plain(go(s, jnp.int32(200))))
    whole = after(half)
    assert after(stored) == whole
    empty = jax.tree.map(jnp.zeros_like, stored.buffer.experience)
    forgot = stored.replace(buffer=stored.buffer.replace(experience=empty))
    params = lambda s: checkpoint.digest(checkpoint.plain(go(s, jnp.int32(200)).params))
    assert params(forgot) != params(stored)
