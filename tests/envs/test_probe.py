"""The values that each probe's docstring states, by averaging discounted returns."""

import jax
import numpy as np
import pytest
from tiny import play

import envs

KEY = jax.random.key(0)
N, T, GAMMA = 200, 6, 0.9


def returns(name, action=None, **params):
    """First observation [N] and the discounted return of the first episode [N]."""
    first, tr = play(envs.make(name, **params), KEY, N, T, action)
    done = np.asarray(tr.terminated | tr.truncated)
    live = np.cumsum(done, 0) - done == 0
    return np.asarray(first)[:, 0], (
        np.asarray(tr.reward) * live * GAMMA ** np.arange(T)[:, None]
    ).sum(0)


@pytest.mark.parametrize("tail", ["", "-continuous"])
def test_values_without_control(tail):
    assert (returns(f"probe/one{tail}", reward=2.0)[1] == 2.0).all()
    s, r = returns(f"probe/sign{tail}")
    np.testing.assert_array_equal(r, s)
    assert set(s) == {-1.0, 1.0}
    np.testing.assert_allclose(returns(f"probe/delay{tail}")[1], GAMMA)
    np.testing.assert_allclose(
        returns(f"probe/constant{tail}", max_steps=3)[1], 1 + GAMMA + GAMMA**2
    )


def test_values_under_the_best_action():
    assert (returns("probe/action", 1)[1] == 1.0).all() and (
        returns("probe/action", 0)[1] == -1.0
    ).all()
    assert (returns("probe/action-continuous", 0.5)[1] == 0.0).all()
    np.testing.assert_allclose(returns("probe/action-continuous", -0.5)[1], -1.0)
    s, r = returns("probe/match", 1)
    np.testing.assert_array_equal(r, s)
    s, r = returns("probe/match", 0)
    np.testing.assert_array_equal(r, -s)
    s, r = returns("probe/match-continuous", 0.25)
    np.testing.assert_allclose(r, -((s - 0.25) ** 2), rtol=1e-5, atol=1e-6)
    assert len(set(s)) == N


def test_constant_is_cut_and_never_ends():
    _, tr = play(envs.make("probe/constant", max_steps=4), KEY, 2, 8)
    np.testing.assert_array_equal(np.flatnonzero(tr.truncated[:, 0]), [3, 7])
    assert not tr.terminated.any() and (tr.reward == 1.0).all()
