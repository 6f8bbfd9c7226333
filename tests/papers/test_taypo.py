"""TayPO's expansion, arXiv 2003.06259, against double loops, the exact J(π) of a small MDP in
float64, and an actor that lags."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.papers.on_policy import taypo
from jaxrl.papers.on_policy.taypo import TayPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("taypo")
quick = functools.partial(jax.jit, compiler_options=QUICK)
GAMMA = 0.9


def double_loop(gain, A, start, order):
    """Σ over deviations t < t' < t'' of one episode, each sum credited to its first, [T, M]."""
    T, M = A.shape
    U = np.zeros((T, M))
    for m in range(M):
        episode = np.cumsum(start[:, m])
        for size in range(1, order + 1):
            for times in itertools.combinations(range(T), size):
                if len(set(episode[list(times)])) == 1:
                    first, last = times[0], times[-1]
                    term = np.prod(gain[list(times), m]) * A[last, m]
                    U[first, m] += GAMMA ** (last - first) * term
    return U


def sequences(seed=0, T=7, M=3):
    rng = np.random.default_rng(seed)
    start = rng.random((T, M)) < 0.3  # the first may well continue an episode
    return rng.uniform(-0.6, 0.9, (T, M)), rng.normal(size=(T, M)), start


@quick
def code(gain, A, start):
    """The surrogate's losses of each order, and the expansions' errors."""
    losses, errors, x = [], [], jnp.log1p(gain)
    w = View(x, x, x, *[lambda: x] * 3, None)
    for order in (1, 2, 3, 7):
        hp = TayPO(order=order, gamma=GAMMA)
        losses.append(taypo.expanded(w, Batch(0, 0, 0, start, advantage=A), hp))
        errors.append(taypo.truncation(gain, A, taypo.discounts(start, GAMMA), order))
    return losses, errors


def run(gain, A, start):
    f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return code(f32(gain), f32(A), jnp.asarray(start))


@pytest.mark.parametrize("seed", range(3))
def test_the_surrogate_is_the_double_loop_within_episodes(seed):
    gain, A, start = sequences(seed)
    losses, _ = run(gain, A, start)
    for got, order in zip(losses, (1, 2, 3)):
        np.testing.assert_allclose(got, -double_loop(gain, A, start, order), rtol=1e-4, atol=1e-5)


def test_the_error_is_to_the_products_of_ratios():
    """Of an order as high as the sequence is long it is 0; of a lower one, by a loop."""
    gain, A, start = sequences(3)
    errors = run(gain, A, start)[1]
    np.testing.assert_allclose(errors[3], 0, atol=1e-5)
    U = double_loop(gain, A, start, 2)
    for m, t in itertools.product(range(A.shape[1]), range(len(A))):
        ends = [i for i in range(t + 1, len(A)) if start[i, m]] + [len(A)]
        want = 0.0
        for i in range(t, ends[0]):
            whole = np.prod(1 + gain[t:i, m]) * gain[i, m] * A[i, m]
            want += GAMMA ** (i - t) * (U[i, m] - whole)
        np.testing.assert_allclose(errors[1][t, m], want, rtol=1e-4, atol=1e-5)


# ---- an MDP of 2 states, 2 actions and H steps, all of whose trajectories can be listed ----------

H = 4
RNG = np.random.default_rng(0)
P, R, D0 = RNG.dirichlet([1, 1], (2, 2)), RNG.normal(size=(2, 2)), np.array([0.3, 0.7])
MU, TOWARD = RNG.dirichlet([2, 2], 2), RNG.dirichlet([2, 2], 2)


def values(pi):
    """Q [H, S, A] and V [H + 1, S] of a policy with h steps gone."""
    Q, V = np.zeros((H, 2, 2)), np.zeros((H + 1, 2))
    for h in reversed(range(H)):
        Q[h] = R + GAMMA * P @ V[h + 1]
        V[h] = (pi * Q[h]).sum(1)
    return Q, V


