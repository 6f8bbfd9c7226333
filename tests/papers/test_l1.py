"""LCPO's two rewards, and that its prompts' wishes are what they are measured against."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.completions import task
from jaxrl.families.tokens import Tokens
from jaxrl.hyper import cast
from jaxrl.papers.reasoning import l1
from tests.papers.by_hand import quick

WORLD = envs.make("tokens/wish", length=4)


def exact(right, wish, n, alpha, delta):
    return right - alpha * abs(wish - n)


def at_most(right, wish, n, alpha, delta):
    return right * min(1.0, max(0.0, alpha * (wish - n) + delta))


@pytest.mark.equation("l1")
@pytest.mark.parametrize(("most", "formula"), [(False, exact), (True, at_most)])
def test_advantages_are_of_the_length_that_the_prompt_asks_for(most, formula, monkeypatch):
    def chance(game, state):
        return (state.tokens[game.P] % 2).astype(jnp.float32)

    monkeypatch.setattr(type(task(WORLD)), "score", chance)
    hp = cast(l1.L1(prompts=8, group=4, accumulate=1, most=most, alpha=0.3, delta=0.4))
    algo = l1.make(WORLD, Tokens.network_for("").replace(hidden=(8,)))
    s = algo.init(jax.random.key(0), hp, WORLD)
    b = quick(algo.trace)(s, jax.random.split(s.key, 3)[1], hp, WORLD)
    game, R, off = task(WORLD), [], []
    for tokens, right in zip(np.asarray(b.tokens), np.asarray(b.reward)):
        wish = int(game.text(tokens[: game.P])[-2])  # 7+5:3=
        written = tokens[game.P :].tolist()
        n = written.index(1) + 1 if 1 in written else game.L
        R.append(formula(right, wish, n, 0.3, 0.4))
        off.append(abs(wish - n))
    R = np.array(R).reshape(8, 4)
    want = (R - R.mean(1, keepdims=True)) / (R.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(b.advantage[:, 0], want.ravel(), rtol=1e-3, atol=1e-4)
    assert len(set(b.reward.tolist())) == 2 and len(set(off)) > 2 and np.abs(want).max() > 1
    if not most:
        assert quick(algo.step)(s, jnp.int32(0), hp, WORLD)[1]["off_wish"] == np.mean(off)
