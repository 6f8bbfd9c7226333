"""What makes room for large runs: observations in bfloat16, minibatches in pieces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import normalise, types
from jaxrl import rollout as rollouts
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import on_policy as family
from jaxrl.hyper import check
from jaxrl.papers.on_policy import ppo
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, rollout
from jaxrl.run import catalogue
from jaxrl.run import job as jobs
from jaxrl.run.run import set_up
from jaxrl.types import Batch

NETWORKS = dict(feedforward=Network(hidden=(8,)), recurrent=Network(hidden=(8,), memory=5))
HALF = PPO(num_envs=4, num_steps=16, epochs=1, minibatches=1, storage="bfloat16")
both = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def moved(params, scale):
    """Parameters that differ from these in all their entries."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (x + scale * rng.normal(size=x.shape)).astype(np.float32), params)


def rolled(world, policy, hp, seed=0):
    """A stage, parameters, and what a rollout from there gives."""
    key_env, key_params, key = jax.random.split(jax.random.key(seed), 3)
    stage = jax.jit(lambda k: begin(policy, k, hp, world))(key_env)
    params = jax.jit(policy.init)(key_params, stage.obs)
    # actors begin near 0, where all observations are alike
    params = moved(params, 0.5)
    f = jax.jit(lambda p, s, k: rollout(policy, p, s, k, hp, world, hp.num_steps))
    return stage, params, f(params, stage, key)


def rounded(x):
    """To the nearest of eight bits, ties to even, by the bits of a float32."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    near = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return near.astype(np.uint32).view(np.float32)


# ---- storage ---------------------------------------------------------------------------------


def test_what_is_kept_is_rounded_to_eight_bits_and_what_is_no_float_is_not():
    x = np.random.default_rng(0).normal(size=99).astype(np.float32) * 100
    obs = dict(x=jnp.asarray(x), n=jnp.arange(3), mask=jnp.array([True, False]))
    got = jax.jit(lambda obs: rollouts.kept(obs, HALF))(obs)
    assert {k: v.dtype for k, v in got.items()} == dict(x=jnp.bfloat16, n=jnp.int32, mask=bool)
    np.testing.assert_array_equal(got["x"].astype(jnp.float32), rounded(x))
    # where it allows itself excess precision, XLA may drop casts alone
    assert "reduce_precision" in str(jax.make_jaxpr(lambda x: rollouts.kept(x, HALF))(x))
    assert rollouts.kept(obs, PPO()) is obs
    assert rollouts.kept(obs, object()) is obs  # a family that has no choice


@both
def test_log_probabilities_are_of_what_is_stored(network):
    """By a second look at the batch, in float32. Of what was not rounded they are others."""
    world = envs.make("Pendulum-v1", max_steps=10)
    policy = policy_for(world, network)
    stage, params, (_, b, _) = rolled(world, policy, HALF)
    assert b.obs.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((b.value, b.reward, b.record))} == {jnp.float32.dtype}
    judge = jax.jit(lambda b: policy.judge(params, params, b, None)[:3])
    again = lambda obs: judge(b.replace(obs=obs))  # log_ratio, log_prob, value
    near = b.obs.astype(jnp.float32)
    for obs in (b.obs, near):
        np.testing.assert_allclose(again(obs)[0], 0.0, atol=1e-5)
        np.testing.assert_allclose(again(obs)[2], b.value, atol=1e-5)
    np.testing.assert_array_equal(near[0], rounded(stage.obs))
    raw = again(near.at[0].set(stage.obs))[0][0]
    assert np.abs(raw).max() > 1e-4


@both
def test_the_first_ratio_of_every_iteration_is_one(network):
    """Though moments move, and what is normalised by them is what is rounded."""
    world = envs.make("Pendulum-v1", max_steps=10)
    hp = HALF.replace(normalise_obs=True, lr=0.1)
    _, m = jax.jit(lambda k: train(ppo.make(world, network), k, hp, world, 4))(jax.random.key(0))
    np.testing.assert_allclose(m["ratio_excursion"], 0.0, atol=2e-5)


def test_a_lean_rollout_says_what_a_pass_over_the_whole_would():
    """V and moments as they come, here of several agents and observations with several entries."""
    world = envs.make("agents/spread", max_steps=8)
    policy = policy_for(world, NETWORKS["feedforward"])
    hp = PPO(num_envs=4, num_steps=24, normalise_obs=True, accumulate=2)
    stage, params, (after, b, _) = rolled(world, policy, hp)
    for x, y in zip(jax.tree.leaves(b.obs), jax.tree.leaves(stage.obs), strict=True):
        np.testing.assert_array_equal(x[0], y)
    assert b.done.any()
    again = jax.jit(lambda b: policy.judge(params, params, b, None).value)(b)
    np.testing.assert_allclose(again, b.value, atol=1e-5)
    goes_on = ~np.asarray(b.done[:-1])
    np.testing.assert_allclose(
        np.asarray(b.next_value)[:-1][goes_on], np.asarray(b.value)[1:][goes_on], atol=1e-5
    )
    whole = normalise.update(stage.obs_moments, b.obs, 2)  # before data nothing was scaled
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(after.obs_moments)):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


def test_moments_are_of_what_was_not_rounded():
    world = envs.make("Pendulum-v1", max_steps=10)
    policy = policy_for(world, NETWORKS["feedforward"])
    hp = HALF.replace(normalise_obs=True, num_steps=1)
    stage, _, (after, _, _) = rolled(world, policy, hp)
    np.testing.assert_allclose(after.obs_moments.mean, stage.obs.mean(0), atol=1e-6)
    assert np.abs(rounded(stage.obs).mean(0) - stage.obs.mean(0)).max() > 1e-4


def test_minibatches_of_what_is_stored_make_no_copy_of_the_whole():
    """By XLA's own account: on a CPU it would convert all of it before it takes rows."""
    x, index = (
        jnp.arange(2.0**19).reshape(-1, 32).astype(jnp.bfloat16),
        jnp.arange(2**14).reshape(64, -1),
    )

    def temporary(move):
        total = lambda x, i: move(lambda x: x[i], x).astype(jnp.float32).sum()
        f = lambda x, index: jax.lax.map(lambda i: total(x, i), index)
        return jax.jit(f).lower(x, index).compile().memory_analysis().temp_size_in_bytes

    assert temporary(types.moved) < 1.5 * x.nbytes  # of float32 it would be twice
    got = types.moved(lambda x: x[index[0]], x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x[index[0]])


