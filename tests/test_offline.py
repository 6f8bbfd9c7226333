"""The offline family's loop: what it draws, how it sees, and how it goes on online."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import stats

import envs
from envs.base import Transition
from envs.recorded import Rows
from envs.spaces import Box
from jaxrl import normalise
from jaxrl.core import Learner, train
from jaxrl.errors import InputError
from jaxrl.families.off_policy import OffPolicy
from jaxrl.families.offline import (
    Offline,
    OfflineToOnline,
    State,
    drawn,
    moments,
    offline,
    offline_to_online,
    recorded,
    see,
)
from jaxrl.hyper import Linear, arg, cast, check, hyper, replace
from jaxrl.papers.off_policy import dqn
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK, Rewarded, examine

KEY = jax.random.key(0)
quick = functools.partial(jax.jit, compiler_options=QUICK)

# ---- batches ---------------------------------------------------------------------------------

N = 20


def numbered(n=N):
    """Rows that say which they are; every fifth is a terminal."""
    i = np.arange(n)
    obs, ahead = np.stack([i, 3.0 * i + 7], -1), np.stack([i + 0.5, -i], -1)
    over = i % 5 == 4
    values = (obs, i[:, None] / n, 10.0 * i, over, ahead, -i[:, None] / n, over)
    return Rows(*[jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for x in values])


def test_batches_are_drawn_uniformly_with_replacement():
    hp, size = cast(Offline(gamma=0.9)), 8000
    b = quick(lambda key: drawn(numbered(), (), key, size, hp))(KEY)
    i = np.asarray(b.obs[:, 0]).astype(int)
    assert len(i) == size and stats.chisquare(np.bincount(i, minlength=N)).pvalue > 1e-4
    np.testing.assert_allclose(b.obs[:, 1], 3 * i + 7)
    np.testing.assert_allclose(b.next_obs, np.stack([i + 0.5, -i], -1))
    np.testing.assert_allclose(b.action[:, 0], i / N, rtol=1e-6)
    np.testing.assert_allclose(b.next_action[:, 0], -i / N, rtol=1e-6)
    np.testing.assert_allclose(b.reward, 10 * i)
    np.testing.assert_allclose(b.discount, np.where(i % 5 == 4, 0, 0.9), rtol=1e-6)


def test_observations_are_normalised_by_the_data():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(5, 2, 300), rng.normal(0, 1e-4, 300), np.full(300, 7.0)], -1)
    obs = dict(x=jnp.asarray(x, jnp.float32), n=jnp.arange(300))
    m = moments(obs)
    seen = see(m, obs)
    np.testing.assert_array_equal(seen["n"], np.arange(300))
    want = (x - x.mean(0)) / (x.std(0) + 1e-3)
    np.testing.assert_allclose(seen["x"], want, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(seen["x"][:, 0], want[:, 0], rtol=1e-4, atol=1e-5)
    far = dict(x=jnp.array([1e4, 0.0, 7.5]), n=jnp.int32(3))  # what never varied stays small
    want = [(1e4 - x.mean(0)[0]) / (x.std(0)[0] + 1e-3), 500]
    np.testing.assert_allclose(see(m, far)["x"][::2], want, rtol=1e-2)
    assert see((), obs) is obs


# ---- the loop, by a learner that only looks --------------------------------------------------


@struct.dataclass
class Told:
    """A world with data: it tells its time, and the data's rows are below 0."""

    data: Any
    name = "told"
    action_space = Box(-1.0, 1.0, (1,))
    observation_space = Box(-1e6, 1e6, (2,))
    max_steps = 0

    def reset(self, key, n):
        row, none = jnp.arange(n), jnp.zeros(n, jnp.int32)
        return (row, none), self.observe(row, none)

    def observe(self, row, time):
        return jnp.stack([row, time], -1).astype(jnp.float32)

    def step(self, key, state, action):
        row, time = state
        time = time + 1
        cut = (time + row) % 3 == 0
        terminated = cut & (row == 1)
        last = self.observe(row, time)
        obs = jnp.where(cut[:, None], self.observe(row, time) + 0.25, last)
        return (row, time), Transition(obs, 100.0 * row + time, terminated, cut & ~terminated, last)


