"""Best-of-both-worlds policy optimisation, arXiv 2302.09408, against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import envs
from jaxrl import episodic
from jaxrl.families.online import Seen, episodes
from jaxrl.hyper import cast
from jaxrl.papers.theory import best_of_both_worlds_po as paper
from jaxrl.papers.theory.best_of_both_worlds_po import BestOfBothWorlds

pytestmark = pytest.mark.equation("best_of_both_worlds_po")
H, S, A = 3, 4, 3


def drawn(seed=0):
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(A), (H, S)), jnp.float32)


@pytest.mark.parametrize(("c", "barrier", "size"), [(1, 0, 5), (30, 1, 500), (300, 0.1, 2e4)])
def test_ftrl_is_the_minimum_of_its_objective(c, barrier, size):
    """At the minimum the derivative L - c/√p - β/p is the same for every action: by Brent's
    method in its level, and each p by bisection."""
    L = size * np.random.default_rng(1).random(4)

    def p(level, x):  # the p at which x - c/√p - β/p is -level
        f = lambda q: x + level - c / np.sqrt(q) - barrier / q
        return float(brentq(f, 1e-14, 4.0, xtol=1e-15))  # type: ignore[arg-type]

    low = -L.min() + c / 2 + barrier / 4 + 1e-9
    level = brentq(lambda v: sum(p(v, x) for x in L) - 1, low, -L.min() + 10 * (c + barrier))
    got = paper.ftrl(jnp.asarray(L, jnp.float32), jnp.float32(c), barrier)
    np.testing.assert_allclose(got, [p(level, x) for x in L], rtol=2e-3, atol=1e-6)


def test_the_bonus_goes_backwards_dilated():
    mdp, pi = envs.make("tabular/steady").tables, np.asarray(drawn())
    b = np.random.default_rng(2).random((H, S))
    B = np.zeros((H + 1, S, A))
    for h in reversed(range(H)):
        for s in range(S):
            for a in range(A):
                ahead = sum(
                    float(mdp.P[s, a, x]) * (pi[h, x] if h == H - 1 else pi[h + 1, x]) @ B[h + 1, x]
                    for x in range(S)
                )
                B[h, s, a] = b[h, s] + (1 + 1 / H) * ahead
    np.testing.assert_allclose(paper.dilated(jnp.asarray(b), drawn(), mdp.P), B[:H], rtol=1e-5)


def test_losses_weighed_by_their_importance_have_the_mean_q():
    world = envs.make("tabular/steady", gap=0.6)
    mdp, pi = world.tables, drawn(3)
    play, n = episodes(world).play, 100_000

    def one(key):
        seen = play(jnp.zeros((H, S, A)), pi, key, mdp, 0, None)[1]
        return paper.estimate(seen, pi)

    got = jax.jit(lambda keys: jax.vmap(one)(keys).mean(0))(jax.random.split(jax.random.key(0), n))
    r = (mdp.r - mdp.r.min()) / (mdp.r.max() - mdp.r.min())
    Q, _ = episodic.values(mdp.P, 1 - r, pi)
    p = np.asarray(episodic.occupancy(mdp.P, mdp.rho, pi)[..., None] * pi)
    error = np.asarray(got - Q) * np.sqrt(n * p) / H
    assert np.abs(error).max() < 4


@pytest.mark.parametrize("regulariser", ["tsallis", "shannon"])
@pytest.mark.parametrize("rate", ["adaptive", "fixed"])
def test_a_round_adds_its_estimate_less_its_bonus(regulariser, rate):
    """Against the formulas in NumPy, state by state."""
    hp = cast(BestOfBothWorlds(lr=2.0, bonus=3.0, regulariser=regulariser, rate=rate))
    hp, mdp, pi = hp.replace(horizon=jnp.float32(50)), envs.make("tabular/steady").tables, drawn(4)
    rng = np.random.default_rng(5)
    L, N, mu = rng.random((H, S, A)), 40 * rng.random((H, S)), rng.dirichlet(np.ones(S), H)
    seen = Seen(
        jnp.array([1, 0, 3]), jnp.array([2, 1, 0]), jnp.array([1.0, 0.0, 1.0]), jnp.asarray(mu)
    )
    new = paper.learn(dict(L=jnp.asarray(L), N=jnp.asarray(N)), seen, pi, mdp, 0, hp)
    q, p = np.zeros((H, S, A)), np.asarray(pi)
    for h, (s, a, to_go) in enumerate([(1, 2, 2.0), (0, 1, 1.0), (3, 0, 1.0)]):
        q[h, s, a] = to_go / (mu[h, s] * p[h, s, a])
    doubt = np.sqrt(p) * (1 - p) if regulariser == "tsallis" else -p * np.log(p)
    if rate == "fixed":
        more = (H / 2) / mu / (2 * np.sqrt(50))
    else:
        more = (H / 2) * (np.sqrt(1 + N + 1 / mu) - np.sqrt(1 + N))
    B = paper.dilated(jnp.asarray(3 * more * doubt.sum(-1)), pi, mdp.P)
    want = L + q - np.asarray(B)
    np.testing.assert_allclose(new["L"], want - want.min(-1, keepdims=True), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(new["N"], N + 1 / mu, rtol=1e-5)
    c = np.full((H, S), (H / 2) * np.sqrt(50)) if rate == "fixed" else (H / 2) * np.sqrt(1 + N)
    got = paper.policy(dict(L=jnp.asarray(L), N=jnp.asarray(N)), mdp, hp)
    if regulariser == "shannon":
        np.testing.assert_allclose(got, jax.nn.softmax(-L / c[..., None]), rtol=1e-4)
    else:
        level = L - c[..., None] / np.sqrt(got) - 0.1 / np.asarray(got)
        np.testing.assert_allclose(level - level[..., :1], 0 * L, atol=2e-3 * c.max())
