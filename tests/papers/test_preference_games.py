"""Self-play on games of preferences: losses against loops, updates against closed forms, and the
equilibria that they come to."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import core, preferences
from jaxrl.hyper import Linear
from jaxrl.papers.preference import dno, egpo, inpo, nash_mp, online_ipo, self_play_po
from tests.papers.preferences_by_hand import algorithm, exact, policy, problems, said, tables

rng = np.random.default_rng(0)
POLICY, REF, OLD, SAMPLER = rng.normal(size=(4, 5, 2)) - 3
WIN = rng.random((5, 2))
IPO, MP = online_ipo.OnlineIPO, nash_mp.NashMP
BETA = 0.3
DOWN = dict(lr=Linear(0.03, 0.0), horizon=800.0)  # Adam at a constant rate has bursts at the end


@functools.cache
def games(**sizes):
    return problems("preference/game", **sizes)


@functools.cache
def starts():
    """Policies [20, 1, 16] that are not the references."""
    logits = 0.7 * jax.random.normal(jax.random.key(1), tables(games())[0].shape)
    return jax.nn.log_softmax(logits)


@functools.cache
def nash(beta, **sizes):
    """The equilibria [20, 1, N], which are so as their gap is 0."""
    ref, _, P, _ = tables(games(**sizes))
    best = jax.jit(preferences.nash)(P, ref, beta)
    np.testing.assert_allclose(preferences.duality_gap(best, P, ref, beta), 0, atol=1e-5)
    return best


def runs(module, cls, worlds, rows, n, **how):
    """Exact runs of n iterations on each problem, in one program: for each row, a start [20, X, N]
    and what its hyperparameters are, the policies [20, n, X, N] and metrics [20, n]."""
    algo, hp, many = algorithm(module, cls, worlds), exact(cls, **how), len(rows[0][0])

    def run(key, world, log_p, own):
        own = hp.replace(**own)
        s = algo.init(key, own, world)
        s = s.replace(params=dict(params={**s.params["params"], "table": log_p}))

        def one(s, t):
            s, metrics = algo.step(s, t, own, world)
            return s, (policy(s), metrics)

        return jax.lax.scan(one, s, jnp.arange(n))[1]

    every = [jax.tree.map(lambda x: jnp.full(many, x, jnp.float32), own) for _, own in rows]
    every = jax.tree.map(lambda *x: jnp.concatenate(x), *every)
    log_p = jnp.concatenate([start for start, _ in rows])
    worlds = jax.tree.map(lambda x: jnp.concatenate([x] * len(rows)), worlds)
    keys = jax.random.split(jax.random.key(0), len(log_p))
    out = jax.jit(jax.vmap(run))(keys, worlds, log_p, every)
    cut = lambda i: jax.tree.map(lambda x: x[i : i + many], out)
    return [cut(i) for i in range(0, len(log_p), many)]


HOW = {  # iterations, and what they are like
    "online_ipo": (online_ipo, IPO, 800, DOWN),
    "egpo": (egpo, egpo.EGPO, 200, dict(lr=0.8)),
    "nash_mp": (nash_mp, MP, 10, dict(updates=200, eta=2 * BETA)),
    "inpo": (inpo, inpo.INPO, 12, dict(updates=200, eta=0.9)),
}


def still(lr):
    return jax.tree.map(jnp.zeros_like, lr)


@functools.cache
def three(slug):
    """Runs from references, from other policies, and at equilibria, where nothing moves."""
    module, cls, n, how = HOW[slug]
    lr = exact(cls, **how).lr
    begun = (tables(games())[0], lr), (starts(), lr), (nash(BETA), still(lr))
    return runs(module, cls, games(), [(x, dict(beta=BETA, lr=lr)) for x, lr in begun], n, **how)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


class Asked:
    """What losses look at in sets."""

    win, sampler, mask = jnp.asarray(WIN), jnp.asarray(SAMPLER), jnp.ones((5, 2, 1))


def check(module, hp, one, slope, each=None):
    """A loss f(i) of five pairs, and its gradient (f_1(i), f_2(i)) in their log-probabilities."""

    def of(p):
        tokens = (p[..., None], REF[..., None], OLD[..., None])
        return module.loss(said(p, REF, OLD, tokens), Asked, hp)

    np.testing.assert_allclose(of(POLICY), [one(i) for i in range(5)], rtol=1e-4)
    got = jax.grad(lambda p: of(p).sum())(jnp.asarray(POLICY))
    np.testing.assert_allclose(got, [slope(i) for i in range(5)], rtol=1e-4, atol=1e-6)


# ---- losses by hand


def squares(module, hp, gap):
    check(module, hp, lambda i: gap(i) ** 2, lambda i: (2 * gap(i), -2 * gap(i)))


def h(i, ref=1.0, old=0.0):
    """The margin of pair i, less so much of the reference's and of the old policy's."""
    of = lambda x: x[i, 0] - x[i, 1]
    return of(POLICY) - ref * of(REF) - old * of(OLD)


@pytest.mark.equation("online_ipo")
def test_online_ipo_by_hand():
    squares(online_ipo, IPO(beta=0.3), lambda i: h(i) - 1 / 0.6)


@pytest.mark.equation("egpo")
def test_egpo_by_hand():
    squares(egpo, egpo.EGPO(beta=0.3), lambda i: h(i) - (WIN[i, 0] - WIN[i, 1]) / 0.3)


@pytest.mark.equation("inpo")
def test_inpo_by_hand():
    gap = lambda i: h(i, 0.3 / 0.8, (0.8 - 0.3) / 0.8) - 1 / 1.6
    squares(inpo, inpo.INPO(beta=0.3, eta=0.8), gap)


@pytest.mark.equation("dno")
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_dno_by_hand(beta):
    s = [sigmoid(WIN[i, 0] - WIN[i, 1]) for i in range(5)]
    d = [0.8 * h(i, beta / 0.8, 1 - beta / 0.8) for i in range(5)]
    one = lambda i: -s[i] * math.log(sigmoid(d[i])) - (1 - s[i]) * math.log(sigmoid(-d[i]))
    more = lambda i: 0.8 * (sigmoid(d[i]) - s[i])
    check(dno, dno.DNO(beta=beta, eta=0.8), one, lambda i: (more(i), -more(i)))


@pytest.mark.equation("nash_mp")
def test_nash_mp_by_hand():
    def parts(i, k):
        p = POLICY[i, k]
        ratio = math.exp(p - SAMPLER[i, k]) / 2
        cost = 0.5 - WIN[i, k] + 0.3 * (p - REF[i, k]) + 0.3 / 0.8 * (p - OLD[i, k])
        return ratio * cost, ratio * (cost + 0.3 + 0.3 / 0.8)

    one = lambda i: parts(i, 0)[0] + parts(i, 1)[0]
    check(nash_mp, MP(beta=0.3, eta=0.8), one, lambda i: [parts(i, k)[1] for k in (0, 1)])


@pytest.mark.equation("self_play_po")
def test_spo_by_hand():
    def parts(i, k):
        r, A = math.exp(POLICY[i, k] - OLD[i, k]), WIN[i, k] - 0.5
        inside = r <= 1.2 if A > 0 else r >= 0.8
        return -min(r * A, min(max(r, 0.8), 1.2) * A) / 2, -r * A / 2 if inside else 0.0

    one = lambda i: parts(i, 0)[0] + parts(i, 1)[0]
    check(self_play_po, self_play_po.SelfPlay(), one, lambda i: [parts(i, k)[1] for k in (0, 1)])


# ---- gradients and updates


@pytest.mark.equation("online_ipo")
def test_online_ipo_is_self_play():
    """∇L = -4/τ ∇[P(π > sg[π]) - τ KL(π || π_ref)]."""
    ref, _, P, _ = tables(games())
    i, j = jnp.divmod(jnp.arange(256), 16)

    def both(log_p, ref, P):
        def ipo(x):
            x = jax.nn.log_softmax(x)
            pair = lambda y: jnp.stack([y[i], y[j]], 1)
            fixed = jnp.exp(jax.lax.stop_gradient(x[i] + x[j]))
            each = online_ipo.loss(said(pair(x), pair(ref)), None, IPO(beta=BETA))
            return (fixed * 2 * P[i, j] * each).sum()  # a pair is drawn in two orders

        def J(x):
            p = jax.nn.softmax(x)
            kl = (p * (jax.nn.log_softmax(x) - ref)).sum()
            return p @ P @ jax.lax.stop_gradient(p) - BETA * kl

        return jax.grad(ipo)(log_p), -4 / BETA * jax.grad(J)(log_p)

    got, want = jax.jit(jax.vmap(both))(starts()[:, 0], ref[:, 0], P[:, 0])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    family = three("online_ipo")[1][1]["grad_norm"][:, 0]
    np.testing.assert_allclose(family, jnp.linalg.norm(want, axis=-1), rtol=1e-4)


@pytest.mark.equation("egpo")
def test_a_step_of_egpo_is_linear():
    """θ' = (1 - ηβ) θ + ηβ (θ_ref + P π_half / β), up to a constant, with ηβ = 4 lr / N."""
    ref, _, P, _ = tables(games())
    theta, ref, share = np.asarray(starts(), float), np.asarray(ref, float), 4 * 0.8 / 16

    def step(against):
        w = np.einsum("gxij,gxj->gxi", P, np.exp(against))
        new = (1 - share) * theta + share * (ref + w / BETA)
        return new - np.log(np.exp(new).sum(-1, keepdims=True))

    got = three("egpo")[1][0][:, 0]
    np.testing.assert_allclose(got, step(step(theta)), atol=2e-5)
    assert np.abs(got - step(theta)).max() > 0.01