def trajectories():
    """The probability under μ, the states and the actions of each."""
    for s in itertools.product(range(2), repeat=H):
        for a in itertools.product(range(2), repeat=H):
            p = D0[s[0]] * np.prod([MU[s[h], a[h]] for h in range(H)])
            p *= np.prod([P[s[h], a[h], s[h + 1]] for h in range(H - 1)])
            yield p, np.array(s), np.array(a)


ALL = list(trajectories())


def expansion(pi, order):
    """L₁ + ... + L_K with γᵗ in place, and A [H, trajectories] of μ."""
    Q, V = values(MU)
    p, s, a = (np.array(x) for x in zip(*ALL))
    h = np.arange(H)
    A, gain = (Q[h, s, a] - V[h, s]).T, (pi[s, a] / MU[s, a] - 1).T
    U = double_loop(gain, A, np.zeros(A.shape, bool), order)
    return p @ (GAMMA**h @ U), p, gain, A


def test_the_error_of_order_k_is_of_order_k_plus_1():
    steps = np.array([0.05, 0.1, 0.2])
    base = D0 @ values(MU)[1][0]
    for order in range(3):
        error = []
        for e in steps:
            pi = (1 - e) * MU + e * TOWARD
            error.append(abs(D0 @ values(pi)[1][0] - base - expansion(pi, order)[0]))
        slope = np.polyfit(np.log(steps), np.log(error), 1)[0]
        assert abs(slope - (order + 1)) < 0.1, (order, slope)


def test_the_whole_series_is_the_other_policys_return():
    gap = D0 @ (values(TOWARD)[1][0] - values(MU)[1][0])
    total, p, gain, A = expansion(TOWARD, H)
    np.testing.assert_allclose(total, gap, rtol=1e-9)
    # from the code: what order 1 misses is the rest of the series
    first = expansion(TOWARD, 1)[0]
    d = taypo.discounts(jnp.zeros(A.shape, bool), GAMMA)
    error = taypo.truncation(jnp.asarray(gain), jnp.asarray(A), d, 1)
    np.testing.assert_allclose(p @ np.asarray(error)[0], first - gap, rtol=1e-4)


# ---- the actors ------------------------------------------------------------------------------

WORLD = envs.make("probe/match")
LINEAR = policy_for(WORLD, Network(hidden=()))
KEY = jax.random.key(0)
HP = cast(TayPO(lag=2, num_envs=2, num_steps=3))


def numbered(i):
    """Parameters whose logits are (i, 0) and whose value is i in every state."""
    params = jax.tree.map(jnp.zeros_like, LINEAR.init(KEY, jnp.zeros((1, 1))))
    params["net"]["params"]["Dense_1"]["bias"] = jnp.array([i, 0.0], jnp.float32)
    params["net"]["params"]["Dense_0"]["bias"] = jnp.array([i], jnp.float32)
    return params


@pytest.mark.parametrize("lag", [0, 2])
def test_actors_are_behind_and_values_are_not(lag):
    hp = HP.replace(lag=lag)
    part = taypo.lagging(LINEAR)
    s = State(numbered(0), (), KEY, begin(LINEAR, KEY, hp, WORLD), {})
    sample = quick(lambda ring, s, t: part.apply(ring, s, None, t, hp, WORLD))
    ring = part.init(KEY, s, hp, WORLD)
    for t in range(6):
        ring, (s, b, _) = sample(ring, s.replace(params=numbered(t)), t)
        np.testing.assert_array_equal(b.record["out"][..., 0], max(t - lag, 0))
        np.testing.assert_array_equal(b.old["log_prob"], b.record["log_prob"])
        np.testing.assert_array_equal(b.value, t)
        w = LINEAR.judge(s.params, s.params, b, KEY)
        mu, pi = (np.exp([x, 0.0]) / np.exp([x, 0.0]).sum() for x in (max(t - lag, 0), t))
        want = np.log(pi / mu)[np.asarray(b.action)]
        np.testing.assert_allclose(w.log_ratio, want, rtol=1e-4, atol=1e-6)


def test_a_memory_is_refused():
    with pytest.raises(InputError, match="memory"):
        taypo.make(WORLD, Network(memory=4))
