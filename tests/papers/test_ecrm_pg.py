"""The augmented problem of ECRM-PG, arXiv 2301.10932, against the risk measure itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.families.exact import best
from jaxrl.hyper import cast
from jaxrl.papers.robust import ecrm_pg
from jaxrl.papers.robust.ecrm_pg import ECRM

pytestmark = pytest.mark.equation("ecrm_pg")

MDP = envs.make("tabular/cliff").tables
GAMMA = 0.9


def cvar(costs, p, alpha):
    """The mean of the worst α, by sorting."""
    total, left = 0.0, alpha
    for i in np.argsort(-costs):
        share = min(p[i], left)
        total, left = total + share * costs[i], left - share
    return total / alpha


def risk_of(choice, risk, alpha):
    """J of a deterministic policy, from the definition: no η anywhere."""
    P, c, rho = (np.asarray(x, float) for x in (MDP.P, -MDP.r, MDP.rho))
    S = len(rho)
    row = P[np.arange(S), choice]
    cost = c[np.arange(S), choice]
    over = np.asarray(MDP.end)
    ahead = np.array([(1 - risk) * p @ cost + risk * cvar(cost, p, alpha) for p in row])
    later = np.linalg.solve(np.eye(S) - GAMMA * row, np.where(over, 0.0, GAMMA * ahead))
    return rho @ (cost + later)


@pytest.mark.parametrize(("risk", "alpha"), [(0.0, 0.5), (0.6, 0.1), (1.0, 0.05), (1.0, 1.0)])
def test_the_best_levels_give_the_risk_of_the_costs(risk, alpha):
    mdp = ecrm_pg.augmented(MDP, ECRM(gamma=GAMMA, risk=risk, alpha=alpha))
    rng, K = np.random.default_rng(0), 3
    solve = jax.jit(best)
    for _ in range(3):
        choice = rng.choice([0, 1, 3], 16)  # no policy that is sure to fall
        action = np.repeat(choice, K + 1)[:, None] * K + np.arange(K)
        rows = np.arange(len(action))[:, None]
        only = mdp.replace(P=mdp.P[rows, action], r=mdp.r[rows, action])
        cost = -float(only.rho @ solve(only, GAMMA))
        assert cost == pytest.approx(risk_of(choice, risk, alpha), rel=1e-4)


@functools.cache
def solved():
    world = envs.make("tabular/cliff")
    algo = ecrm_pg.make(world)
    hp = cast(ECRM(lr=1.0))
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 500))(jax.random.key(0))
    return algo, s, m


def test_natural_steps_reach_the_optimum():
    _, _, m = solved()
    assert abs(m["gap"][-1]) < 1e-3 < m["gap"][0]


def test_it_acts_with_a_level_in_memory():
    algo, s, _ = solved()
    obs, k = jnp.eye(16)[jnp.array([12, 12])], algo.memory(2)
    action, k = algo.act(s, obs, k, None, None)
    pair = int(np.argmax(s.pi[12 * 4]))  # 12, before any level
    assert (np.asarray(action) == pair // 3).all() and (np.asarray(k) == pair % 3 + 1).all()
    action, _ = algo.act(s, obs, k, None, None)
    assert int(action[0]) == int(np.argmax(s.pi[12 * 4 + int(k[0])])) // 3