@pytest.mark.equation("egpo")
def test_egpo_comes_to_the_equilibrium_where_its_first_step_alone_goes_round():
    ref, _, P, _ = tables(games())
    beta, share = 0.05, 0.2
    rows = [(ref, dict(beta=beta, lr=share * 16 / 4))]
    [(_, metrics)] = runs(egpo, egpo.EGPO, games(), rows, 100)
    alone = ref
    for _ in range(100):
        target = ref + preferences.win_rate(P, alone) / beta
        alone = preferences.normalised((1 - share) * alone + share * target)
    round_ = preferences.duality_gap(alone, P, ref, beta)
    assert round_.mean() > 0.05  # in some games it comes there, too
    assert metrics["gap"][:, 0].mean() > 0.05 and metrics["gap"][:, -1].max() < 1e-5


def weighed(a, b, c, win):
    """What is as π_t^a π_ref^b exp(c win), from `starts`."""
    return preferences.normalised(a * starts() + b * tables(games())[0] + c * win)


def wins(against):
    return preferences.win_rate(tables(games())[2], against)


@pytest.mark.equation("inpo")
def test_minimiser_of_inpo_is_mirror_descent():
    eta = HOW["inpo"][3]["eta"]
    want = weighed(1 - BETA / eta, BETA / eta, 1 / eta, wins(starts()))  # (5)
    assert preferences.total_variation(starts(), want).min() > 0.05
    np.testing.assert_allclose(three("inpo")[1][0][:, 0], want, atol=1e-3)


