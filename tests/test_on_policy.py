"""The family's loop against slow, separate definitions of what it should do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import Part, resume, train
from jaxrl.errors import InputError
from jaxrl.families import on_policy as family
from jaxrl.families.on_policy import OnPolicy, minibatches, on_policy, squared_error
from jaxrl.papers.on_policy import ppo
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin, evaluate, rollout, scale_reward
from jaxrl.surrogate import policy_gradient
from jaxrl.types import Batch

SMALL = Network(hidden=(8,))


def batch_of(T, N):
    """A batch whose every leaf says which row it is."""
    row = jnp.arange(T * N).reshape(T, N)
    same = dict.fromkeys(("obs", "action", "value", "advantage", "target"), row)
    return Batch(**same, record=dict(raw=row), old=dict(raw=row), start=row == 0, memory=row[0])


def test_minibatches_of_rows_hold_every_row_once():
    hp = OnPolicy(num_envs=6, num_steps=4, minibatches=3)
    index, take = minibatches(jax.random.key(0), batch_of(4, 6), hp, sequences=False)
    rows = np.concatenate([take(i).obs for i in index])
    assert sorted(rows) == list(range(24))
    assert not (rows == np.arange(24)).all()
    one = take(index[0])
    np.testing.assert_array_equal(one.obs, one.record["raw"])
    np.testing.assert_array_equal(one.obs, one.target)


def test_minibatches_of_sequences_keep_time_and_first_memory():
    hp = OnPolicy(num_envs=6, num_steps=4, minibatches=3)
    index, take = minibatches(jax.random.key(0), batch_of(4, 6), hp, sequences=True)
    for i in index:
        one = take(i)
        np.testing.assert_array_equal(one.obs, np.arange(4)[:, None] * 6 + np.array(i))
        np.testing.assert_array_equal(one.memory, i)
    with pytest.raises(InputError, match="minibatches: 4 does not divide num_envs = 6"):
        minibatches(jax.random.key(0), batch_of(4, 6), hp.replace(minibatches=4), sequences=True)


@pytest.fixture(scope="module", params=[0, 5], ids=["feedforward", "recurrent"])
def walked(request):
    """A rollout of CartPole, cut short now and then, and the pieces to walk it again by hand."""
    world = envs.make("CartPole-v1", max_steps=15)
    policy = policy_for(world, Network(hidden=(8,), memory=request.param))
    hp = OnPolicy(num_envs=3, num_steps=40, normalise_obs=True)
    key_env, key_params, key = jax.random.split(jax.random.key(1), 3)
    stage = begin(policy, key_env, hp, world)
    params = policy.init(key_params, stage.obs)
    f = jax.jit(lambda p, s, k: rollout(policy, p, s, k, hp, world, hp.num_steps))
    return world, policy, hp, params, stage, key, f(params, stage, key)


def test_rollout_is_the_loop_written_out(walked):
    """Mava#951: a memory begins anew at either cut, but only a termination has no future;
    jumanji#223: V(s') is of the observation that ended the episode."""
    world, policy, hp, params, stage, key, (after, b, metrics) = walked
    act, step = jax.jit(policy.act), jax.jit(world.step)
    env, obs, start, memory = stage.env, stage.obs, stage.start, stage.memory
    ret, returns, lengths = np.zeros(3), [], []
    alive, cuts = np.zeros(3), np.zeros(2, int)
    k_act, k_env = jax.random.split(key)
    drawn = policy.draw(k_act, hp.num_steps, 3), world.draw(k_env, hp.num_steps, 3)
    for t in range(hp.num_steps):
        noise, chance = jax.tree.map(lambda x, t=t: x[t], drawn)
        # before any data the moments leave observations as they are
        np.testing.assert_allclose(b.obs[t], np.clip(obs, -10, 10), atol=1e-6)
        np.testing.assert_array_equal(b.start[t], start)
        action, _, value, memory = act(params, obs, start, memory, noise)
        np.testing.assert_array_equal(b.action[t], action)
        np.testing.assert_allclose(b.value[t], value, atol=1e-5)
        env, s = step(chance, env, action)
        ahead = act(params, s.final_obs, jnp.zeros(3, bool), memory, noise)[2]
        ahead = np.where(s.terminated, 0.0, ahead)
        np.testing.assert_allclose(b.next_value[t], ahead, atol=1e-5)
        np.testing.assert_array_equal(b.reward[t], s.reward)
        np.testing.assert_array_equal(b.terminated[t], s.terminated)
        cuts += np.array([s.terminated.sum(), s.truncated.sum()])
        done = np.asarray(s.terminated | s.truncated)
        np.testing.assert_array_equal(b.done[t], done)
        ret, alive = ret + np.asarray(s.reward), alive + 1
        returns += list(ret[done])
        lengths += list(alive[done])
        ret, alive = ret * ~done, alive * ~done
        obs, start = s.obs, s.terminated | s.truncated
    assert (cuts > 0).all(), "both kinds of cut must happen here"
    assert int(metrics["episodes"]) == len(returns)
    np.testing.assert_allclose(metrics["episode_return"], np.mean(returns), rtol=1e-6)
    np.testing.assert_allclose(metrics["episode_length"], np.mean(lengths), rtol=1e-6)
    np.testing.assert_allclose(after.obs, obs, atol=1e-6)


