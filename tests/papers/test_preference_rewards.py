"""Losses of pairs with rewards, and DPO's with another weight, term or sampler: against loops over
their formulas, and their closed forms."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import core, hyper, preferences
from jaxrl.completions import task
from jaxrl.papers.preference import copg, dpo, exo, psipo, rebel, rpo, rso, wpo
from tests.papers.preferences_by_hand import (
    TWENTY,
    algorithm,
    exact,
    policy,
    problems,
    said,
    tables,
    train,
)

rng = np.random.default_rng(0)
ROWS, K, L = 5, 4, 3
POLICY, REF, OLD, SCORE = (rng.normal(size=(ROWS, K)) - off for off in (3, 3, 3, 0))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def check(module, hp, one, n=2):
    """A loss against a loop: its value, and its gradient in log π by differences of the loop's.

    one: (log π, row) -> the loss of a row of n log-probabilities.
    """
    p, b = POLICY[:, :n], SimpleNamespace(score=jnp.asarray(SCORE[:, :n], jnp.float32))
    of = lambda p: module.loss(said(p, REF[:, :n], OLD[:, :n]), b, hp)
    values = [one(p[i], i) for i in range(ROWS)]
    np.testing.assert_allclose(of(p), values, rtol=1e-5)
    slopes, step = np.zeros_like(p), 1e-6
    for i, j in np.ndindex(p.shape):
        up, down = p[i].copy(), p[i].copy()
        up[j] += step
        down[j] -= step
        slopes[i, j] = (one(up, i) - one(down, i)) / (2 * step)
    got = jax.grad(lambda p: of(p).sum())(jnp.asarray(p, jnp.float32))
    np.testing.assert_allclose(got, slopes, rtol=1e-4, atol=1e-5)


def twice(x):
    """Forty rows of twenty."""
    return jax.tree.map(lambda y: jnp.concatenate([y, y]), x)


def forty(module, cls, worlds, starts, n=1, updates=1, **each):
    """Metrics [40, n] and states of exact iterations from policies [40, X, N]; `each` has the
    hyperparameters of each row."""
    algo, hp = algorithm(module, cls, worlds), exact(cls, updates=updates)

    def run(key, world, start, each):
        own = hp.replace(**each)
        s = algo.init(key, own, world)
        s = s.replace(params=dict(params={**s.params["params"], "table": start}))
        return core.resume(algo, s, 0, own, world, n)

    keys = jax.random.split(jax.random.key(0), len(starts))
    state, metrics = jax.jit(jax.vmap(run))(keys, worlds, starts, each)
    return {k: np.asarray(v) for k, v in metrics.items()}, state


# ---- REBEL


@pytest.mark.equation("rebel")
def test_rebel_by_hand():
    beta, eta = 0.3, 0.7

    def one(p, i):
        left = (p[0] - OLD[i, 0]) - (p[1] - OLD[i, 1])
        R = [SCORE[i, j] - beta * (OLD[i, j] - REF[i, j]) for j in (0, 1)]
        return (left / eta - (R[0] - R[1])) ** 2

    check(rebel, rebel.REBEL(beta=beta, eta=eta), one)


@pytest.mark.equation("rebel")
def test_an_iteration_of_rebel_is_a_step_of_mirror_descent():
    """From any policy, if its regression is solved: π_t exp(η R), R with the KL or without."""
    worlds, eta, beta = twice(problems()), jnp.full(40, 0.7), jnp.repeat(jnp.array([0.0, 0.3]), 20)
    ref, r = tables(worlds)[:2]
    start = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), ref.shape))
    how = dict(lr=jnp.full(40, 0.02), beta=beta, eta=eta)
    _, state = forty(rebel, rebel.REBEL, worlds, start, updates=1500, **how)
    R = r - beta[:, None, None] * (start - ref)
    step = preferences.normalised(start + eta[:, None, None] * R)
    assert preferences.total_variation(start, step).min() > 0.05
    assert preferences.total_variation(policy(state), step).max() < 1e-3


# ---- CoPG


@pytest.mark.equation("copg")
@pytest.mark.parametrize("n", [2, K])
def test_copg_by_hand(n):
    beta = 0.3

    def one(p, i):
        R = [SCORE[i, j] - beta * (p[j] - REF[i, j]) for j in range(n)]
        return sum((R[a] - R[b]) ** 2 for a in range(n) for b in range(a)) / (n - 1)

    check(copg, copg.CoPG(beta=beta), one, n)


@pytest.mark.equation("copg")
def test_copg_is_a_policy_gradient_whose_baseline_is_the_other_response():
    beta, p, ref, r = 0.3, POLICY[:, :2], REF[:, :2], SCORE[:, :2]
    b = SimpleNamespace(score=jnp.asarray(r))
    of = lambda p: copg.loss(said(p, ref), b, copg.CoPG(beta=beta)).sum()
    R = r - beta * (p - ref)
    expect = -2 * beta * (R - R[:, ::-1])
    np.testing.assert_allclose(jax.grad(of)(jnp.asarray(p, jnp.float32)), expect, rtol=1e-4)


@pytest.mark.equation("copg")
def test_copg_of_rewards_of_a_quarter_is_ipo():
    """L = β² IPO's."""
    w, beta = said(POLICY[:, :2], REF[:, :2]), 0.3
    quarter = SimpleNamespace(score=jnp.tile(jnp.array([0.25, -0.25]), (ROWS, 1)))
    got = copg.loss(w, quarter, copg.CoPG(beta=beta))
    np.testing.assert_allclose(got, beta**2 * psipo.loss(w, None, psipo.IPO(beta=beta)), rtol=1e-5)


