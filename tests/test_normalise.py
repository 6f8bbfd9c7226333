"""Running moments against NumPy over everything at once, and running returns against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl import normalise as nm
from jaxrl.run import checkpoint

SIZES = (1, 2, 5)  # environments; a rollout has 4 steps
update = jax.jit(nm.update, static_argnames="axes")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(SIZES), min_size=1, max_size=5),
    st.sampled_from([0.0, -30.0, 1e4]),
    st.sampled_from([0.1, 1.0, 50.0]),
    st.integers(0, 2**31),
)
def test_merged_moments_are_those_of_the_concatenation(sizes, offset, spread, seed):
    """CleanRL#18: a batch of any size counted as one sample."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=len(sizes))  # batches with different means, as a learning policy gives
    parts = [
        (offset + spread * (d + rng.normal(size=(4, n, 3)))).astype(np.float32)
        for n, d in zip(sizes, drift)
    ]
    m = nm.moments(jnp.zeros(3))
    for x in parts:
        m = update(m, x, axes=2)
    seen = np.concatenate([x.reshape(-1, 3) for x in parts]).astype(np.float64)
    assert float(m.count) == len(seen)
    np.testing.assert_allclose(m.mean, seen.mean(0), rtol=3e-7, atol=1e-5 * spread)
    # a mean of 1e4 is kept to 1e-3, which then is the variance's error where batches are small
    np.testing.assert_allclose(np.sqrt(m.var), seen.std(0), rtol=1e-3, atol=1e-7 * abs(offset))
    assert {x.dtype for x in jax.tree.leaves(m)} == {jnp.dtype("float32")}


def test_a_long_stream_far_from_zero():
    # sum(x²) - mean² in float32 has no digit left of a variance of 1 around 1e4
    rng = np.random.default_rng(0)
    parts = (1e4 + rng.normal(size=(50, 64, 16, 2))).astype(np.float32)
    m = nm.moments(jnp.zeros(2))
    for x in parts:
        m = update(m, x, axes=2)
    seen = parts.reshape(-1, 2).astype(np.float64)
    assert float(m.count) == 51_200
    np.testing.assert_allclose(m.mean, seen.mean(0), atol=2e-3)
    np.testing.assert_allclose(m.var, seen.var(0), rtol=1e-3)
    z = nm.normalise(m, jnp.asarray(parts[-1]))
    np.testing.assert_allclose(z.mean((0, 1)), 0.0, atol=0.1)
    np.testing.assert_allclose(z.std((0, 1)), 1.0, atol=0.05)


def test_the_order_of_batches_and_how_they_are_cut_do_not_matter():
    x = np.random.default_rng(3).normal(2.0, 3.0, size=(12, 3)).astype(np.float32)
    whole = nm.update(nm.moments(jnp.zeros(3)), x)
    for cuts in ([1], [7], [2, 3, 11]):
        m = nm.moments(jnp.zeros(3))
        for part in reversed(np.split(x, cuts)):
            m = nm.update(m, part)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), m, whole)


def test_before_any_data_normalising_only_clips():
    x = jnp.array([-30.0, -10.0, -0.3, 0.0, 1e-6, 7.7, 11.0])
    m = nm.moments(x)
    assert (float(m.count), float(m.mean.sum()), float(m.var.min())) == (0.0, 0.0, 1.0)
    np.testing.assert_array_equal(nm.normalise(m, x), np.clip(x, -10, 10))
    np.testing.assert_array_equal(nm.normalise(m, x, jnp.inf), x)
    np.testing.assert_array_equal(nm.scale(m, x, 5.0), np.clip(x, -5, 5))


def test_normalise_and_scale_by_hand():
    m = nm.update(nm.moments(jnp.zeros(())), jnp.array([1.0, 3.0, 5.0, 7.0]))  # mean 4, var 5
    x = jnp.array([4.0, 4.0 + 5**0.5, -1e6])
    np.testing.assert_allclose(nm.normalise(m, x), [0.0, 1.0, -10.0], rtol=1e-6)
    np.testing.assert_allclose(nm.scale(m, x), [4 / 5**0.5, 1 + 4 / 5**0.5, -10.0], rtol=1e-6)


def test_a_constant_is_not_blown_up():
    m = nm.moments(jnp.zeros(2))
    for _ in range(3):
        m = nm.update(m, jnp.tile(jnp.array([0.1, 12345.678]), (1000, 1)))
    np.testing.assert_allclose(m.var, 0.0, atol=1e-6)
    np.testing.assert_allclose(nm.normalise(m, jnp.array([0.1, 12345.678])), 0.0, atol=1.0)
    assert np.isfinite(nm.normalise(m, jnp.array([0.2, 1e30]))).all()


def test_a_dictionary_keeps_its_mask_and_its_integers():
    rng = np.random.default_rng(5)
    obs = {
        "state": rng.normal(3.0, 2.0, size=(6, 2, 3)).astype(np.float32),
        "inner": {"half": jnp.asarray(rng.normal(size=(6, 2)), jnp.bfloat16)},
        "action_mask": np.ones((6, 2, 4), np.float32),
        "image": np.full((6, 2, 5, 5), 200, np.uint8),
        "start": np.zeros((6, 2), bool),
    }
    m = nm.moments(jax.tree.map(lambda x: x[0, 0], obs))
    m = nm.update(m, obs, 2)
    z = jax.jit(nm.normalise)(m, obs)
    assert len(jax.tree.leaves(m)) == 2 * 2 + 1  # of two leaves, and the count
    for name in ("action_mask", "image", "start"):
        assert z[name].dtype == obs[name].dtype
        np.testing.assert_array_equal(z[name], obs[name])
    np.testing.assert_allclose(z["state"].mean((0, 1)), 0.0, atol=1e-6)
    np.testing.assert_allclose(z["state"].std((0, 1)), 1.0, atol=1e-5)
    assert z["inner"]["half"].dtype == jnp.float32
    half = np.asarray(obs["inner"]["half"], np.float32)
    np.testing.assert_allclose(z["inner"]["half"], (half - half.mean()) / half.std(), atol=1e-4)
    np.testing.assert_allclose(m.mean["state"], obs["state"].mean((0, 1)), rtol=1e-5)
    scaled = nm.scale(m, obs)["state"]
    np.testing.assert_allclose(scaled, obs["state"] / obs["state"].std((0, 1)), rtol=1e-5)


