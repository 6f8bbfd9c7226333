"""Token papers that learn or remember values: single_stream_po, a_star_po, tbrm, vc_ppo, vapo."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.completions import Group, everything, judge, model, task
from jaxrl.families import tokens
from jaxrl.hyper import cast
from jaxrl.papers.reasoning import a_star_po, single_stream_po, tbrm, token_ppo, vapo, vc_ppo
from tests.papers.by_hand import quick
from tests.papers.tokens_by_hand import (
    NETWORK,
    SMALL,
    WORLD,
    flat,
    gradient,
    pessimistic,
    rewards_of_tokens,
    stepped,
    whitened,
)
from tests.programs import at_once

ALONE = SMALL | dict(prompts=24, group=1)
METHODS = {
    "single_stream_po": (single_stream_po, single_stream_po.SingleStreamPO(**ALONE, first=2)),
    "a_star_po": (a_star_po, a_star_po.AStarPO(**ALONE, first=3, beta2=0.2)),
    "tbrm": (tbrm, tbrm.TBRM(**ALONE, beta=0.4)),
    "vc_ppo": (vc_ppo, vc_ppo.VCPPO(**SMALL, beta=0.3, lam=0.7, lam_critic=0.9, value_first=1)),
    "vapo": (vapo, vapo.VAPO(**SMALL, beta=0.2, alpha=0.8, mu=0.5, lam_critic=0.9, value_first=1)),
}
each = pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=pytest.mark.equation(slug)) for slug in METHODS]
)


def backward(r, values, n, lam):
    """GAE of one completion of n tokens, without discount."""
    A = np.zeros(len(r))
    for t in reversed(range(n)):
        ahead, more = (values[t + 1], A[t + 1]) if t + 1 < n else (0.0, 0.0)
        A[t] = r[t] + ahead - values[t] + lam * more
    return A


def formula(slug, x, hp):
    """Derivatives of the loss by log-probabilities, by the critic's values, by V of the logits."""
    mask, R, seen = x.b.mask, x.b.reward, x.b.seen
    B, L = mask.shape
    G, V, first = np.zeros((B, L)), np.zeros((B, L)), np.zeros(B)
    n = mask.sum(1).astype(int)
    ratio = np.exp(x.log_prob - x.b.old)
    if slug in ("a_star_po", "tbrm"):
        value = first_value(x, hp) if slug == "tbrm" else None
        for i in range(B):
            kl = sum(x.log_prob[i, t] - x.b.ref[i, t] for t in range(n[i]))
            if slug == "a_star_po":  # (β kl - A)² / 2β
                G[i, : n[i]] = (hp.beta2 * kl - (R[i] - seen[i])) / B
            else:  # β (kl - R / β + V)² / 2
                G[i, : n[i]] = first[i] = (hp.beta * (kl + value[i]) - R[i]) / B
    elif slug == "single_stream_po":
        A = np.array(
            [R[i] - seen["alpha"][i] / (seen["alpha"] + seen["beta"])[i] for i in range(B)]
        )
        A = (A - A.mean()) / np.sqrt(((A - A.mean()) ** 2).sum() / (B - 1))
        for i in range(B):
            for t in range(n[i]):
                G[i, t] = -pessimistic(ratio[i, t], A[i], hp.eps, hp.eps_high) / n.sum()
    else:
        r, A, T = rewards_of_tokens(x, hp), np.zeros((B, L)), np.zeros((B, L))
        for i in range(B):
            lam = hp.lam if slug == "vc_ppo" else max(0.0, 1 - 1 / (hp.alpha * n[i]))
            A[i] = backward(r[i], x.b.value[i], n[i], lam)
            T[i] = backward(r[i], x.b.value[i], n[i], hp.lam_critic) + x.b.value[i]
        A = whitened(A, mask)
        V = hp.vf_coef * (x.value - T) * mask / n.sum()
        right = sum(n[i] for i in range(B) if R[i] >= 1)
        for i in range(B):
            for t in range(n[i]):
                high = hp.eps if slug == "vc_ppo" else hp.eps_high
                G[i, t] = -pessimistic(ratio[i, t], A[i, t], hp.eps, high) / n.sum()
                if slug == "vapo" and R[i] >= 1:
                    G[i, t] -= hp.mu / right
    return G, V, first


