"""T-PPO: extended GAE, what goes on in the next iteration, and a step from both, by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.completions import model, task
from jaxrl.families import tokens as family
from jaxrl.hyper import cast, check
from jaxrl.papers.reasoning import t_ppo
from tests.papers.by_hand import quick
from tests.papers.tokens_by_hand import (
    NETWORK,
    WORLD,
    Step,
    easy,
    ends,
    flat,
    gradient,
    pessimistic,
    said,
    whitened,
)

GAME = task(WORLD)
P, L = GAME.P, GAME.L
WINDOW = 2  # half of L = 3, rounded up


def extended(reward, V, n, over, lam):
    """Of one completion of n tokens, the sum as it is written."""
    delta = []
    for t in range(n):
        ahead = V[t + 1] if t + 1 < n else (0.0 if over else V[n - 1])
        r = reward if over and t == n - 1 else 0.0
        delta.append(r + ahead - V[t])
    return [sum(lam ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]


@pytest.mark.equation("t_ppo")
def test_extended_gae():
    rng = np.random.default_rng(0)
    V, R, n = rng.normal(size=(6, 5)), rng.normal(size=6), np.array([5, 3, 1, 5, 2, 4])
    over = np.array([True, False, True, False, False, True])
    mask = (np.arange(5) < n[:, None]).astype(float)
    got = t_ppo.egae(*map(jnp.asarray, (R, V, mask, over)), 0.7)
    for i in range(6):
        want = extended(R[i], V[i], n[i], over[i], 0.7)
        np.testing.assert_allclose(got[i], want + [0.0] * (5 - n[i]), atol=1e-5)
    assert abs(got[1, 2]) < 1e-6  # a cut token by itself says nothing


@pytest.fixture(scope="module")
def second():
    """Of the second iteration: its hyperparameters, the table before and after, what was learned
    from, and how the parameters moved."""
    patch = pytest.MonkeyPatch()
    patch.setattr(family, "adam", lambda hp, t=0: optax.sgd(1.0))
    patch.setattr(type(GAME), "score", easy)
    patch.setattr(type(GAME), "ends", ends)
    hp = cast(
        t_ppo.TPPO(prompts=24, value_first=0, accumulate=2, stale=2, temperature=0.8, lam=0.7)
    )
    algo, net = t_ppo.make(WORLD, NETWORK), model(WORLD, NETWORK)
    noise = lambda x, i: x + 0.15 * jax.random.normal(jax.random.key(x.size + i), x.shape)
    moved = lambda tree, i: jax.tree.map(lambda x: noise(x, i), tree)
    step = quick(algo.step)
    s = step(quick(algo.init)(jax.random.key(0), hp, WORLD), jnp.int32(0), hp, WORLD)[0]
    s = s.replace(params=moved(s.params, 1))
    s = s.replace(sampler=moved(s.params, 2))
    k_sample = jax.random.split(s.key, 3)[1]
    b = quick(algo.trace)(s.replace(params=s.sampler), k_sample, hp, WORLD)
    after, metrics = step(s, jnp.int32(1), hp, WORLD)
    patch.undo()
    seen = said(net, s.params, b, hp.temperature)
    as_numpy = lambda tree: jax.tree.map(lambda x: np.asarray(x, float), tree)
    delta = flat(jax.tree.map(jnp.subtract, s.params, after.params))
    x = Step(net, s.params, as_numpy(b), *as_numpy(seen[:2]), delta, metrics)
    return hp, as_numpy(s.table), as_numpy(after.table), x


@pytest.mark.equation("t_ppo")
def test_what_has_not_ended_goes_on(second):
    _, before, after, x = second
    count = before["count"].astype(int)
    assert set(count) == {0, WINDOW}
    written = x.b.tokens[:, P:]
    for i, n in enumerate(count):
        if n:
            assert x.b.number[i] == before["number"][i]
            assert (written[i, :n] == before["tokens"][i, :n]).all()
        stop = min(n + WINDOW, L)
        end = [t for t in range(stop) if written[i, t] % 3 == 1]
        over = bool(end) or stop == L
        length = end[0] + 1 if end else stop
        assert x.b.over[i] == over and (written[i, length:] == 0).all()
        assert after["count"][i] == (0 if over else stop)
        assert over or x.b.reward[i] == 0
        # a window's tokens, or all of what has ended
        mask = [float(t < length and (over or t >= n)) for t in range(L)]
        assert x.b.mask[i].tolist() == mask
    assert 0 < (after["count"] > 0).sum() < len(count)
    paid = x.b.reward.sum() / x.b.over.sum()
    assert float(x.metrics["episode_return"]) == pytest.approx(paid, rel=1e-5) and paid > 0


@pytest.mark.equation("t_ppo")
def test_a_step_is_the_formula_s_gradient(second):
    hp, before, _, x = second
    B = len(x.b.mask)
    A, now, ended = (np.zeros((B, L)) for _ in range(3))
    for i in range(B):
        n, length = int(before["count"][i]), int(np.flatnonzero(x.b.mask[i])[-1]) + 1
        over = bool(x.b.over[i])
        A[i, :length] = extended(x.b.reward[i], x.b.value[i], length, over, hp.lam)
        now[i, n:length], ended[i, :length] = 1.0, over
    A = whitened(A, now)
    G = np.zeros((B, L))
    for i, t in zip(*np.nonzero(now)):
        ratio = np.exp(x.log_prob[i, t] - x.b.old[i, t])
        G[i, t] = -pessimistic(ratio, A[i, t], hp.eps, hp.eps) / now.sum()
    V = hp.vf_coef * ended * (x.value - x.b.reward[:, None]) / ended.sum()
    want = gradient(x, hp, (G, 0 * G), V)
    np.testing.assert_allclose(x.moved, want, rtol=2e-3, atol=2e-5 * np.abs(want).max() + 1e-6)


def test_rows_are_each_by_themselves():
    with pytest.raises(Exception, match="group: is not 1"):
        check(t_ppo.TPPO(group=2))
    assert t_ppo.TPPO(prompts=64, windows=4).steps_per_iteration == 16
