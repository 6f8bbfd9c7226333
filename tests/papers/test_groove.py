"""GROOVE's curriculum, arXiv 2310.02782: what is replayed, kept and scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.errors import InputError
from jaxrl.families.meta import fresh_levels
from jaxrl.hyper import cast, check, replace
from jaxrl.papers.meta import groove
from jaxrl.papers.meta.groove import GROOVE, NONE
from tests.papers.by_hand import KEY, quick

pytestmark = pytest.mark.equation("groove")

REGRET = np.array([0.4, NONE, 0.1, 0.9, -0.2, 0.0])


def hyper(**changes):
    return cast(replace(GROOVE(pairs=2, buffer=6, temperature=0.3), **changes))


def numbered(first, n):
    """Levels that can be told apart by their first reward."""
    levels = fresh_levels(KEY, n)
    return levels.replace(reward=levels.reward.at[:, 0].set(first + jnp.arange(n, dtype=float)))


def test_levels_are_replayed_by_softmax_of_regret_without_replacement():
    """The first of two by softmax, the second by softmax of the rest; none that has no regret."""
    slot, hp = (numbered(100, 6), jnp.asarray(REGRET)), hyper(replay=1.0)
    keys = jax.random.split(KEY, 4000)
    levels, ids, fresh = quick(jax.vmap(lambda k: groove.choose(slot, k, hp)))(keys)
    assert not fresh.any() and (ids[:, 0] != ids[:, 1]).all()
    np.testing.assert_array_equal(levels.reward[..., 0], 100 + ids)
    p = np.exp(REGRET / 0.3)
    p /= p.sum()
    first = np.bincount(ids[:, 0], minlength=6) / 4000
    np.testing.assert_allclose(first, p, atol=0.03)
    second = np.bincount(ids[:, 1], minlength=6) / 4000
    want = [sum(p[i] * p[j] / (1 - p[i]) for i in range(6) if i != j) for j in range(6)]
    np.testing.assert_allclose(second, want, atol=0.03)


def test_some_levels_are_new_and_all_while_none_has_been_scored():
    slot = numbered(100, 6), jnp.asarray(REGRET)
    keys = jax.random.split(KEY, 2000)
    choose = quick(jax.vmap(groove.choose, ((None, None), 0, None)))
    levels, _, fresh = choose(slot, keys, hyper(replay=0.3))
    assert 0.66 < fresh.mean() < 0.74
    new = np.asarray(levels.reward[..., 0])
    assert ((new < 1) == fresh).all()
    empty = slot[0], jnp.full(6, NONE)
    assert choose(empty, keys, hyper(replay=1.0))[2].all()


def test_what_is_kept_is_the_highest_regret_of_old_and_new():
    """Of a replayed level the new regret stands; lower ones make room for new levels."""
    slot = numbered(100, 6), jnp.asarray(REGRET)
    lived, ids = numbered(200, 4), jnp.array([3, 0, 2, 1])
    fresh = jnp.array([False, False, True, True])
    regret = jnp.array([-0.5, 0.3, 0.7, -0.1])
    levels, left = groove.keep(slot, lived, ids, fresh, regret)
    every = {100: 0.3, 102: 0.1, 103: -0.5, 104: -0.2, 105: 0.0, 202: 0.7, 203: -0.1}
    want = sorted(every, key=lambda k: -every[k])[:6]
    np.testing.assert_array_equal(levels.reward[:, 0], want)
    np.testing.assert_allclose(left, [every[k] for k in want], atol=1e-6)


def test_regret_is_a2c_s_return_less_the_rule_s(monkeypatch):
    made = []
    monkeypatch.setattr(groove.a2c, "make", lambda world, network: made.append(network) or "a2c")
    lived = numbered(5, 2)

    def live(agent, level, key, hp):
        assert agent(None) == "a2c"
        return level.reward[0]

    slot = groove.begin(KEY, hyper())
    assert (slot[1] == NONE).all()
    args = jnp.arange(2), jnp.ones(2, bool), jnp.array([1.0, 4.0]), live, KEY, hyper()
    slot, said = groove.tell(slot, lived, *args)
    np.testing.assert_allclose(slot[1], [4.0, 2.0] + [NONE] * 4)
    assert said["regret"] == 3.0 and said["antagonist"] == 5.5
    assert said["kept_regret"] == pytest.approx(1.0) and made


def test_no_run_s_state_is_taken_for_lost():
    """A run ends where a number of its state is not finite."""
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(groove.begin(KEY, hyper())))


def test_a_buffer_holds_a_generation():
    with pytest.raises(InputError, match="buffer: 3 is below pairs = 4"):
        check(GROOVE(buffer=3, pairs=4))