def first_value(x, hp, params=None):
    b = jax.tree.map(jnp.asarray, x.b).replace(tokens=jnp.asarray(x.b.tokens, jnp.int32))

    @jax.jit
    def of(params):
        logits = judge(x.net, params, b, hp.temperature).logits
        return jnp.log(jnp.exp(logits[:, 0]).sum(-1))

    return of(x.params if params is None else params)


@each
def test_a_step_is_the_formula_s_gradient(slug, monkeypatch):
    hp = METHODS[slug][1]
    x = stepped(*METHODS[slug], monkeypatch)
    G, V, first = formula(slug, x, hp)
    want = gradient(x, hp, (G, np.zeros_like(G)), V)
    if first.any():
        pull = quick(lambda p, v: jax.vjp(lambda p: first_value(x, hp, p), p)[1](v)[0])
        want = want + flat(pull(x.params, jnp.asarray(first, jnp.float32)))
    np.testing.assert_allclose(x.moved, want, rtol=2e-3, atol=2e-5 * np.abs(want).max() + 1e-6)
    assert len(set(x.b.mask.sum(1))) > 1 and (x.b.reward >= 1).any() and (x.b.reward < 1).any()
    if slug in ("single_stream_po", "a_star_po"):  # prompts are known apart
        assert len(np.unique(x.b.seen["alpha"] if slug == "single_stream_po" else x.b.seen)) > 2


# ---- single_stream_po


def remembered(hp, rng):
    """A table of which half of the prompts were written to, and a batch of others' words."""
    algo = single_stream_po.make(WORLD, NETWORK)
    s = quick(algo.init)(jax.random.key(0), hp, WORLD)
    b = quick(algo.trace)(s, jax.random.key(1), hp, WORLD)
    n, (M, L) = len(s.table["alpha"]), b.mask.shape
    old = -rng.uniform(1.5, 3, (n, L))
    mask = (np.arange(L) < rng.integers(1, L + 1, (n, 1))) * (np.arange(n) % 2 == 0)[:, None]
    tokens = rng.integers(2, 12, s.table["tokens"].shape)
    table = dict(alpha=rng.uniform(0.5, 3, n), beta=rng.uniform(0.5, 3, n))
    table |= dict(mask=mask * 1.0, old=old * mask, tokens=tokens, weight=np.ones(n))
    table = {k: jnp.asarray(v, s.table[k].dtype) for k, v in table.items()}
    b = b.replace(seen=jax.tree.map(lambda x: x[b.number], table))
    return s.replace(table=table), b.replace(reward=jnp.asarray(rng.uniform(0, 1, M)))


@pytest.mark.equation("single_stream_po")
def test_what_is_known_of_a_prompt_fades_as_the_policy_moves():
    hp = cast(single_stream_po.SingleStreamPO(**ALONE | dict(stale=1), half=1.5, rho_min=0.4))
    s, b = remembered(hp, np.random.default_rng(0))
    net = model(WORLD, NETWORK)
    apply = single_stream_po.memory(net).apply
    after, told = quick(lambda s, b: apply(s.table, s, b, 0, hp, WORLD))(s, b)
    rows = Group(None, *(s.table[k] for k in ("tokens", "mask", "old")), None, None)
    said = np.asarray(quick(lambda p, b: judge(net, p, b, hp.temperature).log_prob)(s.params, rows))
    old = jax.tree.map(np.asarray, s.table)
    numbers, rhos = np.asarray(b.number), []
    for i, x in enumerate(numbers):
        steps = int(old["mask"][x].sum())
        D = np.mean([abs(said[x, t] - old["old"][x, t]) for t in range(steps)]) if steps else 0.0
        rhos.append(min(max(2 ** (-D / 1.5), 0.4), 0.96))
        r = float(b.reward[i])
        assert after["alpha"][x] == pytest.approx(rhos[-1] * old["alpha"][x] + r, rel=1e-4)
        assert after["beta"][x] == pytest.approx(rhos[-1] * old["beta"][x] + 1 - r, rel=1e-4)
        np.testing.assert_array_equal(after["tokens"][x], b.tokens[i])
        np.testing.assert_array_equal(after["old"][x], b.old[i])
    assert float(told["forgetting"]) == pytest.approx(np.mean(rhos), rel=1e-4)
    assert len(np.unique(np.round(rhos, 3))) > 4 and max(rhos) == 0.96  # never written to: kept
    others = np.setdiff1d(np.arange(len(old["alpha"])), numbers)
    np.testing.assert_array_equal(after["alpha"][others], old["alpha"][others])
    v = np.asarray(after["alpha"] / (after["alpha"] + after["beta"]), float)
    np.testing.assert_allclose(after["weight"], np.sqrt(v * (1 - v)) + 0.05, rtol=1e-4)


