"""Sets of kernels: projections and worst cases against linear programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog
from scipy.stats import binom

import envs
from jaxrl import robust
from jaxrl.families import exact
from jaxrl.run.run import QUICK

GAMMA = 0.9
compiled = functools.partial(jax.jit, compiler_options=QUICK)
RADII = [0.0, 0.3, 1.0, 2.5, 7.0]


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


@functools.cache
def jitted(f):
    return compiled(f)


def tables(name):
    mdp = envs.make(name).tables
    mdp = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype == jnp.float32 else x, mdp)
    return mdp.replace(P=mdp.P / mdp.P.sum(-1, keepdims=True))


def lowest(z, p, radius):
    """min Σ_a q_a z_a over distributions on p's support with Σ_a ‖q_a - p_a‖₁ <= radius, as an LP
    in q and in what bounds |q - p|. With u: min u over the same, with q_a z_a <= u for each a."""
    A, n = p.shape
    I, rows = np.eye(A * n), np.kron(np.eye(A), np.ones(n))
    A_ub = np.block([[I, -I], [-I, -I], [np.zeros((1, A * n)), np.ones((1, A * n))]])
    b_ub = np.concatenate([p.ravel(), -p.ravel(), [radius]])
    A_eq = np.hstack([rows, np.zeros_like(rows)])
    bounds = [(0, float(x > 0)) for x in p.ravel()] + [(0, None)] * (A * n)
    cost = np.concatenate([z.ravel(), np.zeros(A * n)])
    found = linprog(cost, A_ub, b_ub, A_eq, np.ones(A), bounds)
    assert found.status == 0
    return found.fun


def pressed(z, p, radius):
    """min over the same set of max_a (q_a z_a), by one more variable."""
    A, n = p.shape
    I, none = np.eye(A * n), np.zeros((A * n, 1))
    to = np.kron(np.eye(A), np.ones(n))
    A_ub = np.block(
        [
            [I, -I, none],
            [-I, -I, none],
            [np.zeros((1, A * n)), np.ones((1, A * n)), np.zeros((1, 1))],
            [to * z.ravel(), np.zeros_like(to), -np.ones((A, 1))],
        ]
    )
    b_ub = np.concatenate([p.ravel(), -p.ravel(), [radius], np.zeros(A)])
    A_eq = np.hstack([to, np.zeros_like(to), np.zeros((A, 1))])
    bounds = [(0, float(x > 0)) for x in p.ravel()] + [(0, None)] * (A * n) + [(None, None)]
    cost = np.zeros(2 * A * n + 1)
    cost[-1] = 1.0
    found = linprog(cost, A_ub, b_ub, A_eq, np.ones(A), bounds)
    assert found.status == 0
    return found.fun


def rows(rng, A=3, n=5):
    """Nominal rows with zeros, one of them certain, and points that may lie far from them."""
    p = rng.dirichlet(np.ones(n), A)
    p[0, rng.integers(n)] = 0.0
    p[-1] = np.eye(n)[rng.integers(n)]
    p /= p.sum(1, keepdims=True)
    return p, p + rng.normal(size=(A, n)) * rng.choice([0.1, 1.0, 5.0])


def is_nearest(q, x, p, radius):
    """q is in the set, and x lies behind it as seen from all of the set: <x - q, y - q> <= 0."""
    np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-12)
    assert (q >= -1e-12).all() and (np.abs(q[p == 0]) < 1e-12).all()
    assert np.abs(q - p).sum() <= radius + 1e-10
    assert -lowest(q - x, p, radius) - ((x - q) * q).sum() < 1e-9


@pytest.mark.parametrize("radius", RADII)
def test_projections_are_the_nearest_points(radius):
    rng = np.random.default_rng(0)
    for _ in range(8):
        p, x = rows(rng)
        is_nearest(np.asarray(jitted(robust.near_all)(x, p, radius)), x, p, radius)
        q = np.asarray(jitted(robust.near)(x[0], p[0], radius))
        is_nearest(q[None], x[:1], p[:1], radius)
        full = np.full_like(p, 0.2)  # no zeros, and the whole simplex
        q = np.asarray(jax.vmap(jitted(robust.simplex))(x))
        is_nearest(q, x, full, 6.0)


@pytest.mark.parametrize("floor", [-jnp.inf, -0.4])
def test_the_ball_s_nearest_point(floor):
    """Against an LP for what is furthest along x - q, and the ball and floor themselves."""
    rng, n = np.random.default_rng(1), 6
    for radius in (0.0, 0.5, 1.7, 30.0):
        x = rng.normal(size=n) * 2
        q = np.asarray(jitted(robust.in_ball)(x, radius, floor))
        assert np.abs(q).sum() <= radius + 1e-10 and (q >= floor - 1e-12).all()
        split = np.concatenate([q - x, x - q])  # y = up - down
        bounds = [(0, None)] * n + [(0, None if floor == -jnp.inf else -floor)] * n
        far = linprog(split, np.ones((1, 2 * n)), [radius], bounds=bounds)
        assert -far.fun - (x - q) @ q < 1e-9
    inside = rng.normal(size=n) / 100
    np.testing.assert_array_equal(robust.in_ball(jnp.asarray(inside), 1.0), inside)


@pytest.mark.parametrize("radius", RADII)
def test_the_worst_rows_are_a_linear_program_s(radius):
    rng = np.random.default_rng(2)
    for _ in range(8):
        p, z = rows(rng)
        q = np.asarray(jitted(robust.least)(z, p, radius))
        assert np.abs(q - p).sum() <= radius + 1e-12 and (q >= -1e-15).all()
        np.testing.assert_allclose(q.sum(1), 1.0)
        np.testing.assert_allclose((q * z).sum(), lowest(z, p, radius), atol=1e-10)


def judged(kernels, z, p, weight, radius):
    """min over a state's set of Σ_a weight_a q_a z, by linear programs."""
    if kernels is robust.STATES:
        return lowest(weight[:, None] * z, p, radius)
    return sum(w * lowest(z[None], row[None], radius) for w, row in zip(weight, p))


