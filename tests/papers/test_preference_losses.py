"""Losses of preferences against loops over their formulas, and their closed forms."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl import core, hyper, preferences, rewards
from jaxrl.completions import Group, counted, model, task
from jaxrl.papers.preference import apa, best_of_n, dpo, f_dpo, kl_bayes, psipo, rlhf, sft, xpo
from jaxrl.papers.preference.rlhf import RLHF
from jaxrl.papers.studies import dpo_vs_ppo_study
from tests.papers.preferences_by_hand import (
    gradient_at_the_optimum,
    optima,
    policy,
    problems,
    said,
    steps_from,
    tables,
    train,
)
from tests.programs import at_once

rng = np.random.default_rng(0)
POLICY, REF = rng.normal(size=(5, 2)) - 3, rng.normal(size=(5, 2)) - 3


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(one, slope, beta):
    """Values of a loss f(h) and gradients in log π, from f and f' of the margin h."""
    h = [(POLICY[i, 0] - REF[i, 0]) - (POLICY[i, 1] - REF[i, 1]) for i in range(5)]
    return [one(x) for x in h], [[slope(x), -slope(x)] for x in h]


def check(module, hp, one, slope):
    values, grads = by_hand(one, slope, float(hp.beta))
    got = module.loss(said(POLICY, REF), None, hp)
    np.testing.assert_allclose(got, values, rtol=1e-5)
    of = lambda p: module.loss(said(p, REF, POLICY), None, hp).sum()
    np.testing.assert_allclose(jax.grad(of)(jnp.asarray(POLICY)), grads, rtol=1e-4)


@pytest.mark.equation("dpo")
def test_dpo_by_hand():
    one = lambda h: -math.log(sigmoid(0.3 * h))
    check(dpo, dpo.DPO(beta=0.3), one, lambda h: -0.3 * (1 - sigmoid(0.3 * h)))


@pytest.mark.equation("psipo")
def test_ipo_by_hand():
    one = lambda h: (h - 1 / 0.6) ** 2
    check(psipo, psipo.IPO(beta=0.3), one, lambda h: 2 * (h - 1 / 0.6))


@pytest.mark.equation("dpo")
def test_dpo_comes_to_gibbs_policy():
    assert gradient_at_the_optimum(dpo, dpo.DPO).max() < 1e-5
    metrics, _ = train(dpo, dpo.DPO, 100, updates=10)
    assert metrics["tv"][:, 0].max() > 0.1 and metrics["tv"][:, -1].max() < 0.01


@pytest.mark.equation("psipo")
def test_ipo_comes_to_its_closed_form():
    assert gradient_at_the_optimum(psipo, psipo.IPO).max() < 1e-5
    metrics, _ = train(psipo, psipo.IPO, 100, updates=10)
    assert metrics["tv"][:, 0].max() > 0.05 and metrics["tv"][:, -1].max() < 0.01


@pytest.mark.equation("f_dpo")
@pytest.mark.parametrize("divergence", f_dpo.DIVERGENCES)
def test_f_dpo_by_hand(divergence):
    a = 0.4
    prime = {
        "reverse_kl": lambda u: math.log(u) + 1,
        "forward_kl": lambda u: -1 / u,
        "js": lambda u: math.log(2 * u / (1 + u)),
        "alpha": lambda u: (1 - u**-a) / a,
    }[divergence]
    hp = f_dpo.FDPO(beta=0.3, divergence=divergence, alpha=a)
    u = np.exp(POLICY - REF)
    want = [-math.log(sigmoid(0.3 * (prime(u[i, 0]) - prime(u[i, 1])))) for i in range(5)]
    np.testing.assert_allclose(f_dpo.loss(said(POLICY, REF), None, hp), want, rtol=1e-4)
    y = jnp.array([-0.7, -2.0])
    np.testing.assert_allclose(f_dpo.slope(f_dpo.inverse(y, hp), hp), y, rtol=1e-5)


@pytest.mark.equation("f_dpo")
def test_f_dpo_with_reverse_kl_is_dpo():
    hp = f_dpo.FDPO(divergence="reverse_kl")
    w = said(POLICY, REF)
    np.testing.assert_array_equal(f_dpo.loss(w, None, hp), dpo.loss(w, None, hp))
    worlds = problems(n=3)
    got = optima(f_dpo, f_dpo.FDPO, worlds, divergence="reverse_kl")
    np.testing.assert_allclose(got, optima(dpo, dpo.DPO, worlds), atol=1e-4)


