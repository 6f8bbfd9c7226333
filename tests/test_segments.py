"""The family of segments: its phases, what it asks of pairs, and what it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import core
from jaxrl.errors import InputError
from jaxrl.families.segments import Segments, both_ways, segments, turned
from jaxrl.hyper import cast
from jaxrl.papers.preference import cpl
from jaxrl.papers.preference import segment_sft as sft
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK

KEY = jax.random.key(0)
SMALL = Network(hidden=(8,))
HP = cast(Segments(updates=3, minibatch=8, lr=0.01, pretrain=0.5))


@functools.cache
def world(name="segments/maze"):
    return envs.make(name, pairs=32, length=4)


def trained(loss, n, hp=HP, of="segments/maze", horizon=4):
    algo = segments(world(of), SMALL, loss)
    hp = hp.replace(horizon=jnp.float32(horizon))

    def run(world):
        s = algo.init(KEY, hp, world)
        return s, core.resume(algo, s, 0, hp, world, n)

    return jax.jit(run, compiler_options=QUICK)(world(of))


def vector(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_all_segments_are_cloned_at_first_and_the_optimiser_begins_anew():
    other = lambda w, b, hp: w.policy[:, 1]
    (_, (first, seen)), (_, (same, _)) = trained(sft.loss, 2), trained(other, 2)
    np.testing.assert_array_equal(vector(first.params), vector(same.params))
    assert seen["loss"][1] < seen["loss"][0]
    (_, (after, _)), (_, (apart, _)) = trained(sft.loss, 4), trained(other, 4)
    assert np.abs(vector(after.params) - vector(apart.params)).max() > 1e-3
    np.testing.assert_array_equal(vector(after.ref), vector(first.params))
    counts = lambda s: [int(x) for x in jax.tree.leaves(s.opt) if x.dtype == jnp.int32]
    assert counts(first) == counts(after) == [6]  # two iterations of three steps, twice


def test_without_pretraining_the_reference_is_where_it_began():
    start, (s, _) = trained(sft.loss, 2, HP.replace(pretrain=jnp.float32(0.0)))
    np.testing.assert_array_equal(vector(s.ref), vector(start.params))
    assert np.abs(vector(s.params) - vector(start.params)).max() > 1e-3


def test_a_pair_counts_by_how_often_each_was_preferred():
    """One pair, of which a quarter preferred the first; one of its segments ends early."""
    name = "segments/pendulum"
    pairs = jax.tree.map(lambda x: jnp.repeat(x[:1], 32, 0), world(name).pairs)
    mask = pairs.mask.at[:, 1, 2:].set(0.0)
    win = jnp.broadcast_to(jnp.array([0.25, 0.75]), (32, 2))
    alone = world(name).replace(pairs=pairs.replace(mask=mask, win=win))
    hp = HP.replace(updates=1, pretrain=jnp.float32(0.0))
    algo = sft.make(alone, SMALL)
    start = algo.init(KEY, hp, alone)
    _, metrics = jax.jit(algo.step)(start, 0, hp, alone)

    obs, action = np.asarray(pairs.obs[0], float), np.asarray(pairs.action[0], float)
    said = []  # log N(a; μ(s), 1)
    for k, steps in enumerate((4, 2)):
        mu = np.asarray(algo.act(start, jnp.asarray(obs[k], jnp.float32), (), None, hp)[0])
        gap = ((action[k] - mu) ** 2)[:steps].sum()
        said.append(-0.5 * gap - 0.5 * steps * math.log(2 * math.pi))
    expected = -(0.25 * said[0] + 0.75 * said[1])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    chosen = 0.25 * said[0] / 4 + 0.75 * said[1] / 2
    rejected = 0.75 * said[0] / 4 + 0.25 * said[1] / 2
    np.testing.assert_allclose(metrics["chosen"], chosen, rtol=1e-5)
    np.testing.assert_allclose(metrics["rejected"], rejected, rtol=1e-5)
    better = 0.25 if said[0] / 4 > said[1] / 2 else 0.75
    np.testing.assert_allclose(metrics["agree"], better, rtol=1e-6)


def test_turned_pairs_are_the_other_way_round():
    b = world().pairs
    first = lambda w, b, hp: b.score[:, 0]
    np.testing.assert_array_equal(turned(b).score, b.score[:, ::-1])
    np.testing.assert_allclose(both_ways(first, (), b, None), (b.win * b.score).sum(1), rtol=1e-6)


def test_each_seed_learns_from_pairs_of_its_own():
    algo = sft.make(world(), SMALL)
    few = HP.replace(pairs=5)
    at = [np.asarray(algo.init(jax.random.key(i), few, world()).at) for i in range(2)]
    assert all(len(set(x.tolist())) == 5 and x.max() < 32 for x in at)
    assert set(at[0].tolist()) != set(at[1].tolist())
    assert len(algo.init(KEY, HP, world()).at) == 32


def test_observations_are_seen_by_the_moments_of_the_data():
    algo, name = cpl.make(world("segments/pendulum"), SMALL), "segments/pendulum"
    s = algo.init(KEY, cast(cpl.CPL()), world(name))
    x = np.asarray(world(name).pairs.obs, float).reshape(-1, 3)
    np.testing.assert_allclose(s.moments.mean, x.mean(0), atol=1e-4)
    np.testing.assert_allclose(np.sqrt(s.moments.var), x.std(0) + 1e-3, rtol=1e-3)
    assert algo.init(KEY, cast(cpl.CPL(normalise_obs=False)), world(name)).moments == ()


def test_what_it_cannot_learn_from():
    bare = envs.make("CartPole-v1")
    with pytest.raises(InputError, match="env: CartPole-v1 has no pairs of segments"):
        sft.make(bare, SMALL).init(KEY, HP, bare)
    with pytest.raises(InputError, match="pairs: 33 are more than the 32 of segments/maze"):
        sft.make(world(), SMALL).init(KEY, HP.replace(pairs=33), world())
    with pytest.raises(InputError, match="memory: 4; segments"):
        sft.make(world(), Network(memory=4))
    with pytest.raises(InputError, match="head: squashed; segments"):
        sft.make(world("segments/pendulum"), Network(head="squashed"))