@pytest.mark.parametrize("name", ["tabular/random", "tabular/inventory"])
@pytest.mark.parametrize("kernels", [robust.ROWS, robust.STATES])
def test_values_are_the_fixed_points_of_linear_programs(kernels, name):
    """V = min_p r_π + γ p_π V for a policy's worst case, and with a max before it for the best."""
    mdp = tables(name)
    S, A = mdp.r.shape
    pi = np.random.default_rng(3).dirichlet(np.ones(A), S)
    P, r = np.asarray(mdp.P), np.asarray(mdp.r)

    @compiled
    def solve(pi, radius):
        worst = robust.evaluate(kernels, mdp, pi, GAMMA, radius)
        return worst, robust.best(kernels, mdp, GAMMA, radius)

    for radius in (0.8, 4.0) if name == "tabular/random" else (0.8,):
        V, top = map(np.asarray, solve(pi, radius))
        want = [pi[s] @ r[s] + GAMMA * judged(kernels, V, P[s], pi[s], radius) for s in range(S)]
        np.testing.assert_allclose(V, want, atol=1e-9)
        if kernels is robust.ROWS:
            low = lambda s, a: lowest(top[None], P[s, a][None], radius)  # noqa: B023
            want = [max(r[s, a] + GAMMA * low(s, a) for a in range(A)) for s in range(S)]
        else:
            want = [pressed(r[s][:, None] + GAMMA * top, P[s], radius) for s in range(S)]
        np.testing.assert_allclose(top, want, atol=1e-9)
        assert (top >= V - 1e-9).all() and (
            np.asarray(exact.value(mdp, jnp.asarray(pi), GAMMA)) > V
        ).all()


def test_a_state_s_budget_is_worth_less_to_nature_than_one_for_each_row():
    mdp, nominal = tables("tabular/random"), exact.best(tables("tabular/random"), GAMMA)
    best = []
    for kernels in (robust.ROWS, robust.STATES):
        solve = compiled(lambda radius: robust.best(kernels, mdp, GAMMA, radius))  # noqa: B023
        np.testing.assert_allclose(solve(0.0), nominal, atol=1e-12)
        best.append(solve(1.0))
    assert (best[0] < best[1] - 1e-3).all() and (best[1] < nominal - 1e-3).all()