# ---- accumulation ----------------------------------------------------------------------------


@both
@pytest.mark.equation("ppo")
def test_the_gradient_of_pieces_is_that_of_the_minibatch(network):
    """∇ mean = mean of ∇ over equal pieces; what is said of them likewise, of the largest the
    largest. Sequences are cut between sequences, with the memory that each began with."""
    world = envs.make("CartPole-v1", max_steps=8)
    policy, hp = policy_for(world, network), PPO(num_envs=8, num_steps=8)
    _, params, (stage, b, _) = rolled(world, policy, hp)
    axis, keys = int(network.memory > 0), jax.random.split(jax.random.key(1))
    rng = np.random.default_rng(0)
    b = b.replace(
        **{k: jnp.asarray(rng.normal(size=(8, 8)), jnp.float32) for k in ("advantage", "target")}
    )
    if axis:  # memories that differ and are read, or who has which would not show
        memory = jnp.asarray(rng.normal(size=b.memory.shape), jnp.float32)
        b = b.replace(memory=memory, start=b.start.at[0].set(False))
    else:
        b = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), b)
    new, loss = moved(params, 0.1), family.total_loss(policy, ppo.clip, ppo.clipped_value)

    @jax.jit
    def of(p, b):
        args = loss, p, params, b, keys[1]
        return {n: family.gradient(*args, hp.replace(accumulate=n), axis) for n in (1, 2, 4)}

    out = of(new, b)
    want, said = out[1]
    assert said["ratio_excursion"] > 1.2 * said["ratio_deviation"] > 0
    for n in (2, 4):
        got, stats = out[n]
        for x, y in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
            np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6 * np.abs(x).max())
        for k in said:
            np.testing.assert_allclose(stats[k], said[k], rtol=1e-5, atol=1e-7, err_msg=k)