@pytest.mark.equation("copg")
def test_copg_comes_to_gibbs_policy_whoever_wrote_the_pairs():
    worlds = twice(problems())
    cover = task(worlds).cover
    uniform = jnp.full_like(cover, 1 / cover.shape[-1])
    odd = jax.random.dirichlet(jax.random.key(0), 16 * uniform[:TWENTY])
    covers = jnp.concatenate([0.5 * uniform[:TWENTY] + 0.5 * odd, cover[:TWENTY]])
    worlds = worlds.replace(env=task(worlds).replace(cover=covers))
    metrics, state = train(copg, copg.CoPG, 1000, worlds)
    one, two = policy(state)[:TWENTY], policy(state)[TWENTY:]
    assert metrics["tv"][:, 0].min() > 0.05 and metrics["tv"][:, -1].max() < 0.01
    assert preferences.total_variation(one, two).max() < 0.01


# ---- EXO


def distribution(x):
    total = sum(math.exp(v) for v in x)
    return [math.exp(v) / total for v in x]


@pytest.mark.equation("exo")
@pytest.mark.parametrize("forward", [False, True])
def test_exo_of_rewards_by_hand(forward):
    beta_pi, beta_r = 0.8, 0.5

    def one(p, i):
        mine = distribution([beta_pi * (p[j] - REF[i, j]) for j in range(K)])
        goal = distribution([SCORE[i, j] / beta_r for j in range(K)])
        if forward:
            return -sum(g * math.log(m) for m, g in zip(mine, goal))
        return sum(m * math.log(m / g) for m, g in zip(mine, goal))

    check(exo, exo.EXO(beta_pi=beta_pi, beta=beta_pi * beta_r, forward=forward), one, K)


@pytest.mark.equation("exo")
def test_exo_of_labels_by_hand():
    """Eq. 16."""
    beta_pi, e = 0.8, 1e-3

    def one(p, i):
        z = beta_pi * ((p[0] - REF[i, 0]) - (p[1] - REF[i, 1]))
        s = sigmoid(z)
        return s * (math.log(s) - math.log(1 - e)) + (1 - s) * (math.log(1 - s) - math.log(e))

    check(exo, exo.EXO(beta_pi=beta_pi, eps=e), one)


@pytest.mark.equation("exo")
def test_exo_of_labels_that_are_forward_and_sure_is_dpo():
    w, b = said(POLICY[:, :2], REF[:, :2]), SimpleNamespace(score=jnp.zeros((ROWS, 2)))
    got = exo.loss(w, b, exo.EXO(beta_pi=0.3, eps=1e-9, forward=True))
    np.testing.assert_allclose(got, dpo.loss(w, None, dpo.DPO(beta=0.3)), rtol=1e-5)