@pytest.mark.equation("f_dpo")
@pytest.mark.parametrize("divergence", f_dpo.DIVERGENCES[1:])
def test_f_dpo_comes_to_the_optimum_of_its_divergence(divergence):
    """β = 2: where a divergence all but forbids a response, plain descent is long on its way."""
    own = dict(divergence=divergence, beta=2.0)
    assert gradient_at_the_optimum(f_dpo, f_dpo.FDPO, **own).max() < 1e-5
    metrics, _ = train(f_dpo, f_dpo.FDPO, 150, updates=10, **own)
    assert metrics["tv"][:, 0].max() > 0.1 and metrics["tv"][:, -1].max() < 0.02


@pytest.mark.equation("f_dpo")
@pytest.mark.parametrize("divergence", f_dpo.DIVERGENCES)
def test_the_optimum_is_what_gets_most(divergence):
    """E[r] - β D_f is more than at any other policy near it, D_f from the formulas of f."""
    a = 0.5
    f = {
        "reverse_kl": lambda u: u * np.log(u),
        "forward_kl": lambda u: -np.log(u),
        "js": lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
        "alpha": lambda u: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)),
    }[divergence]
    worlds = problems(n=3)
    ref, r, _, _ = (np.asarray(x, float)[:, 0] for x in tables(worlds))
    best = np.asarray(optima(f_dpo, f_dpo.FDPO, worlds, divergence=divergence), float)[:, 0]

    def J(log_p, i):
        p, q = np.exp(log_p) / np.exp(log_p).sum(), np.exp(ref[i])
        return (p * r[i]).sum() - 0.5 * (q * f(p / q)).sum()

    for i in range(3):
        for scale in (0.03, 0.3):
            near = [J(best[i] + scale * rng.normal(size=16), i) for _ in range(20)]
            assert J(best[i], i) > max(near)


@pytest.mark.equation("xpo")
def test_xpo_by_hand():
    hp = xpo.XPO(beta=0.3, alpha=0.2)
    drawn = jnp.array([[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]])
    b = SimpleNamespace(drawn=drawn)
    h = [(POLICY[i, 0] - REF[i, 0]) - (POLICY[i, 1] - REF[i, 1]) for i in range(5)]
    other = [POLICY[i, 1 if drawn[i, 1] == 1 else 0] for i in range(5)]
    want = [-math.log(sigmoid(0.3 * h[i])) + 0.2 * other[i] for i in range(5)]
    np.testing.assert_allclose(xpo.loss(said(POLICY, REF), b, hp), want, rtol=1e-5)


@pytest.mark.equation("xpo")
def test_xpo_without_its_bonus_is_online_dpo_and_with_it_leaves_the_reference():
    """Online DPO comes to Gibbs' policy; α moves that away from what the reference says."""
    best = optima(xpo, xpo.XPO, worlds := problems(n=5), remember=1)
    at = lambda alpha: steps_from(xpo, xpo.XPO, best, worlds, remember=1, alpha=alpha)[0]
    assert at(0.0)["grad_norm"].max() < 1e-5
    assert at(0.1)["grad_norm"].min() > 1e-4
    ref = tables(worlds)[0]
    _, state = steps_from(xpo, xpo.XPO, ref, worlds, 200, remember=1, alpha=0.3, beta=1.0)
    _, plain = steps_from(xpo, xpo.XPO, ref, worlds, 200, remember=1, alpha=0.0, beta=1.0)
    said = lambda s: (jnp.exp(ref) * policy(s)).sum((1, 2))
    assert (said(state) < said(plain)).all()


@pytest.mark.equation("kl_bayes")
def test_the_objective_is_a_divergence_to_the_posterior():
    """J = β log Z - β KL(π || π*) for any policy; its gradient is that of the divergence."""
    ref, r = REF[:, 0], rng.normal(size=5)
    ref = ref - math.log(np.exp(ref).sum())
    Z = (np.exp(ref) * np.exp(r / 0.5)).sum()
    best = ref + r / 0.5 - math.log(Z)
    for _ in range(5):
        p = rng.dirichlet(np.ones(5))
        J = (p * r).sum() - 0.5 * (p * (np.log(p) - ref)).sum()
        divergence = 0.5 * math.log(Z) - 0.5 * (p * (np.log(p) - best)).sum()
        assert pytest.approx(divergence, abs=1e-12) == J
        log_p = jnp.log(p)
        got = preferences.objective(log_p, jnp.array(ref), jnp.array(r), 0.5)
        assert float(got) == pytest.approx(J, abs=1e-5)