def below(n=30):
    """Rows whose observations are -1, -2, ..., and so on."""
    i = -1.0 - jnp.arange(n)
    pair = lambda x: jnp.stack([x, x], -1)
    never = jnp.zeros(n, bool)
    return Rows(pair(i), i[:, None] / n, i, never, pair(i) - 0.5, i[:, None], never)


def did(obs):
    """What the onlooker does there."""
    return jnp.cos(obs.sum(-1, keepdims=True))


def onlooker(calls=None):
    """A learner that keeps the batches it is given, and its counters, in its statistics."""

    def update(params, opt, b, key, t, i, hp):
        if calls is not None:
            calls.append(b)
        played = b.obs[:, 0] >= 0
        acted = jnp.abs(b.action - did(b.obs))[:, 0]
        row, time = jnp.floor(b.obs).T  # a fresh start's observation is a quarter more
        after = time + 1
        cut = (after + row) % 3 == 0
        ahead = jnp.where(cut[:, None], b.action, did(jnp.stack([row, after], -1)))
        faults = dict(
            acted=acted,
            ahead=jnp.abs(b.next_action - ahead)[:, 0],
            next=jnp.abs(b.next_obs[:, 1] - after) * (b.discount > 0),
            reward=jnp.abs(b.reward - 100 * row - after),
            discount=jnp.abs(b.discount - hp.gamma * ~(cut & (row == 1))),
        )
        stats = {k: jnp.where(played, x, 0).sum() for k, x in faults.items()}
        half = len(played) // 2
        stats |= dict(played=played.mean(), first=played[:half].mean())
        stats |= dict(least=jnp.minimum(b.obs[half:].min(), b.next_obs[half:].min()))
        new = params | dict(t=t, i=i, n=params["n"] + 1, noise=jax.random.uniform(key))
        return new, opt, stats | dict(at=jnp.float32(i))

    def act(params, obs, memory, key, t, hp):
        return did(obs), memory

    start = dict(t=jnp.int32(0), i=jnp.int32(0), n=jnp.int32(0), noise=jnp.float32(0))
    return Learner(lambda key, obs, hp: dict(start), lambda p, hp: (), update, act)


def test_counters_and_keys_go_on():
    hp = cast(Offline(updates=3, normalise_obs=False))
    state, metrics = quick(lambda k: train(offline(onlooker()), k, hp, Told(below()), 4))(KEY)
    assert state.params["n"] == 12 and state.params["t"] == 3 and state.params["i"] == 11
    np.testing.assert_allclose(metrics["at"], [1, 4, 7, 10])
    assert np.isnan(metrics["episode_return"]).all() and (metrics["episodes"] == 0).all()
    assert state.t == 4 and hp.steps_per_iteration == 3


def test_acting_sees_what_learning_sees():
    data = below()
    state = State((), (), KEY, moments(data.obs), jnp.int32(0))
    hp, obs = cast(Offline()), jnp.array([[3.0, 4.0]])
    x = np.asarray(data.obs)
    want = did(jnp.asarray((obs - x.mean(0)) / (x.std(0) + 1e-3)))
    got, _ = offline(onlooker()).act(state, obs, (), None, hp)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    calls = []
    algo, world = offline(onlooker(calls)), Told(data)
    for hp in (cast(Offline()), cast(Offline(normalise_obs=False))):
        jax.eval_shape(functools.partial(train, algo, n=1), KEY, hp, world)
        s = algo.init(KEY, hp, world)
        assert (s.moments == ()) == (not hp.normalise_obs)
        b = drawn(data, s.moments, KEY, 30, hp)
        back = normalise.normalise(moments(data.obs), data.obs, np.inf)
        near = np.abs(np.asarray(b.obs)[:, None] - np.asarray(back if hp.normalise_obs else x))
        assert near.sum(-1).min(1).max() < 1e-5
    assert len(calls) >= 2