@pytest.mark.equation("single_stream_po")
def test_prompts_are_drawn_by_their_weights_and_once():
    table = dict(weight=jnp.array([1.0, 2, 3, 4]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    one = jax.vmap(lambda k: single_stream_po.by_weight(table, k, 1, None)[0])(keys)
    np.testing.assert_allclose(np.bincount(one) / 20_000, [0.1, 0.2, 0.3, 0.4], atol=0.015)
    assert sorted(single_stream_po.by_weight(table, keys[0], 4, None).tolist()) == [0, 1, 2, 3]
    assert len(single_stream_po.by_weight(table, keys[0], 9, None)) == 9


@pytest.mark.equation("single_stream_po")
def test_first_tries_weigh_as_much_as_can_be_remembered(monkeypatch):
    R = jnp.array([[1.0, 1, 0], [0, 0, 0]])
    monkeypatch.setattr(single_stream_po, "tries", lambda *args: R)
    monkeypatch.setattr(
        single_stream_po, "task", lambda w: SimpleNamespace(prompts=2, L=2, window=3)
    )
    hp = cast(single_stream_po.SingleStreamPO(first=3, rho_min=0.75))
    table = single_stream_po.memory(None).init(None, None, hp, WORLD)
    np.testing.assert_allclose(table["alpha"], [4 * 2.5 / 4, 4 * 0.5 / 4], rtol=1e-5)
    np.testing.assert_allclose(table["beta"], [4 * 1.5 / 4, 4 * 3.5 / 4], rtol=1e-5)


# ---- a_star_po, tbrm: a task of two tokens out of three, where the optimum is known


def optimum(beta, rng):
    """Of all nine completions: what a model says whose logits are the values Q, and V."""
    ref = [np.log(rng.dirichlet(np.ones(3))), np.log(rng.dirichlet(np.ones(3), 3))]
    R = rng.uniform(0, 1, (3, 3))
    Q2 = ref[1] + R / beta
    Q1 = ref[0] + np.log(np.exp(Q2).sum(1))
    a, c = np.divmod(np.arange(9), 3)
    logits = np.stack([np.repeat(Q1[None], 9, 0), Q2[a] + 7.0], 1)  # of a later state: V cancels
    said = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob = np.stack([said[np.arange(9), 0, a], said[np.arange(9), 1, c]], 1)
    of_ref = np.stack([ref[0][a], ref[1][a, c]], 1)
    best = np.exp(of_ref.sum(1)) * np.exp(R[a, c] / beta)
    np.testing.assert_allclose(np.exp(log_prob.sum(1)), best / best.sum(), rtol=1e-6)
    b = SimpleNamespace(ref=of_ref, mask=np.ones((9, 2)), reward=R[a, c])
    return SimpleNamespace(log_prob=log_prob, logits=logits), b, beta * np.log(best.sum())


@pytest.mark.equation("tbrm")
def test_the_residual_is_0_at_the_optimum_with_its_values():
    w, b, _ = optimum(0.3, np.random.default_rng(1))
    hp = SimpleNamespace(beta=0.3)
    np.testing.assert_allclose(tbrm.residual(w, b, hp), 0.0, atol=1e-9)
    w.logits = w.logits + np.array([0.5, 0.0])[:, None]  # the same policy, another V of the prompt
    np.testing.assert_allclose(tbrm.residual(w, b, hp), 0.3 / 2 * 0.25, rtol=1e-4)


@pytest.mark.equation("a_star_po")
def test_the_regression_is_0_at_the_optimum():
    w, b, V = optimum(0.3, np.random.default_rng(2))
    b.advantage = np.repeat((b.reward - V)[:, None], 2, 1)
    hp = SimpleNamespace(beta2=0.3)
    np.testing.assert_allclose(a_star_po.regression(w, b, hp), 0.0, atol=1e-9)
    b.advantage = b.advantage + 0.6
    np.testing.assert_allclose(a_star_po.regression(w, b, hp), 0.6, rtol=1e-4)


@pytest.mark.equation("a_star_po")
def test_values_of_the_optimum_are_soft_means():
    R = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0.2, 0.9, 0.4, 0]])
    want = [0.5 * np.log(np.mean([np.exp(r / 0.5) for r in row])) for row in R]
    np.testing.assert_allclose(a_star_po.optimal_values(jnp.asarray(R), 0.5), want, atol=1e-6)
    far = a_star_po.optimal_values(jnp.array([[1e6, 0.0]]), 0.5)
    assert float(far[0]) == pytest.approx(1e6, rel=1e-5)  # exp(r / β) has no float


