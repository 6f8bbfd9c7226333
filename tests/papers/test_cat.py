"""CaT, arXiv 2403.18765: δ by a loop, what it means by chance, and its two ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import returns
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.papers.safe import cat
from jaxrl.papers.safe.cat import CaT
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("cat")

T, N, K = 6, 4, 2
HP = cast(CaT(gamma=0.9, lam=0.8, normalise_advantage=False))


def batch(seed=0, cuts=0.2):
    rng = np.random.default_rng(seed)
    terminated, cut = rng.random((2, T, N)) < cuts
    reward = np.concatenate(
        [rng.random((T, N, 1)), np.maximum(rng.normal(size=(T, N, K)), 0.0)], -1
    )
    value, ahead = rng.normal(size=(2, T, N)).astype(np.float32)
    flags = dict(terminated=jnp.asarray(terminated), done=jnp.asarray(terminated | cut))
    rest = dict(value=jnp.asarray(value), next_value=jnp.asarray(ahead))
    b = Batch(0, 0, 0, jnp.zeros((T, N), bool), reward=jnp.asarray(reward, jnp.float32), **rest)
    return b.replace(**flags)


def test_delta_is_the_share_of_the_largest_violation_that_was_seen():
    b = batch()
    cost, keep, p = np.asarray(b.reward[..., 1:]), 0.7, 0.4
    last, most = cat.largest(jnp.zeros(K), b.reward[..., 1:], keep)
    got = cat.probability(b.reward[..., 1:], most, p)
    seen, want = None, np.zeros((T, N))
    for t in range(T):
        now = np.maximum(cost[t].max(0), 1e-6)
        seen = now if seen is None else keep * seen + (1 - keep) * now
        for n in range(N):
            want[t, n] = max(p * min(cost[t, n, k] / seen[k], 1.0) for k in range(K))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(last, seen, rtol=1e-5)
    again, _ = cat.largest(last, b.reward[:1, :, 1:], keep)  # the next rollout goes on from there
    np.testing.assert_allclose(again, keep * seen + (1 - keep) * cost[0].max(0), rtol=1e-5)
    assert (want == 0).any() and np.isclose(want, p).any() and (want[want > 0] < 0.99 * p).any()


def test_without_violations_it_is_gae_and_a_sure_end_is_a_done():
    b = batch()
    A = lambda reward, end, done: returns.gae(
        reward, b.value, b.next_value, end, done, HP.gamma, HP.lam
    )
    none = cat.terminated_gae(b, jnp.zeros((T, N)), HP)
    plain = A(b.reward[..., 0], b.terminated, b.done)
    np.testing.assert_array_equal(none.advantage, plain)
    np.testing.assert_array_equal(none.target, plain + b.value)
    sure = np.random.default_rng(3).random((T, N)) < 0.4
    got = cat.terminated_gae(b, jnp.asarray(sure, jnp.float32), HP).advantage
    left = jnp.where(sure, 0.0, b.reward[..., 0])
    np.testing.assert_allclose(got, A(left, b.terminated | sure, b.done | sure), rtol=1e-5)


def test_in_between_it_is_the_mean_over_ends_by_chance():
    """λ = 1, and the episode ends with the rollout: the target is the return that is to be had."""
    b = batch(cuts=0.0)
    b = b.replace(terminated=b.terminated.at[-1].set(True), done=b.done.at[-1].set(True))
    b = b.replace(next_value=jnp.roll(b.value, -1, 0))
    rng = np.random.default_rng(0)
    delta = rng.random((T, N)) * (rng.random((T, N)) < 0.6)
    got = cat.terminated_gae(b, jnp.asarray(delta, jnp.float32), HP.replace(lam=1.0)).target
    ends = rng.random((100_000, T, N)) < delta
    alive = np.cumprod(~ends, 1)  # a step that ends earns nothing itself
    r = np.asarray(b.reward[..., 0])
    want = (alive * r * 0.9 ** np.arange(T)[:, None]).sum(1)
    np.testing.assert_allclose(got[0], want.mean(0), atol=4 * want.std(0).max() / 300)


def test_rewards_below_nothing_are_nothing():
    """Else an end would be a gain."""
    b = batch()
    worse = b.replace(reward=b.reward.at[..., 0].add(-0.5))
    zero = jnp.zeros((T, N))
    got = cat.terminated_gae(worse, zero, HP).advantage
    clipped = worse.replace(reward=jnp.maximum(worse.reward, 0.0))
    np.testing.assert_array_equal(got, cat.terminated_gae(clipped, zero, HP).advantage)


@pytest.mark.parametrize("t", [0, 25, 100, 150])
def test_it_hardens_as_expected_lives_shorten(t):
    """At t = 0 with 20 steps to an end on average, at the horizon with 2."""
    hp = HP.replace(p_start=0.05, p_max=0.5, horizon=100.0)
    b = batch()
    b = b.replace(reward=b.reward.at[..., 1:].set(1.0))  # δ = p at each step
    _, got = cat.constraints_as_terminations(
        jnp.zeros(K), State((), (), None, None, {}), b, jnp.float32(t), hp, None
    )
    life = 20 + min(t / 100, 1.0) * (2 - 20)
    want = cat.terminated_gae(b, jnp.full((T, N), 1 / life), hp)
    np.testing.assert_allclose(got.advantage, want.advantage, rtol=1e-5, atol=1e-6)
    assert isinstance(got.target, jax.Array)