@pytest.mark.equation("dno")
def test_minimiser_of_dno_is_exponential_weights():
    """(9), and the P(π_{t+1} > π_t) >= 1/2 + η KL(π_{t+1} || π_t) that follows; with β appendix
    A's."""
    eta, betas, w = 0.4, (0.0, 0.1), wins(starts())
    rows = [(starts(), dict(beta=beta)) for beta in betas]
    out = runs(dno, dno.DNO, games(), rows, 1, eta=eta, updates=600)
    plain, own = (x[0][:, 0] for x in out)
    for got, beta in zip((plain, own), betas):
        want = weighed(1 - beta / eta, beta / eta, 1 / eta, w)
        np.testing.assert_allclose(got, want, atol=1e-3)
    kl = preferences.kl(plain, starts())
    assert kl.max() > 0.01
    assert (preferences.expected(plain, w) - 0.5 - eta * kl).min() > 0


@pytest.mark.equation("nash_mp")
def test_an_iteration_of_nash_mp_is_mirror_prox():
    """Both halves near π_k: π ∝ [π_k π_ref^η exp((η/β) P(y > opponent))]^(1/(1+η))."""
    eta = HOW["nash_mp"][3]["eta"]
    powers = 1 / (1 + eta), eta / (1 + eta), eta / BETA / (1 + eta)
    half = weighed(*powers, wins(starts()))
    want = weighed(*powers, wins(half))
    assert preferences.total_variation(half, want).max() > 0.01
    np.testing.assert_allclose(three("nash_mp")[1][0][:, 0], want, atol=1e-3)


