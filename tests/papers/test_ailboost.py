"""AILBoost's weights and witness, arXiv 2404.08513, and the mixture that acts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Algo, Learner
from jaxrl.errors import InputError
from jaxrl.families.imitation import State, mixture
from jaxrl.hyper import cast, check
from jaxrl.papers.imitation import ailboost
from jaxrl.papers.imitation.ailboost import AILBoost

pytestmark = pytest.mark.equation("ailboost")


def test_weights_are_those_of_adding_a_policy_again_and_again():
    """w <- ((1 - α) w, α); beyond K policies the oldest is dropped, and the rest sum to 1."""
    K, alpha = 4, 0.3
    hp = cast(AILBoost(alpha=alpha, members=K))
    w = np.ones(1)
    for t in range(7):
        kept = w[-K:] / w[-K:].sum()
        want = np.concatenate([kept[::-1], np.zeros(K - len(kept))])
        np.testing.assert_allclose(ailboost.weights(t, hp), want, rtol=1e-5)
        w = np.append((1 - alpha) * w, alpha)


def test_the_witness_is_the_log_ratio_and_its_value_the_reverse_kl():
    rng = np.random.default_rng(0)
    expert, mix = rng.dirichlet(np.ones(5), 2)

    def loss(D):
        of_expert, of_mix = ailboost.witness(D, D)
        return (expert * of_expert).sum() + (mix * of_mix).sum()

    D = jnp.log(expert / mix)
    np.testing.assert_allclose(jax.grad(loss)(D), 0.0, atol=1e-6)
    np.testing.assert_allclose(loss(D), 1 - (mix * np.log(mix / expert)).sum(), rtol=1e-5)
    assert all(loss(D + 0.1 * rng.normal(size=5)) > loss(D) for _ in range(5))


def test_the_mixture_plays_each_member_by_its_weight():
    """Members whose action is the round that they played; the one of round 0 is overwritten."""
    K, n = 3, 1000
    hp = cast(AILBoost(alpha=0.4, members=K))
    act = lambda p, obs, memory, key, t, hp: (jnp.broadcast_to(p["actor"], (len(obs), 1)), memory)
    learner = Learner(None, None, None, act)
    begin = lambda key, hp, world: State(dict(actor=jnp.zeros(1)), (), key, (), (), jnp.int32(0))
    learn = lambda s, t, hp, world: (
        s.replace(params=dict(actor=jnp.full(1, t + 1.0)), t=s.t + 1),
        {},
    )
    algo = mixture(Algo(begin, learn, act), learner, lambda hp: hp.members, ailboost.weights)
    s = algo.init(jax.random.key(0), hp, None)
    for t in range(4):
        s, _ = algo.step(s, t, hp, None)
    for key in (None, jax.random.key(1)):
        action, memory = algo.act(s, jnp.zeros((n, 2)), algo.memory(n), key, hp)
        share = np.bincount(np.asarray(action[:, 0], int), minlength=4) / n
        np.testing.assert_allclose(share[:0:-1], ailboost.weights(3, hp), atol=2 / n)
        again, _ = algo.act(s, jnp.ones((n, 2)), memory, key, hp)
        np.testing.assert_array_equal(again, action)  # an episode is one member's


def test_the_discriminator_learns_from_the_weighted_rows():
    K = 2
    hp = AILBoost(
        alpha=0.25, members=K, num_envs=1, num_steps=2, buffer_size=8, learning_starts=2
    ).replace(batch_size=2000)
    t = jnp.arange(8) // 2  # the rounds in the buffer: 0 .. 3
    buffer = SimpleNamespace(experience=t[None])
    drawn = ailboost.weighted(buffer, jax.random.key(0), 3, hp)
    share = np.bincount(np.asarray(drawn), minlength=4) / 2000
    np.testing.assert_allclose(share[3:1:-1], ailboost.weights(3, hp), atol=0.04)
    assert share[:2].sum() == 0


def test_members_have_rounds_in_the_buffer():
    with pytest.raises(InputError, match="members: 9 is above the 8 rounds of buffer_size"):
        check(AILBoost(members=9, num_envs=2, num_steps=5, buffer_size=80, learning_starts=8))
