"""The loops of DRPG, arXiv 2212.10439, against its formulas, and where they end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import envs
from jaxrl.core import train
from jaxrl.families import exact
from jaxrl.hyper import cast
from jaxrl.papers.robust import drpg
from jaxrl.papers.robust.drpg import DRPG
from jaxrl.robust import SETS, evaluate
from jaxrl.run.run import QUICK

pytestmark = pytest.mark.equation("drpg")
compiled = functools.partial(jax.jit, compiler_options=QUICK)

GAMMA = 0.9


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


def world(name):
    """In float64."""
    w = envs.make(name)
    mdp = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, w.tables)
    return w.replace(env=mdp.replace(P=mdp.P / mdp.P.sum(-1, keepdims=True)))


def drawn(mdp, seed=0):
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(mdp.r.shape[1]), len(mdp.r)))


def solved(mdp, P, pi):
    """V, Q and the occupancy d, by NumPy."""
    P, r, pi, rho = (np.asarray(x) for x in (P, mdp.r, pi, mdp.rho))
    chain, I = np.einsum("sa,sap->sp", pi, P), np.eye(len(r))
    V = np.linalg.solve(I - GAMMA * chain, (pi * r).sum(1))
    return V, r + GAMMA * P @ V, (1 - GAMMA) * np.linalg.solve(I - GAMMA * chain.T, rho)


def test_both_gradients_are_the_papers():
    mdp = world("tabular/random").tables
    pi = drawn(mdp)
    V, Q, d = solved(mdp, mdp.P, pi)
    J = lambda P, pi: exact.expected_return(mdp.replace(P=P), pi, GAMMA)
    by_p, by_pi = jax.grad(J, (0, 1))(mdp.P, pi)
    np.testing.assert_allclose(by_pi, d[:, None] * Q / (1 - GAMMA), atol=1e-10)
    want = (d[:, None] * np.asarray(pi))[..., None] * GAMMA * V / (1 - GAMMA)
    np.testing.assert_allclose(by_p, want, atol=1e-10)


def nearest(x):
    """The nearest distribution, by halving its level in."""
    low, high = x.min() - 1, x.max()
    for _ in range(100):
        at = (low + high) / 2
        low, high = (at, high) if np.maximum(x - at, 0).sum() > 1 else (low, at)
    return np.maximum(x - at, 0)


@functools.cache
def improved():
    """The tables, the parameters, and an iteration from them as a program of t."""
    mdp, hp = world("tabular/random").tables, DRPG(lr=0.7, tolerance=0.2, inner=1000, step=0.5)
    params = dict(pi=drawn(mdp), xi=mdp.P)
    return mdp, params, compiled(lambda t: drpg.improve(params, mdp, t, hp))


def test_the_outer_step_goes_along_the_gradient_under_the_inner_loop_s_kernel():
    mdp, params, improve = improved()
    new, _ = improve(20)
    _, Q, d = solved(mdp, new["xi"], params["pi"])
    assert np.abs(new["xi"] - mdp.P).max() > 0.05
    x = np.asarray(params["pi"]) + 0.7 * d[:, None] * Q / (1 - GAMMA)
    np.testing.assert_allclose(new["pi"], [nearest(row) for row in x], atol=1e-10)


def test_tolerances_fall_with_the_discount():
    """ε_t = ε₀ γᵗ, which the loop meets unless it is cut short, and hardly more than it has to."""
    _, _, improve = improved()
    found = [improve(t)[1] for t in (0, 5, 20, 60)]
    for t, m in zip((0, 5, 20, 60), found):
        assert 0 < m["inner_steps"] < 1000
        assert 0.2 * GAMMA ** (t + 25) / 10 < m["inner_gap"] <= 0.2 * GAMMA**t
    assert found[0]["inner_steps"] < found[2]["inner_steps"] < found[3]["inner_steps"]


@functools.cache
def inner(kernels, step):
    """The inner loop from p̄ as a program of the policy, the tolerance and the most steps: p, J,
    the measure, the steps; and, of a rectangular set, Φ and the worst kernel."""
    mdp, hp = world("tabular/random").tables, DRPG(kernels=kernels, step=step)

    def run(pi, tolerance, steps):
        xi, left, n = drpg.worst(set_.centre(mdp), pi, mdp, 0.2, tolerance, steps, hp)
        P = set_.kernel(xi, mdp)
        found = P, exact.expected_return(mdp.replace(P=P), pi, GAMMA), left, n
        if not set_.backup:
            return found
        V = evaluate(set_, mdp, pi, GAMMA, 0.2)
        return *found, mdp.rho @ V, set_.least(pi[..., None] * V, mdp, 0.2)

    set_ = SETS[kernels]
    return mdp, compiled(run)


@pytest.mark.parametrize("kernels", ["rows", "states"])
def test_the_inner_loop_s_measure_bounds_what_is_left_up_to_a_mismatch(kernels):
    """J(π, p) - Φ(π) <= ‖d* / d‖∞ max ⟨∇J, p - p'⟩, d* the occupancy under the worst kernel; and
    the loop goes on until the measure is within the tolerance."""
    mdp, run = inner(kernels, 0.5)
    pi, counts = drawn(mdp, 1), []
    for tolerance in (1.0, 0.1, 0.03, 0.01, 1e-9):
        P, J, left, n, least, worst = run(pi, tolerance, 5000)
        mismatch = (solved(mdp, worst, pi)[2] / solved(mdp, P, pi)[2]).max()
        assert left <= tolerance and -1e-9 <= J - least <= mismatch * max(left, 0) + 1e-9
        counts.append(int(n))
    assert counts == sorted(counts) and counts[0] < counts[2] < counts[-1] < 5000
    assert J - least < 1e-9  # the worst of the set, by gradients alone
    assert run(pi, 0.0, 3)[3] == 3


def test_a_tilted_kernel_s_inner_loop_finds_a_solver_s_minimum():
    mdp, run = inner("tilted", 0.3)
    pi, S = drawn(mdp, 2), 8
    _, J, _, n = run(pi, 1e-7, 5000)
    assert n < 5000

    def cost(v):  # θ, λ, and what bounds |θ| and |λ - 1|
        xi = dict(theta=v[:S], lam=v[S : 4 * S].reshape(S, 3))
        kernel = SETS["tilted"].kernel(xi, mdp)
        return exact.expected_return(mdp.replace(P=kernel), pi, GAMMA)

    centre = jnp.concatenate([jnp.zeros(S), jnp.ones(3 * S)])
    gap = lambda v, sign: v[4 * S :] - sign * (v[: 4 * S] - centre)
    rules = [dict(type="ineq", fun=lambda v, sign=sign: gap(v, sign)) for sign in (1, -1)]
    rules += [dict(type="ineq", fun=lambda v: 0.2 * S - v[4 * S : 5 * S].sum())]
    rules += [dict(type="ineq", fun=lambda v: 0.2 - v[5 * S :].sum())]
    f, g = compiled(cost), compiled(jax.grad(cost))
    found = minimize(
        lambda v: float(f(v)),
        np.concatenate([centre, np.zeros(4 * S)]),
        jac=lambda v: np.asarray(g(v)),
        constraints=rules,
        method="SLSQP",
        options=dict(maxiter=300, ftol=1e-12),
    )
    assert float(J) < float(f(np.concatenate([centre, centre]))) - 0.1
    np.testing.assert_allclose(J, found.fun, atol=1e-4)


@functools.cache
def runs(name, kernels, n):
    """Metrics of robust and nominal runs [2, n]."""
    w = world(name)
    algo, hp = drpg.make(w), cast(DRPG(kernels=kernels, lr=0.3))
    go = lambda share: train(algo, jax.random.key(0), hp.replace(share=share), w, n)[1]
    return jax.tree.map(np.asarray, compiled(jax.vmap(go))(jnp.array([1.0, 0.0])))


@pytest.mark.parametrize("name", ["tabular/random", "tabular/inventory"])
def test_the_gap_falls_to_nothing_and_the_nominal_one_does_not(name):
    m = runs(name, "rows", 300)
    gap = m["gap"][0]
    assert (np.diff(gap) < 1e-9).all() and gap[0] > 0.3 and abs(gap[-1]) < 1e-6
    assert m["gap"][1, -1] > 0.04  # its worst case, at the same radius
    assert m["nominal"][1, -1] > m["nominal"][0, -1]  # though under p̄ it is the better one
    assert (m["inner_steps"][1] == 0).all()


def test_what_a_state_s_budget_leaves_is_reached_within_the_step():
    m = runs("tabular/random", "states", 120)
    assert -1e-9 < m["gap"][0, -1] < 0.005 < 0.03 < m["gap"][1, -1]