# ---- where they come to


def falls(policies, start, best):
    """KL(π* || π_k) falls by 1 + 2β at least in an iteration, until it is rounding."""
    kl = preferences.kl(best[:, None], jnp.concatenate([start[:, None], policies], 1))[..., 0]
    assert kl[:, 0].min() > 1e-3
    assert (kl[:, 1:] < kl[:, :-1] / (1 + 2 * BETA) + 1e-6).all()


@pytest.mark.equation("nash_mp")
def test_the_rate_of_nash_mp():
    policies, _ = three("nash_mp")[1]
    falls(policies, starts(), nash(BETA))


@pytest.mark.equation("nash_mp")
@pytest.mark.parametrize("size, length", [(3, 2), (4, 3)], ids=["9", "64"])
def test_the_rate_of_nash_mp_is_that_of_any_number_of_responses(size, length):
    sizes = dict(n=4, size=size, length=length)
    ref = tables(games(**sizes))[0]
    rows = [(ref, dict(beta=BETA))]
    [(policies, _)] = runs(nash_mp, MP, games(**sizes), rows, 4, eta=2 * BETA, updates=200)
    falls(policies, ref, nash(BETA, **sizes))


@pytest.mark.parametrize("slug", [pytest.param(s, marks=pytest.mark.equation(s)) for s in HOW])
def test_the_last_policy_is_the_regularised_nash_policy(slug):
    for policies, metrics in three(slug)[:2]:
        far = preferences.total_variation(policies, nash(BETA)[:, None])[..., 0]
        assert far[:, 0].mean() > 0.02 and far[:, -1].max() < 0.01
        np.testing.assert_allclose(far, metrics["tv"], atol=1e-4)
    assert three(slug)[2][1]["grad_norm"][:, 0].max() < 1e-4


@pytest.mark.equation("online_ipo")
def test_ipo_md_comes_to_its_own_fixed_point():
    """The mixture is the Nash policy of τ / (1 - mix), the policy the best answer to it."""
    ref, _, P, _ = tables(games())
    mixture = nash(2 * BETA)
    best = preferences.gibbs(ref, preferences.win_rate(P, mixture), BETA)
    np.testing.assert_allclose(preferences.normalised((best + ref) / 2), mixture, atol=1e-4)
    assert preferences.total_variation(best, nash(BETA)).mean() > 0.01
    lr = DOWN["lr"]
    rows = [(x, dict(beta=BETA, mix=0.5, lr=lr)) for x, lr in ((ref, lr), (best, still(lr)))]
    (policies, metrics), (_, there) = runs(online_ipo, IPO, games(), rows, 800, **DOWN)
    assert there["grad_norm"][:, 0].max() < 1e-4
    far = preferences.total_variation(policies, best[:, None])[..., 0]
    assert far[:, -1].max() < 0.002
    np.testing.assert_allclose(far, metrics["tv"], atol=1e-4)


@pytest.mark.equation("self_play_po")
def test_the_mean_policy_of_spo_is_near_the_minimax_winner():
    """With a step of 1 / √T the gap of the mean of T policies falls as 1 / √T; that of the last
    does not fall."""
    world = envs.make("preference/cycle")
    T = np.array([100, 1_000, 10_000])
    algo = self_play_po.make(world)
    hp = exact(self_play_po.SelfPlay, beta=0.0, responses=2, candidates=2)

    def run(lr):
        return core.train(algo, jax.random.key(0), hp.replace(lr=lr), world, int(T[-1]))[1]

    metrics = jax.jit(jax.vmap(run))(jnp.asarray(1 / np.sqrt(T), jnp.float32))
    mean, last = metrics["gap_average_plain"], metrics["gap_plain"]
    assert (mean[np.arange(3), T - 1] < 6 / np.sqrt(T)).all()
    assert min(last[i, n // 2 : n].min() for i, n in enumerate(T)) > 0.1
