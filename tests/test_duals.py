"""Rules for multipliers: by hand, against the authors' loop, in a game, and against a solver."""

import math
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxrl import duals


def test_a_price_rises_by_the_excess_and_stops_at_nothing():
    lam = duals.ascent(jnp.array([1.0, 0.3]), jnp.array([2.0, -4.0]), 0.1)
    np.testing.assert_allclose(lam, [1.2, 0.0], rtol=1e-6)
    lam = duals.optimistic(
        jnp.array([1.0, 0.3]), jnp.array([2.0, -4.0]), jnp.array([5.0, -6.0]), 0.1
    )
    np.testing.assert_allclose(lam, [0.9, 0.1], rtol=1e-5)  # 1 + 0.1 (4 - 5), 0.3 + 0.1 (-8 + 6)
    np.testing.assert_allclose(duals.expected(3.0, 1.0, 0.5), 4.0)


def test_in_a_game_ascent_goes_round_and_optimism_goes_in():
    """max_x min_{λ >= 0} x - λ (x - 1), solved by x = λ = 1 alone."""

    def play(optimism, n=2000, lr=0.1):
        def step(carry, _):
            x, lam, last = carry
            slope = jnp.array([1 - lam, x - 1])
            ahead = duals.expected(slope, last, optimism)
            x = x + lr * ahead[0]
            lam = duals.optimistic(lam, slope[1], last[1], lr, optimism)
            return (x, lam, slope), (x, lam)

        start = (jnp.float32(0.5), jnp.float32(0.7), jnp.array([0.3, -0.5]))
        return np.array(jax.lax.scan(step, start, length=n)[1])

    away = lambda path: np.hypot(*(path[:, -100:] - 1)).max()
    assert away(play(1.0)) < 1e-4 and away(play(0.0)) > 1.0


def loop(costs, limit, kp, ki, kd, alpha, delay):
    """As the authors' `CppoPID` does it for one constraint, without its options."""
    pid_i, delta_p, cost_d, cost_ds, out = 0.0, 0.0, 0.0, deque([0.0], maxlen=delay), []
    for cost in costs:
        delta = cost - limit
        pid_i = max(0.0, pid_i + delta * ki)
        delta_p = alpha * delta_p + (1 - alpha) * delta
        cost_d = alpha * cost_d + (1 - alpha) * cost
        pid_d = max(0.0, cost_d - cost_ds[0])
        out.append(max(0.0, kp * delta_p + pid_i + kd * pid_d))
        cost_ds.append(cost_d)
    return out


@pytest.mark.parametrize("delay", [1, 4])
@pytest.mark.parametrize(
    "gains", [(0.1, 0.02, 0.3, 0.7), (0.0, 0.05, 0.0, 0.0), (0.5, 0.0, 1.0, 0.0)]
)
def test_a_controller_is_the_authors_loop_for_each_constraint(delay, gains):
    rng = np.random.default_rng(0)
    costs = np.float32(rng.gamma(2.0, 4.0, (30, 2)) + 20 * np.sin(np.arange(30) / 4)[:, None])
    budget = np.array([5.0, 12.0], np.float32)
    update = lambda s, cost: duals.pid(s, cost, budget, *gains)
    got = jax.lax.scan(update, duals.PID.begin(2, delay), costs)[1]
    want = [loop(costs[:, i], float(budget[i]), *gains, delay) for i in range(2)]
    np.testing.assert_allclose(got, np.transpose(want), rtol=1e-4, atol=1e-4)
    assert (np.array(got) == 0).any() and (np.array(got) > 0).any()


def test_its_integral_alone_is_gradient_ascent():
    costs = jnp.array(np.random.default_rng(1).gamma(2.0, 4.0, (20, 1)), jnp.float32)
    update = lambda s, cost: duals.pid(s, cost, jnp.array([8.0]), 0.0, 0.05, 0.0, 0.5)
    got = jax.lax.scan(update, duals.PID.begin(1, 3), costs)[1]
    up = lambda lam, cost: (duals.ascent(lam, cost - 8.0, 0.05),) * 2
    np.testing.assert_allclose(got, jax.lax.scan(up, jnp.zeros(1), costs)[1], rtol=1e-6)


SOLVE = jax.jit(duals.trust_region)


def by_solver(g, b, H, c, delta):
    """The best step by SQP, from several starts; None where none is feasible."""
    held = [
        dict(type="ineq", fun=lambda x: -(c + b @ x), jac=lambda x: -b),
        dict(type="ineq", fun=lambda x: delta - 0.5 * x @ H @ x, jac=lambda x: -H @ x),
    ]
    best = None
    for start in np.random.default_rng(2).normal(size=(6, len(g))) * 0.1:
        out = minimize(lambda x: -g @ x, start, jac=lambda x: -g, constraints=held, method="SLSQP")
        if out.success and (best is None or out.fun < best.fun):
            best = out
    return None if best is None else best.x


@pytest.mark.parametrize(
    ("seed", "c"),
    [(s, c) for s in range(4) for c in (-0.6, -0.05, -0.01, 0.0, 0.01, 0.05)],
)
def test_the_step_in_closed_form_is_the_solver_s(seed, c):
    rng = np.random.default_rng(seed)
    g, b, root = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 3))
    H, delta = root @ root.T + np.eye(3), 0.02
    x, p = np.linalg.solve(H, g), np.linalg.solve(H, b)
    along, against = SOLVE(*map(jnp.float32, (g @ x, g @ p, b @ p, c, delta)))
    step = float(along) * x - float(against) * p
    assert 0.5 * step @ H @ step <= delta * 1.001
    assert c + b @ step <= 1e-4
    want = by_solver(g, b, H, c, delta)
    assert g @ step == pytest.approx(g @ want, rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(step, want, atol=2e-3)


def test_where_no_step_is_inside_the_cost_falls_as_far_as_it_can():
    q, u, s, delta = 2.0, -1.0, 0.5, 0.01
    along, against = SOLVE(*map(jnp.float32, (q, u, s, 0.5, delta)))
    assert along == 0 and float(against) == pytest.approx(math.sqrt(2 * delta / s))
    along, against = SOLVE(*map(jnp.float32, (q, u, s, -0.5, delta)))  # and where all are
    assert against == 0 and float(along) == pytest.approx(math.sqrt(2 * delta / q))


@pytest.mark.parametrize("c", [-0.5, -0.05, -0.01, 0.0, 0.02])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slopes_along_one_line_meet_both_ends_of_it(sign, c):
    """g = ±b = ±1, H = 1: x is at most 0.2 in size (δ = 0.02), and at most -c."""
    along, against = SOLVE(*map(jnp.float32, (1.0, sign, 1.0, c, 0.02)))
    step = float(along) * sign - float(against)
    want = min(0.2, -c) if sign > 0 else -0.2
    assert step == pytest.approx(want, abs=1e-3)


def test_a_slope_that_is_not_there_leaves_the_other():
    along, against = SOLVE(*map(jnp.float32, (2.0, 0.0, 0.0, -0.1, 0.01)))
    assert float(along) == pytest.approx(0.1) and against == 0
    assert all(
        np.isfinite(SOLVE(*map(jnp.float32, (0.0, 0.0, 0.0, c, 0.01)))).all() for c in (-1, 1)
    )