@pytest.mark.equation("kl_bayes")
@pytest.mark.parametrize("objective", ["reverse_kl", "forward_kl", "reward"])
def test_gradients_of_kl_bayes_are_those_of_its_divergences(objective):
    """The expected loss's gradient, against autodiff of the divergence itself."""
    worlds = problems(n=4)
    ref, r, _, _ = tables(worlds)
    theta = jax.random.normal(jax.random.key(1), ref.shape)

    def divergence(theta, ref, r):
        log_p, best = jax.nn.log_softmax(theta), preferences.gibbs(ref, r, 0.5)
        of = {
            "reverse_kl": preferences.kl(log_p, best),
            "forward_kl": preferences.kl(best, log_p),
            "reward": -preferences.expected(log_p, r),
        }
        return of[objective].sum()

    want = jax.vmap(jax.grad(divergence))(theta, ref, r)
    metrics, _ = steps_from(kl_bayes, kl_bayes.KLBayes, theta, worlds, objective=objective)
    norm = jnp.sqrt(jnp.square(want).sum((1, 2)))
    np.testing.assert_allclose(metrics["grad_norm"][:, 0], norm, rtol=1e-3)


@pytest.mark.equation("kl_bayes")
@pytest.mark.parametrize("objective", ["reverse_kl", "forward_kl"])
def test_both_divergences_come_to_the_posterior(objective):
    metrics, _ = train(kl_bayes, kl_bayes.KLBayes, 1000, objective=objective)
    assert metrics["tv"][:, -1].max() < 0.02


@pytest.mark.equation("kl_bayes")
def test_the_reward_alone_collapses():
    metrics, _ = train(kl_bayes, kl_bayes.KLBayes, 1000, objective="reward", lr=0.1)
    assert np.median(metrics["entropy"][:, -1]) < 0.1


@pytest.mark.equation("sft")
def test_sft_comes_to_what_is_preferred():
    w = said(POLICY, REF)
    np.testing.assert_allclose(sft.loss(w, None, sft.SFT()), -POLICY[:, 0], rtol=1e-6)
    metrics, state = train(sft, sft.SFT, 100, updates=10)
    _, _, P, cover = (np.asarray(x, float)[:, 0] for x in tables(problems()))
    want = [[2 * cover[i, y] * (P[i, y] * cover[i]).sum() for y in range(16)] for i in range(20)]
    np.testing.assert_allclose(jnp.exp(policy(state))[:, 0], want, atol=0.01)
    assert metrics["tv"][:, -1].max() < 0.02


@pytest.mark.equation("best_of_n")
def test_the_best_of_n_by_counting():
    """Against samples of it, its bound on the KL, and what the loss comes to (n = 2)."""
    worlds = problems(n=3)
    ref, r, _, _ = (np.asarray(x, float)[:, 0] for x in tables(worlds))
    best = optima(best_of_n, best_of_n.BestOfN, worlds, sets=8, responses=4)[:, 0]
    for i in range(3):
        draws = rng.choice(16, size=(40_000, 4), p=np.exp(ref[i]) / np.exp(ref[i]).sum())
        rows = draws[np.arange(len(draws)), r[i][draws].argmax(1)]
        np.testing.assert_allclose(
            np.exp(best[i]), np.bincount(rows, minlength=16) / 4e4, atol=0.01
        )
        kl = (np.exp(best[i]) * (best[i] - ref[i])).sum()
        assert kl < math.log(4) - 3 / 4
    metrics, _ = train(best_of_n, best_of_n.BestOfN, 100, responses=2, updates=10)
    assert metrics["tv"][:, -1].max() < 0.02


def completions(log_prob, ref, advantage):
    of = lambda x: jnp.asarray(x, jnp.float32)
    return SimpleNamespace(log_prob=of(log_prob)), SimpleNamespace(
        ref=of(ref), advantage=of(advantage)
    )


@pytest.mark.equation("apa")
def test_apa_by_hand():
    A = rng.normal(size=(5, 2))
    w, b = completions(POLICY, REF, A)
    want = [[(POLICY[i, t] - REF[i, t] - A[i, t] / 0.2) ** 2 for t in (0, 1)] for i in range(5)]
    np.testing.assert_allclose(apa.squared(w, b, apa.APA(coef=0.2)), want, rtol=1e-5)


@pytest.mark.equation("apa")
def test_apa_rests_at_gibbs_policy_of_its_own_samples():
    """With A = r - E_π[r], where actions are the policy's own (one token, not normalised)."""
    ref, r = rng.normal(size=6), rng.normal(size=6)
    ref -= math.log(np.exp(ref).sum())
    hp = apa.APA(coef=0.5)

    def expected(theta, samples):
        log_p = jax.nn.log_softmax(theta)
        A = r - (jnp.exp(samples) * r).sum()
        w, b = SimpleNamespace(log_prob=log_p), SimpleNamespace(ref=jnp.array(ref), advantage=A)
        return (jnp.exp(samples) * apa.squared(w, b, hp)).sum()

    best = jax.nn.log_softmax(jnp.array(ref + r / 0.5))
    assert jnp.abs(jax.grad(expected)(best, best)).max() < 1e-5
    other = jax.nn.log_softmax(jnp.array(ref))
    assert jnp.abs(jax.grad(expected)(other, other)).max() > 0.01