# ---- online ----------------------------------------------------------------------------------

PLAY: dict[str, Any] = dict(
    num_envs=2, num_steps=3, buffer_size=24, updates=2, batch_size=10, gamma=0.8
)
PLAY |= dict(normalise_obs=False)


@functools.cache
def online():
    """Ten iterations, of which the last six play: the state and the metrics."""
    hp = cast(OfflineToOnline(**PLAY, online=0.6, learning_starts=13))
    return quick(lambda k: train(offline_to_online(onlooker()), k, hp, Told(below()), 10))(KEY)


def test_it_plays_in_its_last_part_and_then_mixes_halves():
    state, metrics = online()
    time = np.asarray(state.stage.env[1])
    np.testing.assert_array_equal(time, [18, 18])  # 6 iterations of 3 steps
    episodes = [
        sum((t + r) % 3 == 0 for r in range(2) for t in range(3 * j + 1, 3 * j + 4))
        for j in range(6)
    ]
    np.testing.assert_array_equal(metrics["episodes"], [0] * 4 + episodes)
    assert np.isnan(metrics["episode_return"][:4]).all()
    assert not np.isnan(metrics["episode_return"][4:]).any()
    # 13 steps are played in the third iteration: from then on half of each batch is
    np.testing.assert_allclose(metrics["played"], [0] * 6 + [0.5] * 4)
    np.testing.assert_allclose(metrics["first"], 0.0)  # its second half
    assert state.params["n"] == 20


def test_what_was_played_is_as_it_was():
    """Rewards, discounts, true next observations and next actions, none of an episode's end."""
    _, metrics = online()
    for name in ("acted", "ahead", "next", "reward", "discount"):
        np.testing.assert_allclose(metrics[name], 0.0, atol=1e-4, err_msg=name)


def test_it_acts_as_it_explores_from_the_first_step():
    """And never at random: `acted` of the test above would tell; here with normalised eyes."""
    hp = cast(OfflineToOnline(**PLAY | dict(normalise_obs=True), online=1.0, learning_starts=4))
    world = Told(below())
    algo = offline_to_online(onlooker())
    state, metrics = quick(lambda k: train(algo, k, hp, world, 2))(KEY)
    rows = state.buffer.experience
    x = np.asarray(world.data.obs)
    eyes = (np.asarray(rows.obs) - x.mean(0)) / (x.std(0) + 1e-3)
    np.testing.assert_allclose(rows.action[:, :6], did(jnp.asarray(eyes))[:, :6], rtol=1e-4)
    assert rows.obs[:, :6].max() > 4  # raw ones are remembered, and seen when they are drawn
    assert metrics["least"].min() > (0 - x.mean(0)[0]) / (x.std(0)[0] + 1e-3) - 1e-3 > 1.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_online(share):
    hp = cast(OfflineToOnline(**PLAY, online=share, learning_starts=4))
    run = quick(lambda k: train(offline_to_online(onlooker()), k, hp, Told(below()), 4))
    state, metrics = run(KEY)
    assert (state.stage.env[1] == 12 * share).all()
    np.testing.assert_allclose(metrics["played"], [0.5 * share] * 4)


MINE = '''
"""Mine. Nobody, 2026."""
from jaxrl.families.offline import OfflineToOnline, offline_to_online
from jaxrl.hyper import hyper
from jaxrl.papers.off_policy import td3
from jaxrl.policies import Network

PAPER = {
    "slug": "mine", "title": "Mine", "chapter": "offline", "hyper": "Mine", "claim": "it goes on",
}


@hyper
class Mine(OfflineToOnline):
    sigma: float = 0.1
    smooth: float = 0.2
    clip: float = 0.5
    delay: int = 1


def make(world, network=Network()):
    return offline_to_online(td3.learner(world, network))
'''