def test_an_update_in_pieces_is_the_update():
    """From one batch on: epochs of minibatches, Adam, and all."""
    world = envs.make("CartPole-v1", max_steps=8)
    policy = policy_for(world, NETWORKS["feedforward"])
    hp = PPO(num_envs=8, num_steps=8, minibatches=2, epochs=2)
    s = jax.jit(lambda k: family.on_policy(policy, ppo.clip).init(k, hp, world))(jax.random.key(0))
    _, _, (_, b, _) = rolled(world, policy, hp)
    b = family.gae(s, b, 0, hp, world)
    update = family.sgd(policy, ppo.clip)
    after = lambda n: jax.jit(lambda s: update.apply((), s, b, 0, hp.replace(accumulate=n), world))(
        s
    )
    want, got = after(1)[1][0].params, after(4)[1][0].params
    for x, y, z in zip(*map(jax.tree.leaves, (want, got, s.params))):
        np.testing.assert_allclose(y, x, atol=2e-6)
        assert np.abs(x - z).max() > 1e-4 or x.size == 1


def test_memory_of_a_large_minibatch_is_that_of_a_piece():
    """By XLA's own account of the compiled gradient."""
    world = envs.make("CartPole-v1")
    policy = policy_for(world, Network(hidden=(64, 64)))
    params = jax.eval_shape(policy.init, jax.random.key(0), jnp.zeros((1, 4)))
    M = 2**14
    f32, i32 = (partial(jax.ShapeDtypeStruct, dtype=x) for x in (jnp.float32, jnp.int32))
    old = dict(raw=i32((M,)), out=f32((M, 2)), log_prob=f32((M,)))
    per = dict.fromkeys(("value", "advantage", "target"), f32((M,)))
    start = jax.ShapeDtypeStruct((M,), bool)
    b = Batch(f32((M, 4)), i32((M,)), old, start, old=old, **per)
    loss = family.total_loss(policy, ppo.clip)

    def temporary(n):
        f = lambda p, b: family.gradient(loss, p, p, b, jax.random.key(0), PPO(accumulate=n), 0)[0]
        return jax.jit(f).lower(params, b).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(1) / 4


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "said", "line"),
    [
        ("ppo", dict(accumulate=3), "accumulate: 3 does not divide a minibatch of 256 rows"),
        ("ppo", dict(accumulate=0), r"accumulate: 0 is outside \[1, inf\)"),
        ("ppo", dict(storage="int8"), "storage: int8 is not one of float32, bfloat16"),
    ],
)
def test_what_does_not_fit_is_one_line(slug, said, line):
    _, cls = catalogue.load(slug)
    with pytest.raises(InputError, match=line):
        check(cls(**said))


@pytest.mark.parametrize(
    ("slug", "accumulate", "line"),
    [
        ("fixpo", 4, "accumulate: 4: fixpo does not look at it; use 1"),
        ("million_envs", 3, "accumulate: 3 does not divide a minibatch of "),
    ],
)
def test_an_update_of_ones_own_does_not_pass_over_it(slug, accumulate, line):
    run = dict(paper=slug, env="CartPole-v1")
    job = jobs.resolve(run=run, env_params={}, network={}, hyper=dict(accumulate=accumulate))
    with pytest.raises(InputError, match=line):
        set_up(job)


def test_sequences_that_cannot_be_cut_are_one_line():
    world = envs.make("CartPole-v1")
    hp = check(PPO(num_envs=4, num_steps=8, minibatches=2, accumulate=4))  # 16 rows, 2 sequences
    algo = ppo.make(world, NETWORKS["recurrent"])
    s = jax.eval_shape(algo.init, jax.random.key(0), hp, world)
    with pytest.raises(InputError, match="accumulate: 4 does not divide a minibatch of 2"):
        jax.eval_shape(algo.step, s, 0, hp, world)