@pytest.mark.equation("a_star_po")
def test_first_tries_are_of_every_prompt_by_the_reference(monkeypatch):
    world = envs.make("tokens/tiny")
    hp, algo = cast(a_star_po.AStarPO(first=4)), a_star_po.make(world, NETWORK)
    s = quick(algo.init)(jax.random.key(0), hp, world)
    net = model(world, NETWORK)
    R = quick(lambda key: tokens.tries(net, s, key, hp, world, 100))(jax.random.key(5))
    log_p, rewards = at_once(everything)(net, s.params, task(world))
    assert s.table.shape == (6,) and R.shape == (6, 100)
    want = (jnp.exp(log_p) * rewards).sum(-1)
    np.testing.assert_allclose(R.mean(1), want, atol=4 * 0.3 / np.sqrt(100))
    monkeypatch.setattr(a_star_po, "tries", lambda *args: R[:, :4])
    again = quick(a_star_po.make(world, NETWORK).init)(jax.random.key(0), hp, world).table
    np.testing.assert_allclose(again, a_star_po.optimal_values(R[:, :4], 0.5), rtol=1e-6)


# ---- vc_ppo, vapo


def batch(rng, B=6, L=5):
    n = np.array([1, 2, 3, 5, 5, 4])
    mask = (np.arange(L) < n[:, None]) * 1.0
    x = {k: jnp.asarray(rng.normal(size=(B, L)) * mask) for k in ("old", "value", "ref")}
    reward = jnp.array([1.0, 0, 1, 0, 0.5, 0])
    return Group(number=None, tokens=None, mask=jnp.asarray(mask), reward=reward, **x), n


@pytest.mark.equation("vc_ppo")
def test_with_one_lambda_it_is_ppo_and_the_critic_s_targets_are_returns():
    b, n = batch(np.random.default_rng(0))
    hp = vc_ppo.VCPPO(beta=0.0, lam=0.6, lam_critic=0.6)
    plain, both = token_ppo.over_tokens(b, hp), vc_ppo.decoupled(b, hp)
    np.testing.assert_array_equal(plain.advantage, both.advantage)
    np.testing.assert_array_equal(plain.target, both.target)
    apart = vc_ppo.decoupled(b, hp.replace(lam_critic=1.0))
    np.testing.assert_array_equal(plain.advantage, apart.advantage)
    returns = np.repeat(b.reward[:, None], 5, 1) * np.asarray(b.mask)
    np.testing.assert_allclose(apart.target * b.mask, returns, atol=1e-5)


@pytest.mark.equation("vapo")
def test_credit_reaches_as_far_as_a_completion_is_long():
    """And those that are right, of 4 tokens among 20, are imitated by a mean over theirs."""
    b, n = batch(np.random.default_rng(0))
    hp = vapo.VAPO(beta=0.0, alpha=0.4)
    got = vapo.by_length(b, hp)
    last = np.eye(5)[n - 1] * np.asarray(b.reward)[:, None]
    lams = [0.0, 0.0, 1 / 6, 0.5, 0.5, 3 / 8]  # 1 - 1 / 0.4 n
    rows = zip(last, np.asarray(b.value), n, lams)
    want = whitened(np.stack([backward(*row) for row in rows]), np.asarray(b.mask))
    np.testing.assert_allclose(got.advantage * b.mask, want * b.mask, atol=1e-4)
    np.testing.assert_allclose(got.extra, [20 / 4, 0, 20 / 4, 0, 0, 0], rtol=1e-6)
