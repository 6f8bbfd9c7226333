"""ReLOAD, arXiv 2302.01275: its step by a loop, and its last iterate against a linear programme."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import envs
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import exact
from jaxrl.hyper import cast
from jaxrl.papers.safe import reload
from jaxrl.papers.safe.reload import ReLOAD

pytestmark = pytest.mark.equation("reload")

WORLD = envs.make("tabular/tolls")
MDP = WORLD.tables
P, R, C, RHO = (np.asarray(x, float) for x in (MDP.P, MDP.r, MDP.c[0], MDP.rho))
S, A = R.shape
GAMMA, BUDGET = 0.9, 2.0


def solution():
    """The most that the budget allows, its price, and the policy: an LP over occupancies."""
    flow = np.eye(S)[:, :, None] - GAMMA * np.moveaxis(P, 2, 0)
    out = linprog(-R.ravel(), C.ravel()[None], BUDGET, flow.reshape(S, -1), RHO)
    x = out.x.reshape(S, A)
    return -out.fun, -out.ineqlin.marginals[0], x / x.sum(1, keepdims=True)


@functools.cache
def program():
    algo = reload.make(WORLD)
    return jax.jit(lambda hp: train(algo, jax.random.key(0), hp, WORLD, 6000))


def run(optimism):
    hp = cast(ReLOAD(lr=0.3, dual_lr=0.3, budget=BUDGET, optimism=optimism))
    s, m = program()(hp)
    return s, {k: np.asarray(v, float) for k, v in m.items()}


def paid(pi):
    """J_r and J_c of a policy, by linear algebra in double precision."""
    chain = np.linalg.inv(np.eye(S) - GAMMA * np.einsum("sa,sap->sp", pi, P))
    return RHO @ chain @ (pi * R).sum(1), RHO @ chain @ (pi * C).sum(1)


def test_the_last_policy_is_the_programme_s_and_the_last_price_its_multiplier():
    most, price, pi = solution()
    s, m = run(1.0)
    J_r, J_c = paid(np.asarray(s.pi, float))
    assert J_r == pytest.approx(most, abs=2e-3) and J_c == pytest.approx(BUDGET, abs=1e-3)
    assert float(s.params["price"]) == pytest.approx(price, abs=2e-3)
    mixing = ((pi > 0.1).all(1)).nonzero()[0]
    np.testing.assert_allclose(np.asarray(s.pi)[mixing], pi[mixing], atol=5e-3)  # not deterministic
    assert len(mixing) == 1 and m["gap"][-1] < 5e-3 and m["violation"][-100:].max() < 1e-3


def test_without_optimism_the_last_goes_round_and_the_average_is_right():
    most, price, _ = solution()
    _, m = run(0.0)
    late = slice(3000, None)
    assert m["gap"][late].max() > 2.0 and m["violation"][late].max() > 0.1
    assert np.ptp(m["price"][late]) > 1.0
    first, second = np.ptp(m["price"][3000:4500]), np.ptp(m["price"][4500:])
    assert second > 0.7 * first  # and does not go in
    assert m["price"][late].mean() == pytest.approx(price, abs=0.1)
    assert m["episode_return"][late].mean() == pytest.approx(most, abs=0.1)


def test_the_gap_is_what_both_players_could_gain():
    """Never negative, and 0 at the programme's solution alone."""
    most, price, pi = solution()
    hp = ReLOAD(budget=BUDGET, price_max=10.0)
    logits = jnp.log(jnp.asarray(pi, jnp.float32) + 1e-9)
    x = reload.start(jax.random.key(0), MDP, hp) | dict(logits=logits, price=jnp.float32(price))
    step = jax.jit(lambda x: reload.ascent_descent(x, MDP, 0, hp)[1])
    assert abs(step(x)["gap"]) < 1e-3
    rng = np.random.default_rng(0)
    for _ in range(5):
        other = rng.dirichlet(np.ones(A), S)
        at = x | dict(logits=jnp.log(jnp.asarray(other, jnp.float32)), price=jnp.float32(2.0))
        J_r, J_c = paid(other)
        best = exact.best(MDP.replace(r=MDP.r - 2.0 * MDP.c[0]), GAMMA)
        answer = RHO @ np.asarray(best, float) + 2.0 * BUDGET
        want = answer - (J_r - 10.0 * max(J_c - BUDGET, 0.0))
        assert step(at)["gap"] == pytest.approx(want, rel=1e-4) and want > 0.1


def test_a_step_is_along_twice_the_slope_less_the_one_before():
    hp = ReLOAD(lr=0.2, dual_lr=0.05, budget=1.0)
    x = reload.start(jax.random.key(3), MDP, hp) | dict(price=jnp.float32(0.4))
    theta, price, last = np.asarray(x["logits"], float), 0.4, None
    step = jax.jit(lambda x, t: reload.ascent_descent(x, MDP, t, hp)[0])
    for t in range(4):
        x = step(x, t)
        pi = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
        chain = np.linalg.inv(np.eye(S) - GAMMA * np.einsum("sa,sap->sp", pi, P))
        r = R - price * C
        slope = r + GAMMA * P @ (chain @ (pi * r).sum(1)), paid(pi)[1] - 1.0
        last = slope if last is None else last  # nothing was before the first
        theta = theta + 0.2 * (2 * slope[0] - last[0])
        price = max(price + 0.05 * (2 * slope[1] - last[1]), 0.0)
        last = slope
        centred = lambda z: z - z.mean(1, keepdims=True)
        np.testing.assert_allclose(centred(np.asarray(x["logits"])), centred(theta), atol=1e-3)
        assert float(x["price"]) == pytest.approx(price, abs=1e-4)


def test_a_world_without_costs_is_refused():
    world = envs.make("tabular/chain")
    with pytest.raises(InputError, match="tabular/chain has 0 costs; reload needs one"):
        reload.make(world).init(jax.random.key(0), ReLOAD(), world)