@pytest.mark.parametrize("kernels", [robust.ROWS, robust.STATES])
def test_steps_of_any_size_leave_distributions_and_ends_stay_ends(kernels):
    """In float32, where the levels of a far point are known to few digits."""
    with jax.enable_x64(False):
        mdp = envs.make("tabular/cliff").tables
        for scale in (0.3, 1e7):
            x = mdp.P + scale * jax.random.normal(jax.random.key(0), mdp.P.shape)
            p = np.asarray(jitted(kernels.project)(x, mdp, 1.0))
            assert (p >= 0).all() and (p[np.asarray(mdp.P) == 0] == 0).all()
            np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-6)
            np.testing.assert_array_equal(p[mdp.end], mdp.P[mdp.end])


def test_a_tilted_kernel():
    mdp = tables("tabular/random")
    rng = np.random.default_rng(5)
    centre = robust.TILTED.centre(mdp)
    np.testing.assert_allclose(robust.tilt(centre, mdp), mdp.P, atol=1e-12)
    xi = dict(theta=jnp.asarray(rng.normal(size=8)), lam=jnp.asarray(rng.random((8, 3)) + 0.5))
    p = np.asarray(mdp.P) * np.exp(np.asarray(xi["theta"]) / np.asarray(xi["lam"])[..., None])
    np.testing.assert_allclose(robust.tilt(xi, mdp), p / p.sum(-1, keepdims=True), atol=1e-12)
    project = compiled(robust.TILTED.project)
    near = project(xi, mdp, 0.2)
    assert abs(np.abs(near["theta"]).sum() - 0.2 * 8) < 1e-9
    assert abs(np.abs(near["lam"] - 1).sum() - 0.2) < 1e-9
    least = project(jax.tree.map(lambda x: -100 * jnp.ones_like(x), xi), mdp, 50.0)
    assert (least["lam"] >= robust.FLOOR - 1e-12).all()


@pytest.mark.parametrize("kernels", list(robust.SETS.values()))
def test_the_furthest_fall_is_not_passed_within_the_set(kernels):
    mdp, radius = tables("tabular/random"), 0.4
    rng = np.random.default_rng(6)
    noise = lambda x: x + jnp.asarray(rng.normal(size=x.shape))
    centre, project = kernels.centre(mdp), compiled(kernels.project)
    g, xi = jax.tree.map(noise, centre), project(jax.tree.map(noise, centre), mdp, radius)
    most = robust.furthest(kernels, g, xi, mdp, radius)
    falls = []
    for scale in (0.1, 1.0, 10.0, 100.0):
        for direction in (g, jax.tree.map(noise, centre)):
            there = jax.tree.map(lambda x, d: x - scale * d, xi, direction)  # noqa: B023
            y = project(there, mdp, radius)
            falls.append(optax.tree.vdot(g, optax.tree.sub(xi, y)))
    assert max(falls) <= most + 1e-9 and max(falls) > 0.95 * most


def test_an_inventory_s_demand_is_binomial_and_its_cost_that_of_the_stock():
    mdp = envs.make("tabular/inventory", demand=0.3, hold=1.0, short=5.0, price=2.0).tables
    stock = np.arange(-4, 8)
    for s, a in [(0, 0), (1, 1), (4, 2), (9, 4), (11, 3)]:
        want = np.zeros(12)
        for d in range(5):
            want[max(min(stock[s] + a, 7) - d, -4) + 4] += binom.pmf(d, 4, 0.3)
        np.testing.assert_allclose(mdp.P[s, a], want, atol=1e-6)
    cost = np.where(stock > 0, stock, -5 * stock)[:, None] + 2.0 * (np.arange(5) > 0)
    np.testing.assert_allclose(mdp.r, -cost, atol=1e-6)