def test_nothing_to_normalise():
    obs = np.ones((6, 2, 5), np.uint8)
    m = nm.update(nm.moments(obs[0, 0]), obs, 2)
    assert float(m.count) == 12
    np.testing.assert_array_equal(nm.normalise(m, obs), obs)


def test_moments_have_no_axis_of_environments():
    """purejaxrl#21: mean and variance shaped [num_envs, ...], one copy per environment."""
    obs = jnp.zeros((7, 4, 3))
    assert nm.update(nm.moments(obs[0, 0]), obs, 2).mean.shape == (3,)
    with pytest.raises(ValueError, match=r"\(7, 4, 3\) is not 2 batch axes and then \(4, 3\)"):
        nm.update(nm.moments(obs[0]), obs, 2)


def test_each_seed_keeps_its_own_moments():
    x = np.random.default_rng(7).normal(size=(8, 5, 2, 3)) * [1, 10, 100]
    x = np.moveaxis(x, -1, 0).astype(np.float32)
    many = jax.vmap(lambda _: nm.moments(jnp.zeros(2)))(jnp.arange(3))
    step = jax.jit(jax.vmap(lambda m, x: nm.update(m, x, 2)))
    many = step(step(many, x[:, :4]), x[:, 4:])
    assert many.mean.shape == (3, 2) and many.count.shape == (3,)
    np.testing.assert_array_equal(many.count, 40.0)
    np.testing.assert_allclose(many.mean, x.mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many.var, x.var((1, 2)), rtol=1e-4)
    z = jax.vmap(nm.normalise)(many, x)
    np.testing.assert_allclose(z.std((1, 2)), 1.0, atol=1e-4)


def test_moments_come_back_from_the_disk_as_they_were(tmp_path):
    """sinergym#422: the mean was saved as the variance too, so a loaded policy saw other numbers,
    and NaN where the mean was negative."""
    x = np.random.default_rng(17).normal([-3.0, 5.0], [2.0, 0.5], (50, 2)).astype(np.float32)
    m = nm.update(nm.moments(jnp.zeros(2)), x)
    about = dict(iteration=1, seconds=0.0, score=None, tables={}, versions={})
    checkpoint.write(tmp_path / "1", checkpoint.plain(m), {}, about)
    back = checkpoint.read(tmp_path / "1", jax.eval_shape(lambda: m)).state
    wanted = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(nm.normalise(back, x), wanted, rtol=1e-4, atol=1e-5)


def running(reward, done, gamma):
    """VecNormalize's order: accumulate, record, then reset where the episode ended."""
    out, R = [], np.zeros(reward.shape[1:])
    for r, d in zip(reward.astype(np.float64), done):
        R = gamma * R + r
        out.append(R.copy())
        R[d] = 0.0
    return R, np.stack(out)


@pytest.mark.parametrize("shape", [(9, 3), (9, 3, 2)])
def test_discounted_returns_run_on_between_rollouts(shape):
    rng = np.random.default_rng(11)
    reward, done = rng.normal(size=shape).astype(np.float32), rng.random(shape[:2]) < 0.3
    done[3] = [True, False, True]  # the last step of the first rollout
    carry, wanted = running(reward, done, 0.9)
    f = jax.jit(nm.discounted)
    middle, first = f(reward[:4], done[:4], jnp.zeros(shape[1:]), 0.9)
    end, second = f(reward[4:], done[4:], middle, 0.9)
    np.testing.assert_allclose(np.concatenate([first, second]), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(end, carry, rtol=1e-5, atol=1e-6)
    assert end.dtype == second.dtype == jnp.float32
    np.testing.assert_array_equal(middle[0], 0.0)


def test_discounted_return_by_hand():
    done = np.array([[False], [True], [False]])
    carry, R = nm.discounted(jnp.array([[1.0], [2.0], [4.0]]), done, jnp.array([8.0]), 0.5)
    np.testing.assert_array_equal(R[:, 0], [5.0, 4.5, 4.0])  # the done step's return still counts
    np.testing.assert_array_equal(carry, [4.0])


def test_scaled_rewards_have_returns_of_deviation_one():
    rng = np.random.default_rng(13)
    reward = (rng.normal(size=(400, 8, 2)) * [3.0, 300.0]).astype(np.float32)
    done = rng.random((400, 8)) < 0.02
    _, R = nm.discounted(reward, done, jnp.zeros((8, 2)), 0.9)
    m = nm.update(nm.moments(jnp.zeros(2)), R, 2)
    _, scaled = nm.discounted(nm.scale(m, reward), done, jnp.zeros((8, 2)), 0.9)
    np.testing.assert_allclose(scaled.std((0, 1)), 1.0, rtol=1e-3)
    np.testing.assert_array_equal(np.sign(nm.scale(m, reward)), np.sign(reward))
