"""Advantages and targets, against their definitions as sums, rlax, and numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrl.returns import gae, lambda_returns, vtrace

NEITHER, TERMINATED, TRUNCATED, BOTH = range(4)  # the bits of an environment's two flags
# T, N and K
SHAPES = [(1, 1), (1, 3), (2, 2), (3, 1), (4, 2, 2), (5, 3), (6, 1, 1), (7, 2, 3), (8, 1)]
SHAPES += [(9, 3, 2)]


def data(shape, flags, seed=0):
    """A rollout: V(s'ₜ) is V(sₜ₊₁) within an episode, another number where one ends."""
    rng = np.random.default_rng(seed)
    r, v, final = rng.normal(size=(3, *shape)).astype(np.float32)
    log_ratio = rng.normal(size=shape[:2]).astype(np.float32)
    terminated, done = (flags & 1) > 0, flags > 0
    ends = (done | (np.arange(shape[0])[:, None] == shape[0] - 1)).reshape(
        shape[:2] + (1,) * (len(shape) - 2)
    )
    next_v = np.where(ends, final, np.roll(v, -1, 0))
    return log_ratio, r, v, next_v, terminated, done


@jax.jit
def everything(log_ratio, r, v, next_v, terminated, done, gamma, lam, rho_max, c_max):
    cuts = (terminated, done, gamma, lam)
    advantage, target = vtrace(log_ratio, r, v, next_v, *cuts, rho_max, c_max)
    return dict(
        gae=gae(r, v, next_v, *cuts),
        lambda_returns=lambda_returns(r, next_v, *cuts),
        vtrace_advantage=advantage,
        vtrace_target=target,
    )


def definitions(log_ratio, r, v, next_v, terminated, done, gamma, lam, rho_max, c_max):
    """The same in float64, each a sum over what is left of the episode; nothing recursive."""
    T, N, *K = r.shape
    r, v, next_v = (x.astype(np.float64).reshape(T, N, -1) for x in (r, v, next_v))
    ratio = np.exp(log_ratio.astype(np.float64))
    rho, c = np.minimum(rho_max, ratio), lam * np.minimum(c_max, ratio)
    future = np.where(terminated[..., None], 0.0, next_v)
    delta = r + gamma * future - v
    names = ("gae", "lambda_returns", "vtrace_advantage", "vtrace_target")
    out = {name: np.zeros_like(r) for name in names}
    for n in range(N):
        for t in range(T):
            end = next((k for k in range(t, T) if done[k, n]), T - 1)
            steps = range(t, end + 1)
            # Schulman et al. 2016, eq. 16
            out["gae"][t, n] = sum((gamma * lam) ** (k - t) * delta[k, n] for k in steps)
            # Sutton and Barto, section 12.1: the longest n-step return takes what weight is left
            n_step = [
                sum(gamma ** (k - t) * r[k, n] for k in range(t, j + 1))
                + gamma ** (j - t + 1) * future[j, n]
                for j in steps
            ]
            weights = [(1 - lam) * lam**i for i in range(end - t)] + [lam ** (end - t)]
            out["lambda_returns"][t, n] = sum(w * g for w, g in zip(weights, n_step))
            # Espeholt et al. 2018, eq. 1
            out["vtrace_target"][t, n] = v[t, n] + sum(
                gamma ** (k - t) * np.prod(c[t:k, n]) * rho[k, n] * delta[k, n] for k in steps
            )
    for t in range(T):
        for n in range(N):
            later = future[t, n] if done[t, n] or t == T - 1 else out["vtrace_target"][t + 1, n]
            out["vtrace_advantage"][t, n] = rho[t, n] * (r[t, n] + gamma * later - v[t, n])
    return {k: x.reshape(T, N, *K) for k, x in out.items()}


def close(got, wanted):
    """To 1e-5 of the number, or of 1, which is the size of a reward and of a value here."""
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@st.composite
def rollouts(draw):
    shape = draw(st.sampled_from(SHAPES))
    flags = draw(hnp.arrays(np.int8, shape[:2], elements=st.integers(NEITHER, BOTH)))
    return data(shape, flags, draw(st.integers(0, 2**31)))


@settings(max_examples=25, deadline=None)
@given(
    rollouts(),
    st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from([(1.0, 1.0), (2.0, 0.5), (np.inf, 1.0)]),
)
def test_estimators_are_the_sums_that_define_them(rollout, gamma, lam, clips):
    got = everything(*rollout, gamma, lam, *clips)
    for name, wanted in definitions(*rollout, gamma, lam, *clips).items():
        assert got[name].dtype == jnp.float32 and got[name].shape == wanted.shape
        close(got[name], wanted)


@pytest.mark.parametrize("at", [0, 4, 8])
@pytest.mark.parametrize("flag", [NEITHER, TERMINATED, TRUNCATED, BOTH])
def test_one_flag_at_the_first_a_middle_and_the_last_step(at, flag):
    flags = np.zeros((9, 3), np.int8)
    flags[at] = flag
    rollout = data((9, 3, 2), flags)
    got = everything(*rollout, 0.9, 0.8, 1.0, 1.0)
    for name, wanted in definitions(*rollout, 0.9, 0.8, 1.0, 1.0).items():
        close(got[name], wanted)


# By hand. γ = λ = 1/2, r = (1, 2, 4), V = (8, 16, 32); the value after the rollout is 64, and that
# of an episode's last observation 48, which counts if the episode was truncated. E.g. truncated in
# the middle: δ₀ = 1 + 16/2 - 8, δ₁ = 2 + 48/2 - 16, δ₂ = 4 + 64/2 - 32; A₀ = 1 + 10/4.
TABLE = {
    # (flag, step): A₀, A₁, A₂
    (NEITHER, 0): (1.75, 3.0, 4.0),
    (TERMINATED, 0): (-7.0, 3.0, 4.0),
    (TRUNCATED, 0): (17.0, 3.0, 4.0),
    (BOTH, 0): (-7.0, 3.0, 4.0),
    (NEITHER, 1): (1.75, 3.0, 4.0),
    (TERMINATED, 1): (-2.5, -14.0, 4.0),
    (TRUNCATED, 1): (3.5, 10.0, 4.0),
    (BOTH, 1): (-2.5, -14.0, 4.0),
    (NEITHER, 2): (1.75, 3.0, 4.0),
    (TERMINATED, 2): (-0.25, -5.0, -28.0),
    (TRUNCATED, 2): (1.25, 1.0, -4.0),
    (BOTH, 2): (-0.25, -5.0, -28.0),
}


def table():
    """Row 13: the table's cases side by side as environments, and its advantages. [3, 12]"""
    flags = np.zeros((3, len(TABLE)), np.int8)
    next_v = np.tile(np.float32([[16], [32], [64]]), len(TABLE))
    for i, (flag, at) in enumerate(TABLE):
        flags[at, i] = flag
        if flag:
            next_v[at, i] = 48
    r, v = (np.tile(np.float32(x)[:, None], len(TABLE)) for x in ((1, 2, 4), (8, 16, 32)))
    return (r, v, next_v, (flags & 1) > 0, flags > 0), np.float32(list(TABLE.values())).T


def test_hand_values():
    """Stoix#57, #142, #148, rlevo#342, Mighty#126 and rlgym-ppo#23 each got one of these cells
    wrong, see below."""
    (r, v, next_v, *cuts), A = table()
    np.testing.assert_array_equal(gae(r, v, next_v, *cuts, 0.5, 0.5), A)
    got = lambda_returns(r, next_v, *cuts, 0.5, 0.5)
    np.testing.assert_array_equal(got, A + v)


def test_hand_values_off_policy():
    # π/μ = 1/2 at every step halves δ and the trace: V-trace's error is xₜ = δₜ/2 + xₜ₊₁/8 here
    (r, v, next_v, *cuts), _ = table()
    rho = jnp.full(r.shape, jnp.log(0.5))
    A, target = vtrace(rho, r, v, next_v, *cuts, 0.5, 0.5, 1.0, 1.0)
    cases = list(TABLE)
    neither, truncated = cases.index((NEITHER, 0)), cases.index((TRUNCATED, 1))
    close((target - v)[:, neither], [0.65625, 1.25, 2.0])  # ½ + 1.25/8, 1 + 2/8, 2
    close(A[:, neither], [0.8125, 1.5, 2.0])  # ½ (1 + 1.25/2), ½ (2 + 2/2), ½ 4
    close((target - v)[:, truncated], [1.125, 5.0, 2.0])  # ½ + 5/8, ½ 10, 2
    close(A[:, truncated], [1.75, 5.0, 2.0])  # ½ (1 + 5/2), ½ 10: not the next episode's V-trace
    clipped = vtrace(-rho, r, v, next_v, *cuts, 0.5, 0.5, 1.0, 1.0)
    close(clipped[1] - v, table()[1])  # a ratio of 2 is clipped to 1: on-policy


def peer(r, v, next_v, terminated, done, bug):
    """GAE with a bug that somebody shipped (the table's γ = λ = 1/2)."""
    last = np.zeros_like(done[:1])
    after_reset = np.concatenate([v[1:], next_v[-1:]])
    keep = ~done
    if bug == "rlevo#342: done at t + 1":
        terminated, keep = (np.concatenate([x[1:], last]) for x in (terminated, done))
        keep = ~keep
    if bug == "Stoix#142: deltas from the value after the reset":
        next_v = after_reset
    if bug == "a time limit is a termination":  # Stoix#147, brax, gymnax: one flag for both
        terminated = done
    if bug == "Stoix#148: advantages of the next episode leak through a truncation":
        keep = ~terminated
    delta = r + 0.5 * np.where(terminated, 0, next_v) - v
    if bug == "Stoix#142: the delta of a truncated step is masked":
        delta = np.where(done & ~terminated, 0, delta)
    A, out = 0, []
    for t in reversed(range(len(r))):
        A = delta[t] + 0.25 * keep[t] * A
        out.insert(0, A)
    return np.stack(out)


def test_the_table_tells_each_peer_bug_apart():
    """Stoix#57, #136, #142, #147, #148: a cut is masked where it should not be, or not where it
    should; rlevo#342, Mighty#126, rlgym-ppo#23: it falls on the step beside its own."""
    rollout, A = table()
    np.testing.assert_array_equal(peer(*rollout, ""), A)
    bugs = (
        "rlevo#342: done at t + 1",
        "Stoix#142: deltas from the value after the reset",
        "Stoix#142: the delta of a truncated step is masked",
        "Stoix#148: advantages of the next episode leak through a truncation",
        "a time limit is a termination",
    )
    for bug in bugs:
        assert (peer(*rollout, bug) != A).any(0).sum() >= 2, f"{bug}: no case of the table shows it"


def per_environment(f, *axes):
    return jax.jit(jax.vmap(f, axes, 1))


def test_rlax_agrees_where_nothing_is_truncated():
    flags = np.random.default_rng(1).integers(NEITHER, BOTH, (9, 3)) & TERMINATED
    log_ratio, r, v, next_v, terminated, done = data((9, 3), flags)
    discount = 0.9 * (1 - terminated.astype(np.float32))
    values, rho = np.concatenate([v, next_v[-1:]]), np.exp(log_ratio)
    got = everything(log_ratio, r, v, next_v, terminated, done, 0.9, 0.8, 1.0, 1.0)

    f = per_environment(rlax.truncated_generalized_advantage_estimation, 1, 1, None, 1)
    close(got["gae"], f(r, discount, 0.8, values))
    f = per_environment(rlax.lambda_returns, 1, 1, 1, None)
    close(got["lambda_returns"], f(r, discount, next_v, 0.8))
    f = per_environment(rlax.vtrace, 1, 1, 1, 1, 1, None)
    close(got["vtrace_target"] - v, f(v, next_v, r, discount, rho, 0.8))

    f = per_environment(rlax.vtrace_td_error_and_advantage, 1, 1, 1, 1, 1, None)
    wanted = f(v, next_v, r, discount, rho, 1.0)  # λ = 1: rlax mixes by λ in the advantage too
    got = everything(log_ratio, r, v, next_v, terminated, done, 0.9, 1.0, 1.0, 1.0)
    close(got["vtrace_advantage"], wanted.pg_advantage)
    close(got["vtrace_target"] - v, wanted.errors)


@settings(max_examples=15, deadline=None)
@given(rollouts(), st.sampled_from([0.0, 0.9, 1.0]))
def test_identities(rollout, lam):
    """CleanRL#337: the critic's target was made from an array of zeros, not the advantages."""
    log_ratio, r, v, next_v, terminated, done = rollout
    on_policy = everything(np.zeros_like(log_ratio), *rollout[1:], 0.9, lam, 1.0, 1.0)
    close(on_policy["gae"] + v, on_policy["lambda_returns"])
    close(on_policy["vtrace_target"], on_policy["lambda_returns"])
    if lam == 1.0:
        close(on_policy["vtrace_advantage"], on_policy["gae"])
    myopic = everything(*rollout, 0.0, lam, np.inf, 1.0)
    rho = np.exp(log_ratio).reshape(log_ratio.shape + (1,) * (r.ndim - 2))
    close(myopic["gae"], r - v)
    close(myopic["lambda_returns"], r)
    close(myopic["vtrace_advantage"], rho * (r - v))
    close(myopic["vtrace_target"], v + rho * (r - v))


def test_lambda_one_is_monte_carlo_and_lambda_zero_is_one_step():
    flags = np.zeros((9, 3), np.int8)
    flags[[3, 8]] = TERMINATED
    rollout = data((9, 3, 2), flags)
    _, r, v, next_v, terminated, done = rollout
    ends = enumerate([4] * 4 + [9] * 5)
    returns = np.stack([sum(0.9 ** (k - t) * r[k] for k in range(t, end)) for t, end in ends])
    got = everything(*rollout, 0.9, 1.0, 1.0, 1.0)
    close(got["lambda_returns"], returns)
    close(got["gae"], returns - v)
    got = everything(*rollout, 0.9, 0.0, 1.0, 1.0)
    close(got["lambda_returns"], r + 0.9 * ~terminated[..., None] * next_v)


def test_a_time_limit_on_a_constant_reward_leaves_the_value_alone():
    # SB3's test_infinite_horizon: V = 1 / (1 - γ) is a fixed point under truncation, at every λ
    truncated = np.zeros((9, 3), np.int8)
    truncated[[2, 5, 8]] = TRUNCATED
    log_ratio, r, *_, terminated, done = data((9, 3), truncated)
    r, v = np.ones_like(r), np.full_like(r, 10.0)
    got = everything(np.zeros_like(log_ratio), r, v, v, terminated, done, 0.9, 0.95, 1.0, 1.0)
    close(got["lambda_returns"], v)
    close(got["gae"], 0 * v)


def test_gamma_and_lambda_may_differ_between_objectives():
    rollout = data((9, 3, 2), np.random.default_rng(2).integers(NEITHER, BOTH, (9, 3)))
    gamma, lam = np.float32([0.9, 0.5]), np.float32([0.3, 0.95])
    got = everything(*rollout, gamma, lam, 2.0, 1.0)
    for k in range(2):
        one = [x[..., k : k + 1] if x.ndim == 3 else x for x in rollout]
        for name, wanted in definitions(*one, float(gamma[k]), float(lam[k]), 2.0, 1.0).items():
            close(got[name][..., k : k + 1], wanted)


def test_a_termination_hides_whatever_the_critic_says_of_it():
    # physics that diverge end an episode with NaN in the observation, hence in V(s')
    flags = np.zeros((9, 3), np.int8)
    flags[[4, 8]] = TERMINATED
    rollout = data((9, 3), flags)
    poisoned = rollout[3].copy()
    poisoned[[4, 8]] = np.nan
    clean = everything(*rollout, 0.9, 0.8, 1.0, 1.0)
    got = everything(*rollout[:3], poisoned, *rollout[4:], 0.9, 0.8, 1.0, 1.0)
    for name in clean:
        np.testing.assert_array_equal(got[name], clean[name])


def test_a_value_of_another_shape_is_refused():
    """Mighty#126: values [T, N, 1] broadcast against rewards [T, N]."""
    log_ratio, r, v, next_v, *cuts = data((3, 3), np.zeros((3, 3), np.int8))
    with pytest.raises(AssertionError, match="shape"):
        gae(r, v[..., None], next_v, *cuts, 0.9, 0.8)
    with pytest.raises(AssertionError, match="shape"):
        lambda_returns(r, next_v[..., None], *cuts, 0.9, 0.8)
    with pytest.raises(AssertionError, match="shape"):
        vtrace(log_ratio, r, v, next_v[..., None], *cuts, 0.9, 0.8, 1.0, 1.0)