@pytest.mark.equation("rlhf")
def test_a_reward_model_learns_what_is_preferred():
    """Its likelihood by hand; it orders what it was fitted to, and an ensemble's models differ."""
    better, worse = rng.normal(size=4), rng.normal(size=4)
    want = [-math.log(sigmoid(x - y)) for x, y in zip(better, worse)]
    np.testing.assert_allclose(rewards.bradley_terry(jnp.array(better), worse), want, rtol=1e-5)
    world = envs.make("preference/gibbs", prompts=2, length=2)
    game, net = task(world), model(world, RLHF.network_for("preference"))
    params = net.init(jax.random.key(0))
    fitted = at_once(rewards.modelled)(net, params, world, jax.random.key(1), 2048, 2)
    rewarder = rewards.RewardModel(game.vocabulary)
    rows = counted(game)
    each = jax.vmap(rewarder.rewards, (0, None))(fitted, rows.tokens)
    assert jnp.abs(each[0] - each[1]).max() > 0.01
    got = rewards.predicted(rewarder, fitted, rows.tokens).reshape(2, 16)
    for x in range(2):
        assert np.corrcoef(got[x], rows.reward.reshape(2, 16)[x])[0, 1] > 0.9


@pytest.mark.equation("rlhf")
def test_rlhf_learns_from_its_model_of_rewards():
    """Its proxy rises, and what is told as its return is the gold."""
    world = envs.make("preference/gibbs", prompts=1, length=2)
    algo = rlhf.make(world, RLHF.network_for("preference"))
    hp = hyper.cast(RLHF.for_env("preference").replace(prompts=32, reward_pairs=256))
    _, m = jax.jit(lambda k: core.train(algo, k, hp, world, 60))(jax.random.key(0))
    assert m["proxy"][-5:].mean() > m["proxy"][0] + 0.5
    assert m["episode_return"][-5:].mean() > m["episode_return"][0] + 0.3
    assert np.abs(m["proxy"] - m["episode_return"]).max() > 0.05


@pytest.mark.equation("dpo_vs_ppo_study")
def test_dpo_has_minimisers_that_ppo_has_not():
    """Table 1 of the paper: D = {y1 > y2}, π_ref = (.5, .5, 0+). Whatever is on y3, DPO's loss has
    the same infimum; J is far apart, and Gibbs' policy keeps to the reference there."""
    ref = jnp.log(jnp.array([0.5 - 5e-7, 0.5 - 5e-7, 1e-6]))
    hp = dpo.DPO(beta=1.0)
    at = lambda p: jnp.log(jnp.array(p))
    loss = lambda p: float(dpo.loss(said(at(p)[None, :2], ref[None, :2]), None, hp)[0])
    far, near = (0.1, 1e-9, 0.9 - 1e-9), (1 - 1e-6 - 1e-9, 1e-9, 1e-6)
    assert loss(far) < 1e-6 and loss(near) < 1e-6
    r = jnp.array([1.0, -1.0, 0.0])
    J = lambda p: float(preferences.objective(at(p), ref, r, 1.0))
    assert J(far) < J(near) - 5
    best = preferences.gibbs(ref, r, 1.0)
    assert jnp.exp(best)[2] < 1e-5


@pytest.mark.equation("dpo_vs_ppo_study")
def test_the_three_parts_of_ppo():
    """Advantages in units of the batch's deviation or as they are; a reference that follows."""
    study = dpo_vs_ppo_study
    mask = jnp.ones((4, 2))
    value = jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)
    b = Group(None, None, mask, 0 * mask, value, jnp.array([3.0, 0.0, 1.0, 7.0]), ref=0 * mask)
    raw = study.advantages(b, study.DPOvsPPO(normalise=False, beta=0.0)).advantage
    A = study.advantages(b, study.DPOvsPPO(beta=0.0)).advantage
    np.testing.assert_allclose(A, (raw - raw.mean()) / raw.std(), rtol=1e-4)
    params, ref = dict(params=dict(x=jnp.ones(2))), dict(params=dict(x=jnp.zeros(2)))
    s = SimpleNamespace(params=params, ref=ref)
    got = study.follow(s, jnp.int32(3), study.DPOvsPPO(decay=0.75))
    np.testing.assert_allclose(got["params"]["x"], 0.25)
    frozen = study.follow(s, jnp.int32(3), study.DPOvsPPO(decay=1.0))
    np.testing.assert_allclose(frozen["params"]["x"], 0.0)