@pytest.mark.equation("exo")
def test_where_exo_of_labels_comes_to_rest():
    """At the margin (2P - 1) log((1 - ε)/ε), which is not log P/(1 - P), DPO's."""
    p, e = jnp.linspace(0.03, 0.97, TWENTY), 1e-3
    b, hp = SimpleNamespace(score=jnp.zeros((TWENTY, 2))), exo.EXO(beta_pi=1.0, eps=e)
    one = lambda z: exo.loss(said(jnp.stack([z, 0 * z], 1), jnp.zeros((TWENTY, 2))), b, hp)
    expect = (2 * p - 1) * math.log((1 - e) / e)
    zs = expect + jnp.linspace(-3, 3, 601)[:, None]
    value = jax.vmap(lambda z: p * one(z) + (1 - p) * one(-z))(zs)
    lowest = jnp.take_along_axis(zs, value.argmin(0)[None], 0)[0]
    np.testing.assert_allclose(lowest, expect, atol=0.05)


@pytest.mark.equation("exo")
def test_exo_comes_to_gibbs_policy():
    """Of β = β_π β_r."""
    metrics, _ = train(exo, exo.EXO, 150, updates=10, beta_pi=0.8, beta=0.8)
    assert metrics["tv"][:, 0].min() > 0.05 and metrics["tv"][:, -1].max() < 0.01