def test_a_reward_lies_beside_the_action_that_earned_it():
    """spinningup#50: rewards were stored a slot late, with the action after the one they paid."""
    world = envs.make("probe/match")
    policy, hp = policy_for(world, SMALL), OnPolicy(num_envs=4, num_steps=16)
    stage = begin(policy, jax.random.key(0), hp, world)
    params = jax.jit(policy.init)(jax.random.key(1), stage.obs)
    f = jax.jit(lambda p, s, k: rollout(policy, p, s, k, hp, world, hp.num_steps)[1])
    b = f(params, stage, jax.random.key(2))
    right = (np.asarray(b.action) == 1) == (np.asarray(b.obs)[..., 0] > 0)
    assert 0.2 < right.mean() < 0.8
    np.testing.assert_array_equal(b.reward, np.where(right, 1.0, -1.0))


def test_moments_are_of_raw_observations(walked):
    *_, (after, b, _) = walked
    flat = np.asarray(b.obs).reshape(
        -1, 4
    )  # raw here: nothing was scaled, nothing reached the clip
    np.testing.assert_allclose(after.obs_moments.mean, flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(after.obs_moments.var, flat.var(0), rtol=1e-4, atol=1e-6)


def test_a_rollout_sees_by_the_moments_it_began_with(walked):
    """Not by those it leaves behind (mesozoic-labs#423), which are of raw observations: fed what
    was normalised already (mesozoic-labs#368, #423), they would tend to 0 and 1."""
    world, policy, hp, params, _, key, (after, before, _) = walked
    f = jax.jit(lambda p, s, k: rollout(policy, p, s, k, hp, world, hp.num_steps))
    later, b, _ = f(params, after, key)
    m = after.obs_moments
    first = (np.asarray(after.obs) - m.mean) / np.sqrt(m.var + 1e-8)
    np.testing.assert_allclose(b.obs[0], np.clip(first, -10, 10), rtol=1e-4, atol=1e-5)
    raw = np.asarray(b.obs) * np.sqrt(m.var + 1e-8) + m.mean  # nothing reached the clip
    both = np.concatenate([np.asarray(before.obs), raw])  # the first rollout saw raw observations
    assert np.abs(b.obs).max() < 10
    np.testing.assert_allclose(later.obs_moments.mean, both.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(later.obs_moments.var, both.var((0, 1)), rtol=1e-3)


def test_the_first_ratio_of_every_iteration_is_one():
    """mesozoic-labs#423: moments that move between the rollout and the loss are another policy."""
    world = envs.make("CartPole-v1")
    hp = PPO(num_envs=4, num_steps=16, epochs=1, minibatches=1, normalise_obs=True)
    s, m = jax.jit(lambda k: train(ppo.make(world, SMALL), k, hp, world, 4))(jax.random.key(0))
    assert s.stage.obs_moments.count == 4 * 64
    np.testing.assert_allclose(m["ratio_excursion"], 0.0, atol=1e-5)


def test_rewards_are_divided_by_the_deviation_of_the_running_return():
    reward = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    done = jnp.array([[False, True], [False, False], [True, False]])
    hp = OnPolicy(num_envs=2, gamma=0.5, normalise_reward=True)
    world = envs.make("probe/one")
    stage = begin(policy_for(world, SMALL), jax.random.key(0), hp, world)
    b = Batch(0, 0, 0, 0, reward=reward, done=done)
    stage, scaled = scale_reward(stage, b, hp)
    running = np.array([[1.0, 2.0], [3.5, -1.0], [2.25, 3.5]])  # R = r + 0.5 R, anew after a cut
    np.testing.assert_allclose(scaled.reward, reward / running.std(), rtol=1e-4)
    np.testing.assert_allclose(stage.discounted, [0.0, 3.5])


def test_advantages_are_standardised_unless_told_otherwise():
    """CleanRL#337: the targets are of the advantages just estimated."""
    rng = np.random.default_rng(0)
    terminated, truncated = rng.random((2, 5, 4)) < 0.3
    flags = dict(terminated=terminated, done=terminated | truncated)
    values = {k: jnp.asarray(rng.normal(size=(5, 4)), jnp.float32) for k in FIELDS}
    b = Batch(0, 0, 0, 0, **values, **flags)
    plain = family.gae(None, b, 0, PPO(normalise_advantage=False), None)
    A = np.asarray(plain.advantage)
    after = np.zeros(4)
    for t in reversed(range(5)):  # both cuts, written out
        delta = b.reward[t] + 0.99 * b.next_value[t] * ~terminated[t] - b.value[t]
        after = delta + 0.99 * 0.95 * after * ~flags["done"][t]
        np.testing.assert_allclose(A[t], after, rtol=1e-5)
    np.testing.assert_allclose(plain.target, A + b.value, rtol=1e-6)
    scaled = family.gae(None, b, 0, PPO(), None)
    np.testing.assert_allclose(scaled.advantage, (A - A.mean()) / A.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scaled.target, plain.target)


FIELDS = ("reward", "value", "next_value")


@pytest.mark.parametrize(("limit", "ret", "complete"), [(0, 50.0, True), (20, 20.0, False)])
def test_an_evaluation_says_which_episodes_were_cut(limit, ret, complete):
    """brax#516: half an episode passed for one."""
    world = envs.make("probe/constant", max_steps=50)

    def act(obs, memory, key):
        return jnp.zeros(len(obs), jnp.int32), memory

    got = evaluate(act, (), world, jax.random.key(0), 3, limit)
    np.testing.assert_array_equal(got["return"], [ret] * 3)
    np.testing.assert_array_equal(got["length"], [ret] * 3)
    np.testing.assert_array_equal(got["complete"], [complete] * 3)


def test_an_evaluation_is_of_one_whole_episode_each():
    """brax#516: part of an episode was counted; here the first of each environment, to its end."""
    world, key, right = envs.make("CartPole-v1"), jax.random.key(0), jnp.ones(6, jnp.int32)
    got = evaluate(lambda obs, memory, key: (right, memory), (), world, key, 6)
    step, lengths = jax.jit(world.step), np.zeros(6, int)
    env, _ = world.reset(jax.random.split(key)[0], 6)
    for t in range(1, 25):  # the physics has no chance in it: any key will do
        env, s = step(key, env, right)
        lengths = np.where((lengths == 0) & s.terminated, t, lengths)
    assert lengths.all() and len(set(lengths)) > 1
    np.testing.assert_array_equal(got["length"], lengths)
    np.testing.assert_array_equal(got["return"], lengths)  # CartPole pays 1 a step
    assert got["complete"].all()


def test_parts_are_called_in_order_and_keep_their_slots():
    """The four seams of the family: each sees what those before it gave, and owns its slot."""
    world = envs.make("probe/match")
    policy = policy_for(world, SMALL)
    hp = PPO(num_envs=4, num_steps=4, minibatches=1)

    def counting(inner, note=lambda out: out):
        def apply(n, s, b, t, hp, world):
            return n + 1, note(inner.apply((), s, b, t, hp, world)[1])

        return Part(lambda key, s, hp, world: jnp.int32(0), apply)

    dual = Part(
        lambda *_: jnp.float32(1.0), lambda x, s, b, t, hp, world: (x * 2, x + b.reward.sum() * 0)
    )
    seen = []

    def surrogate(w, b, hp):
        seen.append(b.dual.shape)
        return w.log_ratio * b.dual

    algo = on_policy(
        policy,
        surrogate,
        sampler=counting(family.on_policy_sampler(policy)),
        advantage=counting(family.stateless(family.gae), lambda b: b.replace(target=b.target + 1)),
        dual=dual,
    )
    s, _ = jax.jit(lambda k: train(algo, k, hp, world, 3))(jax.random.key(0))
    assert {k: float(v) for k, v in s.slots.items() if k != "update"} == dict(
        sampler=3, advantage=3, dual=8
    )
    assert set(seen) == {()}  # whole: not cut into minibatches


def test_judging_the_rollout_repeats_what_acting_said(walked):
    _, policy, _, params, _, key, (_, b, _) = walked
    w = policy.judge(params, params, b, key)
    np.testing.assert_allclose(w.log_ratio, 0.0, atol=1e-5)
    np.testing.assert_allclose(w.value, b.value, atol=1e-5)
    np.testing.assert_allclose(w.kl(), 0.0, atol=1e-5)


def test_no_finished_episode_is_not_a_return_of_zero():
    world = envs.make("probe/constant", max_steps=50)
    hp = PPO(num_envs=2, num_steps=10, minibatches=1, epochs=1)
    _, m = jax.jit(lambda k: train(ppo.make(world, SMALL), k, hp, world, 6))(jax.random.key(0))
    got = np.asarray(m["episode_return"])
    np.testing.assert_array_equal(np.isnan(got), [True] * 4 + [False, True])
    assert got[4] == 50.0


@pytest.mark.equation("ppo")
def test_one_epoch_of_one_minibatch_is_a2c():
    """At θ = θ_old the ratio is 1 and the clipped gradient is the policy gradient's."""
    world = envs.make("CartPole-v1")
    policy = policy_for(world, SMALL)
    hp = PPO(num_envs=4, num_steps=16, epochs=1, minibatches=1)

    def after_one(algo):
        return jax.jit(lambda k: train(algo, k, hp, world, 1)[0].params)(jax.random.key(3))

    a, b = after_one(ppo.make(world, SMALL)), after_one(on_policy(policy, policy_gradient))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.equation("ppo")
def test_total_loss_is_the_sum_written_out():
    """By NumPy, for a linear softmax policy and a linear critic. PPO, eq. 9.

    Mighty#126: values broadcast against targets gave errors [1, B, B] and another mean.
    """
    world = envs.make("probe/match")
    policy = policy_for(world, Network(hidden=()))
    hp = PPO(eps=0.1, vf_coef=0.7, ent_coef=0.3)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(12, 1)).astype(np.float32)
    action, A, target = rng.integers(0, 2, 12), rng.normal(size=12), rng.normal(size=12)
    params = policy.init(jax.random.key(0), jnp.asarray(obs))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    old = rng.normal(size=12) * 0.2 - 0.7
    b = Batch(
        jnp.asarray(obs),
        action,
        dict(raw=jnp.asarray(action)),
        np.zeros(12, bool),
        advantage=A,
        target=target,
    )
    b = b.replace(old=dict(log_prob=jnp.asarray(old), out=jnp.zeros((12, 2))))
    got, stats = family.total_loss(policy, ppo.clip)(params, params, b, jax.random.key(0), hp)

    net = params["net"]["params"]
    want, parts = 0.0, np.zeros(3)
    critic, actor = net["Dense_0"], net["Dense_1"]
    for i in range(12):
        z = obs[i] @ np.asarray(actor["kernel"]) + np.asarray(actor["bias"])
        p = np.exp(z) / np.exp(z).sum()
        r = p[action[i]] / np.exp(old[i])
        v = float((obs[i] @ np.asarray(critic["kernel"]) + np.asarray(critic["bias"]))[0])
        parts += [
            -min(r * A[i], min(max(r, 0.9), 1.1) * A[i]),
            0.5 * (v - target[i]) ** 2,
            -(p * np.log(p)).sum(),
        ]
    policy_loss, value_loss, entropy = parts / 12
    want = policy_loss + 0.7 * value_loss - 0.3 * entropy
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(stats["policy_loss"], policy_loss, rtol=1e-5)
    np.testing.assert_allclose(stats["entropy"], entropy, rtol=1e-5)


def test_a_schedule_does_not_depend_on_where_a_run_was_cut():
    """t and hp.horizon say where in the run an iteration is: 6 = 3 + 3, not twice a first half."""
    from jaxrl.hyper import Linear, cast

    world = envs.make("probe/match")
    algo = ppo.make(world, SMALL)
    hp = cast(PPO(lr=Linear(1e-2, 0.0), num_envs=4, num_steps=4, minibatches=1, horizon=6.0))
    run = jax.jit(lambda s, t, n: resume(algo, s, t, hp, world, n)[0], static_argnums=2)
    s = jax.jit(lambda k: algo.init(k, hp, world))(jax.random.key(0))
    whole, halves = run(s, 0, 6), run(run(s, 0, 3), 3, 3)
    for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(halves.params)):
        np.testing.assert_allclose(x, y, atol=1e-6)
    still = run(whole, 6, 1)  # the rate has reached 0
    for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(still.params)):
        np.testing.assert_array_equal(x, y)


def test_squared_error_is_half_the_square():
    class W:
        value = jnp.array([3.0])

    assert squared_error(W, Batch(0, 0, 0, 0, target=jnp.array([1.0])), None) == 2.0


def test_means_are_each_arrays_own_whatever_their_shapes():
    """A critic of several rewards has an error of each."""
    each = dict(loss=jnp.arange(4.0), error=jnp.arange(8.0).reshape(4, 2), entropy=jnp.ones(4))
    assert {k: float(x) for k, x in family.means(each).items()} == dict(
        loss=1.5, error=3.5, entropy=1.0
    )


def test_what_a_loss_says_of_itself_has_no_gradient():
    """Else a paper that adds it to its loss would count the loss twice."""
    g = jax.grad(lambda x: family.means(dict(loss=x, other=x**2))["loss"])(jnp.ones(3))
    np.testing.assert_array_equal(g, 0)


def test_a_family_needs_a_surrogate_or_an_update():
    with pytest.raises(TypeError, match="surrogate or an update"):
        on_policy(None)
