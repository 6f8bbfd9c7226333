"""CTNB and IPD, arXiv 2005.10696: the metric, the directions, the barrier, policies in turn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.base import Transition
from jaxrl.errors import InputError
from jaxrl.families import diversity as family
from jaxrl.hyper import replace
from jaxrl.papers.diversity import ctnb
from jaxrl.papers.diversity.ctnb import CTNB
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("ctnb")
quick = functools.partial(jax.jit, compiler_options=QUICK)
RNG = np.random.default_rng(0)


def test_distances_are_wassersteins_and_a_metric():
    """W2 of Gaussians along a line by quantiles, W1 of categories as the least mass to move."""
    q = (np.arange(20_000) + 0.5) / 20_000
    normal = np.sort(np.asarray(jax.scipy.stats.norm.ppf(q)))
    a, b = (dict(loc=jnp.array([m]), scale=jnp.array([s])) for m, s in ((0.3, 0.5), (-1.0, 1.2)))
    apart = [float(x["loc"][0]) + float(x["scale"][0]) * normal for x in (a, b)]
    want = np.sqrt(np.mean((apart[0] - apart[1]) ** 2))
    np.testing.assert_allclose(family.distance(a, b), want, rtol=1e-2)

    x, y, z = RNG.normal(size=(3, 50, 4))
    p, r = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (x, y))
    moved = 1 - np.minimum(p, r).sum(-1)  # what both have stays where it is
    np.testing.assert_allclose(family.distance(x, y), moved, rtol=1e-4, atol=1e-6)
    d = lambda a, b: np.asarray(family.distance(jnp.asarray(a), jnp.asarray(b)))
    assert (d(x, z) <= d(x, y) + d(y, z) + 1e-6).all()
    np.testing.assert_allclose(d(x, y), d(y, x), atol=1e-7)
    assert (d(x, x) == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bisector_helps_both_and_is_the_mean_of_their_lengths(sign):
    f = jnp.array([3.0, 0.0, 0.0])
    g = jnp.array([sign * 1.0, 1.0, 0.0]) / np.sqrt(2)
    p = np.asarray(ctnb.bisector(f, g))
    np.testing.assert_allclose(np.linalg.norm(p), 2.0, rtol=1e-5)
    if sign > 0:  # halves the angle of 45 degrees
        np.testing.assert_allclose(np.arctan2(p[1], p[0]), np.pi / 8, rtol=1e-5)
    else:  # nothing is taken from novelty, and the task still gains
        np.testing.assert_allclose(p @ np.asarray(g), 0.0, atol=1e-6)
        assert p @ np.asarray(f) > 0


def test_only_ctnb_asks_whether_the_constraint_holds():
    f, g = jnp.array([1.0, 0.0]), jnp.array([0.6, 0.8])
    go = lambda method, U: np.asarray(ctnb.direction(f, g, U, CTNB(method=method, threshold=0.5)))
    both = np.array([1.6, 0.8]) / np.linalg.norm([1.6, 0.8])
    for method, inside, outside in [
        ("ctnb", f, both),
        ("tnb", both, both),
        ("wsr", [0.8, 0.4], [0.8, 0.4]),
        ("ipd", f, f),
        ("ppo", f, f),
    ]:
        np.testing.assert_allclose(go(method, 0.6), inside, rtol=1e-5)
        np.testing.assert_allclose(go(method, 0.4), outside, rtol=1e-5)


def test_the_barrier_looks_at_the_mean_distance_to_the_nearest_after_some_steps():
    ends = ctnb.barrier(CTNB(method="ipd", threshold=0.5, grace=2))
    assert ends is not None
    sums = jnp.array([[1.6, 3.0, np.inf], [1.4, 3.0, np.inf], [0.0, 0.0, np.inf]])
    assert ends(sums, jnp.array([3, 3, 2])).tolist() == [False, True, False]
    assert ctnb.barrier(CTNB()) is None


class Count:
    """Two rows that count their steps: an observation is the count, episodes never end."""

    name, max_steps = "count", 0

    def reset(self, key, n):
        return jnp.zeros(n), jnp.zeros(n)

    def step(self, key, state, action):
        none = jnp.zeros(2, bool)
        return state + 1, Transition(state + 1, jnp.ones(2), none, none, state + 1)


def test_broken_episodes_end_begin_anew_and_forget_their_path():
    D = lambda obs: jnp.stack([jnp.full(2, 0.5), jnp.full(2, np.inf)], 1)
    ends = lambda sums, steps: (sums[:, 0] >= 1.5) & jnp.array([True, False])
    world = family.Broken(Count(), D, ends)
    state = jnp.zeros(2), jnp.zeros(2), (jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32))
    seen = []
    for key in jax.random.split(jax.random.key(0), 4):
        drawn = jax.tree.map(lambda x: x[0], world.draw(key, 1, 2))
        state, s = world.step(drawn, state, jnp.zeros(2))
        seen.append((s.terminated.tolist(), s.obs.tolist(), s.final_obs.tolist()))
    assert [x[0] for x in seen] == [[i == 2, False] for i in range(4)]
    assert seen[2][1:] == ([0, 3], [3, 3]) and seen[3][1] == [1, 4]
    assert state[2][1].tolist() == [1, 4] and state[2][0][:, 0].tolist() == [0.5, 2.0]


WORLD = envs.make("rooms/four", max_steps=8)
HP = CTNB(num_envs=4, num_steps=8, minibatches=2, epochs=1, population=2, horizon=4.0)


@pytest.mark.parametrize("method", ["ctnb", "ipd"])
def test_policies_are_trained_in_turn_and_kept(method):
    algo, hp = ctnb.make(WORLD, Network(hidden=(8,))), replace(HP, method=method, threshold=0.9)
    s, states, metrics = algo.init(jax.random.key(0), hp, WORLD), [], []
    step = quick(algo.step)
    for t in range(4):
        s, m = step(s, jnp.int32(t), hp, WORLD)
        states.append(s)
        metrics.append(m)
    ours = s.slots["sampler"]
    assert [int(x.slots["sampler"].now) for x in states] == [0, 0, 1, 1]
    first = jax.tree.leaves(states[1].params)
    kept = [x[0] for x in jax.tree.leaves(ours.players)]
    assert all((x == y).all() for x, y in zip(first, kept))
    assert any((x != y).any() for x, y in zip(first, jax.tree.leaves(states[2].params)))
    assert [float(m["novelty"]) > 0 for m in metrics] == [False, False, True, True]
    assert float(metrics[3]["set_novelty"]) == pytest.approx(float(metrics[3]["novelty"]))
    if method == "ipd":  # none is so novel: every episode is broken off after the grace
        assert metrics[3]["episode_length"] <= hp.grace + 1 < metrics[1]["episode_length"]
    obs, mine = WORLD.reset(jax.random.key(1), 4)[1], algo.memory(4)
    assert algo.act(s, obs, mine, None, hp)[0].shape == (4,)


def test_what_does_not_fit_is_said():
    with pytest.raises(InputError, match="several rewards"):
        ctnb.make(envs.make("cover/coverage"))
    with pytest.raises(InputError, match="memory: 8"):
        ctnb.make(WORLD, Network(memory=8))