@pytest.mark.equation("exo")
def test_among_many_responses_exo_goes_where_rl_does():
    """At β_π = 1 its gradient becomes that of -J / β as K grows."""
    worlds = problems()
    ref, r = (x[:, 0] for x in tables(worlds)[:2])
    theta = jax.random.normal(jax.random.key(2), ref.shape)
    hp, n = exact(exo.EXO, beta=0.5), 2**14

    def cosine(K, theta, ref, r, key):
        at = jax.random.categorical(key, ref, shape=(n // K, K))

        def estimate(theta):
            log_p = jax.nn.log_softmax(theta)
            return exo.loss(said(log_p[at], ref[at]), SimpleNamespace(score=r[at]), hp).mean()

        true = lambda x: -preferences.objective(jax.nn.log_softmax(x), ref, r, 0.5)
        g, h = jax.grad(estimate)(theta), jax.grad(true)(theta)
        return (g * h).sum() / jnp.linalg.norm(g) / jnp.linalg.norm(h)

    keys = jax.random.split(jax.random.key(3), TWENTY)
    of = lambda K: jax.jit(jax.vmap(functools.partial(cosine, K)))(theta, ref, r, keys)
    few, many = of(2), of(512)
    assert few.mean() < 0.98 < 0.99 < many.mean() and many.min() > 0.95


# ---- RPO


@pytest.mark.equation("rpo")
def test_rpo_by_hand():
    beta, eta = 0.3, 0.7

    def one(p, i):
        h = (p[0] - REF[i, 0]) - (p[1] - REF[i, 1])
        return -math.log(sigmoid(beta * h)) + eta * beta * -p[0]

    check(rpo, rpo.RPO(beta=beta, eta=eta), one)


@pytest.mark.equation("rpo")
def test_rpo_without_its_term_is_dpo():
    """Bit for bit."""
    of = lambda loss: jax.jit(jax.value_and_grad(lambda p: loss(said(p, REF[:, :2])).sum()))
    p = jnp.asarray(POLICY[:, :2], jnp.float32)
    one = of(lambda w: rpo.loss(w, None, hyper.cast(rpo.RPO(beta=0.3, eta=0.0))))(p)
    two = of(lambda w: dpo.loss(w, None, hyper.cast(dpo.DPO(beta=0.3))))(p)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.equation("rpo")
def test_rpo_leaves_what_no_pair_covers():
    """DPO's gradient is 0 there: these parameters stay as they are."""
    worlds = twice(problems(coverage=0.5))
    ref, _, _, cover = tables(worlds)
    eta = jnp.repeat(jnp.array([0.0, 0.5]), TWENTY)
    _, state = forty(rpo, rpo.RPO, worlds, ref, 200, eta=eta)
    moved = jnp.where(cover == 0, state.params["params"]["table"] - ref, 0)
    np.testing.assert_allclose(moved[:TWENTY], 0, atol=1e-2)
    uncovered = jnp.where(cover == 0, jnp.exp(policy(state)), 0).sum(-1)
    assert (uncovered[TWENTY:] < 0.5 * uncovered[:TWENTY]).all()


# ---- WPO


@pytest.mark.equation("wpo")
def test_wpo_by_hand():
    """Eq. 2 token by token; the gradient is DPO's, times the weight."""
    beta = 0.3
    logits = rng.normal(size=(ROWS, 2, L, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    token, length = p.argmax(-1), rng.integers(1, L + 1, (ROWS, 2))
    token[::2] = rng.integers(0, 5, token[::2].shape)
    ref = rng.normal(size=(ROWS, 2)) - 3
    mask = (np.arange(L) < length[..., None]).astype(np.float32)
    values, slopes, seen = [], [], []
    for i in range(ROWS):
        logs, log_w = [], []
        for j in range(2):
            each = [p[i, j, t, token[i, j, t]] for t in range(length[i, j])]
            squares = [sum(v * v for v in p[i, j, t]) for t in range(length[i, j])]
            logs.append(sum(map(math.log, each)))
            terms = [math.log(q) - math.log(s) for q, s in zip(each, squares)]
            log_w.append(sum(terms) / length[i, j])
        h = (logs[0] - ref[i, 0]) - (logs[1] - ref[i, 1])
        W = min(1.0, math.exp(sum(log_w)))
        seen.append(W)
        values.append(-W * math.log(sigmoid(beta * h)))
        slopes.append([-W * beta * sigmoid(-beta * h), W * beta * sigmoid(-beta * h)])
    assert min(seen) < 1 == max(seen)
    chosen = np.log(np.take_along_axis(p, token[..., None], -1)[..., 0]) * mask
    b, hp = SimpleNamespace(mask=jnp.asarray(mask)), wpo.WPO(beta=beta)

    def of(policy):
        each = [chosen + (policy - chosen.sum(-1))[..., None] * mask / mask.sum(-1)[..., None]] * 3
        w = said(policy, ref, each=each)._replace(squares=jnp.asarray((p * p).sum(-1)))
        return wpo.loss(w, b, hp)

    policy = jnp.asarray(chosen.sum(-1), jnp.float32)
    np.testing.assert_allclose(of(policy), values, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda p: of(p).sum())(policy), slopes, rtol=1e-4)


@pytest.mark.equation("wpo")
def test_wpo_of_a_uniform_policy_is_dpo():
    """Whatever it writes has the weight 1."""
    each = np.full((ROWS, 2, L), math.log(1 / 5))
    w = said(each.sum(-1), REF[:, :2], each=[each] * 3)._replace(squares=jnp.full(each.shape, 0.2))
    b = SimpleNamespace(mask=jnp.ones(each.shape))
    np.testing.assert_allclose(wpo.weight(w, b), 1, rtol=1e-6)
    got = wpo.loss(w, b, wpo.WPO(beta=0.3))
    np.testing.assert_allclose(got, dpo.loss(w, None, dpo.DPO(beta=0.3)), rtol=1e-5)


def expected_wpo(log_p, ref, P, cover, beta):
    """The loss of all pairs of responses of two tokens, from a table's probabilities."""
    N = len(log_p)
    V = math.isqrt(N)
    p = np.exp(log_p).reshape(V, V)
    start = p.sum(1)
    after = p / start[:, None]
    squares = (start**2).sum(), (after**2).sum(1)
    log_w = [
        (math.log(start[a] / squares[0]) + math.log(after[a, b] / squares[1][a])) / 2
        for a in range(V)
        for b in range(V)
    ]
    total = 0.0
    for i in range(N):
        for j in range(N):
            h = beta * ((log_p[i] - ref[i]) - (log_p[j] - ref[j]))
            one = -P[i, j] * math.log(sigmoid(h)) - (1 - P[i, j]) * math.log(sigmoid(-h))
            total += cover[i] * cover[j] * min(1, math.exp(log_w[i] + log_w[j])) * one
    return total


@pytest.mark.equation("wpo")
def test_wpo_of_all_pairs_by_hand_and_its_optimum():
    """From any policy; and weights leave the optimum of soft labels where it is."""
    worlds, beta = twice(problems()), 0.5
    ref, r, P, cover = tables(worlds)
    some = jax.nn.log_softmax(jax.random.normal(jax.random.key(5), ref.shape))
    starts = jnp.concatenate([some[:TWENTY], preferences.gibbs(ref, r, beta)[TWENTY:]])
    metrics, _ = forty(wpo, wpo.WPO, worlds, starts, beta=jnp.full(40, beta))
    assert metrics["grad_norm"][:TWENTY].min() > 1e-3
    assert metrics["grad_norm"][TWENTY:].max() < 1e-5
    rows = [np.asarray(x[:, 0], float) for x in (starts, jax.nn.log_softmax(ref), P, cover)]
    expect = [expected_wpo(*(x[i] for x in rows), beta) for i in range(40)]
    np.testing.assert_allclose(metrics["loss"][:, 0], expect, rtol=1e-4)


# ---- RSO


def accepted(score, u, beta, K):
    """Algorithm 1 as it is written: sweeps, of which u has the coins [sweeps, N]."""
    left, out = list(range(len(score))), []
    for coins in u:
        most = max(score[i] for i in left)
        mine = []
        for i in left:
            if len(out) == K:
                return out
            if coins[i] < math.exp((score[i] - most) / beta):
                out.append(i)
                mine.append(i)
        left = [i for i in left if i not in mine]
    return out


@pytest.mark.equation("rso")
@pytest.mark.parametrize("beta", [0.1, 0.5, 50.0])
def test_algorithm_1_by_hand(beta):
    rows, N, k = 32, 12, 4
    score = jax.random.normal(jax.random.key(0), (rows, N))
    key = jax.random.key(1)
    got = rso.rejection(score, key, rso.RSO(beta=beta, responses=k, candidates=N))
    u = np.asarray(jax.random.uniform(key, (k, rows, N)))
    expect = [accepted(np.asarray(score[i]).tolist(), u[:, i], beta, k) for i in range(rows)]
    np.testing.assert_array_equal(got, expect)
    if beta < 0.2:
        best = np.sort(np.asarray(score), 1)[:, -k:].mean()
        assert np.take_along_axis(np.asarray(score), np.asarray(got), 1).mean() > best - 0.1


@pytest.mark.equation("rso")
def test_what_is_accepted_of_many_candidates_is_from_gibbs_policy():
    """Plain rejection, as one sweep has enough of them. (Of few it is not: the best are seldom
    there, or soon none are left.)"""
    ref, r = (x[:, 0] for x in tables(problems())[:2])
    beta, rows, N, k = 1.0, 256, 256, 8
    hp = hyper.cast(rso.RSO(beta=beta, responses=k, candidates=N))

    def histogram(ref, r, key):
        k_draw, k_accept = jax.random.split(key)
        at = jax.random.choice(k_draw, len(r), (rows, N), p=jnp.exp(ref))
        kept = jnp.take_along_axis(at, rso.rejection(r[at], k_accept, hp), 1)
        return jnp.log(jnp.bincount(kept.ravel(), length=len(r)) / kept.size + 1e-9)

    got = jax.jit(jax.vmap(histogram))(ref, r, jax.random.split(jax.random.key(4), TWENTY))
    goal = preferences.gibbs(ref, r, beta)
    away, there = (preferences.total_variation(x, goal) for x in (ref, got))
    assert away.min() > 0.15
    assert there.max() < 0.06 and there.mean() < 0.04


@pytest.mark.equation("rso")
@pytest.mark.parametrize("hinge", [False, True])
def test_rso_by_hand(hinge):
    """Four responses, the best first: two pairs of draws that follow each other."""
    gamma = 0.3
    drawn = np.stack([rng.permutation(K) for _ in range(ROWS)])
    b = SimpleNamespace(drawn=jnp.asarray(drawn * 5 + 2))  # which of many candidates
    values = []
    for i in range(ROWS):
        place = {d: j for j, d in enumerate(drawn[i])}
        total = 0.0
        for one in (0, 2):
            w, l = sorted((place[one], place[one + 1]))
            h = gamma * ((POLICY[i, w] - REF[i, w]) - (POLICY[i, l] - REF[i, l]))
            total += max(0, 1 - h) if hinge else -math.log(sigmoid(h))
        values.append(total / 2)
    got = rso.loss(said(POLICY, REF), b, rso.RSO(gamma=gamma, hinge=hinge))
    np.testing.assert_allclose(got, values, rtol=1e-5)


@pytest.mark.equation("rso")
def test_rso_of_a_pair_is_dpo():
    w, b = said(POLICY[:, :2], REF[:, :2]), SimpleNamespace(drawn=jnp.array([[3, 1]] * ROWS))
    of = lambda f: jax.value_and_grad(lambda p: f(said(p, REF[:, :2])).sum())(w.policy)
    one = of(lambda w: rso.loss(w, b, rso.RSO(gamma=0.3, beta=0.7)))
    two = of(lambda w: dpo.loss(w, None, dpo.DPO(beta=0.3)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), one, two)