def test_going_on_online_passes_the_battery(tmp_path):
    """It resumes bit for bit, vmaps over every float, and none of them is dead."""
    file = tmp_path / "mine.py"
    file.write_text(MINE.lstrip())
    assert examine(str(file)) == []


# ---- values, and what is refused -------------------------------------------------------------


@hyper
class DQNOffline(Offline):
    eps: float = arg(0.0, "exploration", "[0, 1]")
    explore: float = arg(1.0, "its share", "(0, 1]")
    target_every: int = 20
    double: bool = False
    loss: str = "squared"
    tau: float = 1.0


def test_a_learner_learns_the_same_values_from_data():
    """DQN on steps of the random policy finds the optimum of the MDP that they make: means of what
    followed, and Bellman's equation until it stands."""
    world, gamma = envs.make("random/tabular/chain", length=4, max_steps=20, rows=2000), 0.8
    how: dict[str, Any] = dict(updates=50, batch_size=256, normalise_obs=False)
    hp = cast(DQNOffline(lr=Linear(0.05, 0.0), gamma=gamma, **how))
    learner = dqn.learner(world, Network(hidden=()))
    run = quick(lambda k: train(offline(learner), k, hp, world, 30))
    state, metrics = run(KEY)
    s, ahead = (np.asarray(x).argmax(1) for x in (world.data.obs, world.data.next_obs))
    a, r = np.asarray(world.data.action), np.asarray(world.data.reward)
    Q = np.zeros((4, 2))
    for _ in range(100):
        y = r + gamma * Q[ahead].max(1)
        Q = np.array([[y[(s == i) & (a == j)].mean() for j in range(2)] for i in range(4)])
    net = dqn.ActionValues(2, 1, dqn.torso(Network(hidden=())))
    apply: Any = net.apply
    got = apply(state.params["critic"], jnp.eye(4))[..., 0]
    np.testing.assert_allclose(got, Q, atol=0.1)
    assert (Q.argmax(1) == 1).all() and not np.isclose(Q[:, 0], Q[:, 1], atol=0.2).any()
    assert metrics["critic_loss"][-1] < 0.1


def test_what_has_no_data_is_refused():
    algo = offline(onlooker())
    with pytest.raises(InputError, match="CartPole-v1 has no recorded data; --env FILE.npz"):
        algo.init(KEY, cast(Offline()), envs.make("CartPole-v1"))
    world = envs.make("random/cover/coverage", rows=8, size=3)
    with pytest.raises(InputError, match="pays 2 rewards a step"):
        algo.init(KEY, cast(Offline()), world)


def test_data_are_found_through_wrappers():
    world = envs.make("random/CartPole-v1", rows=8)
    for x in (world, Rewarded(world, 1.0, 0.0)):
        np.testing.assert_array_equal(recorded(x).reward, world.data.reward)


def test_settings_between_fields():
    assert check(OfflineToOnline()) and check(Offline())
    bad = [
        (dict(buffer_size=10), "buffer_size: 10 is not num_envs = 4 times 25 steps or more"),
        (dict(buffer_size=101), "buffer_size: 101 is not"),
        (dict(learning_starts=7), "learning_starts: 7 is below 2 * num_envs = 8"),
        (dict(online=1.5), "online: 1.5 is outside [0, 1]"),
        (dict(batch_size=1), "batch_size: 1 is outside [2, inf)"),
    ]
    for said, words in bad:
        with pytest.raises(InputError) as e:
            check(replace(OfflineToOnline(), **said))
        assert words in str(e.value)


def test_classes_of_environments_have_defaults():
    assert Offline.for_env("brax").batch_size == 256 and Offline.for_env("control").lr == 1e-3
    assert Offline.network_for("brax") == OffPolicy.network_for("brax")
