"""SPOT, arXiv 2202.06239: its losses by SciPy, what they estimate by quadrature; TD3's rest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import td3
from jaxrl.papers.offline import spot
from jaxrl.papers.offline.spot import SPOT
from jaxrl.policies import Network
from tests.papers.by_hand import (
    KEY,
    box,
    close,
    differences,
    forward,
    gradient,
    pair,
    quick,
    same,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("spot")

M, D, LAM, BETA, PRETRAIN = 6, 2, 0.7, 0.3, 5
SMALL = Network(hidden=(4,))
SET: dict[str, Any] = dict(lr=0.05, lam=LAM, beta=BETA, delay=1, pretrain=PRETRAIN)
LEARNER = spot.learner(box(D), SMALL)
update = quick(LEARNER.update)


@functools.cache
def before():
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 3, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    params = shaken(rng, LEARNER.init(KEY, b.obs, cast(SPOT())))
    params["vae"]["encoder"]["params"]["Dense_0"]["bias"] -= 4.0 * jnp.arange(4 * D) / 4
    return params, b


@functools.cache
def updated(i, t=0, **changes):
    """Parameters and optimisers after gradient step i, the gradients that moved, and stats."""
    params, b = before()
    hp = cast(SPOT(**SET | changes))
    opt = LEARNER.opt(params, hp)
    new, moved, said = update(params, opt, b, KEY, t, i, hp)
    grads = {k: gradient(moved[k], params[k]) for k in opt if not same(moved[k], opt[k])}
    return new, grads, {k: float(v) for k, v in said.items()}


def encoded(vae, obs, a):
    """Mean and deviation of the latents, [M, 2d] each."""
    out = forward(vae["encoder"], np.concatenate([np.asarray(obs, float), a], 1))
    mean, log_std = np.split(out, 2, 1)
    return mean, np.exp(np.clip(log_std, -4, 15))


def decoded(vae, obs, z):
    return np.tanh(forward(vae["decoder"], np.concatenate([np.asarray(obs, float), z], 1)))


def elbo(vae, obs, a, noise):
    """In nats, for each row; the KL in closed form (Kingma and Welling 2014, appendix B)."""
    mean, std = encoded(vae, obs, a)
    likelihood = stats.norm.logpdf(a, decoded(vae, obs, mean + std * noise), np.sqrt(BETA / 4))
    kl = -0.5 * (1 + np.log(std**2) - mean**2 - std**2)
    return likelihood.sum(1) - kl.sum(1)


def rarity(nats):
    """The scale of the released code, which leaves out the constant of the likelihood."""
    d = D
    return BETA / (2 * d) * (-nats - d / 2 * np.log(2 * np.pi * BETA / 4))


def test_the_vae_learns_the_data_s_actions_first():
    params, b = before()
    new, grads, said = updated(PRETRAIN - 1)
    a, noise = np.asarray(b.action, float), np.asarray(jax.random.normal(KEY, (1, M, 2 * D)))[0]
    std = encoded(params["vae"], b.obs, a)[1]
    assert (std == np.exp(-4)).any() and (std > np.exp(-4)).any()
    loss = lambda p: rarity(elbo(p, b.obs, a, noise)).mean()
    np.testing.assert_allclose(said["vae_loss"], loss(params["vae"]), rtol=1e-5)
    assert set(grads) == {"vae"}
    close(grads["vae"], differences(loss, params["vae"]), rtol=1e-3, atol=1e-5)
    for name in ("actor", "critic", "target"):
        assert same(new[name], params[name])


def test_then_the_actor_keeps_to_likely_actions():
    """-Q₁ / mean |Q₁| + λ (-log μ̂), at actions through which both are differentiated."""
    params, b = before()
    new, grads, said = updated(PRETRAIN)
    assert set(grads) == {"actor", "critic"} and same(new["vae"], params["vae"])
    of_actor = jax.random.split(KEY)[1]  # TD3's first is for the target's noise
    noise = np.asarray(jax.random.normal(of_actor, (1, M, 2 * D)))[0]
    mu = lambda p: np.tanh(forward(p, b.obs))
    q = lambda p: pair(new["critic"], b.obs, mu(p))[0]
    size = np.abs(q(params["actor"])).mean()
    assert (q(params["actor"]) > 0).any() and (q(params["actor"]) < 0).any()
    penalty = lambda p: rarity(elbo(params["vae"], b.obs, mu(p), noise)).mean()
    loss = lambda p: -q(p).mean() / size + LAM * penalty(p)
    np.testing.assert_allclose(said["actor_loss"], loss(params["actor"]), rtol=1e-4)
    close(grads["actor"], differences(loss, params["actor"]), rtol=1e-3, atol=1e-5)


def test_without_the_penalty_it_is_td3_at_another_scale():
    params, b = before()
    new, grads, _ = updated(PRETRAIN, lam=0.0)
    hp = cast(td3.TD3(lr=0.05, delay=1))
    plain = td3.learner(box(D), SMALL)
    start = {k: params[k] for k in ("actor", "critic", "target")}
    theirs, opt, _ = quick(plain.update)(start, plain.opt(start, hp), b, KEY, 0, 0, hp)
    close(new["critic"], theirs["critic"], rtol=1e-5)
    close(new["target"]["critic"], theirs["target"]["critic"], rtol=1e-5)
    q = pair(new["critic"], b.obs, np.tanh(forward(params["actor"], b.obs)))[0]
    scaled = jax.tree.map(lambda g: g / np.abs(q).mean(), gradient(opt["actor"], params["actor"]))
    close(grads["actor"], scaled, rtol=1e-3)
    close(updated(PRETRAIN)[0]["critic"], new["critic"])
    assert not same(updated(PRETRAIN)[0]["actor"], new["actor"])


def test_the_weight_falls_online():
    """λ max(1 - n / N, end) after n of the N iterations with play."""
    loss = lambda **how: updated(PRETRAIN, horizon=10.0, **how)[2]["actor_loss"]
    none = loss(lam=0.0)
    left = lambda t, **how: (loss(t=t, **how) - none) / (loss() - none)
    want = {0: 1.0, 6: 1.0, 7: 0.75, 8: 0.5, 9: 0.3}
    got = {t: left(t, online=0.4, end=0.3) for t in want}
    assert got == pytest.approx(want, abs=1e-4)
    assert left(9, online=0.0) == pytest.approx(1.0)


# ---- what is estimated, by quadrature over the two latents of one number ----------------------

S, ROWS = np.array([[0.4, -1.0, 0.7]]), 20_000


@functools.cache
def one_number(rows, **how):
    """An update for a state `rows` times over, with the VAE that it began with."""
    rng = np.random.default_rng(3)
    learner = spot.learner(box(1), SMALL)
    b = transitions(rng, rows, 3, jnp.full((rows, 1), 0.3))
    b = b.replace(obs=jnp.tile(jnp.asarray(S, jnp.float32), (rows, 1)))
    hp = cast(SPOT(**SET | how))
    params = shaken(rng, learner.init(KEY, b.obs[:1], hp))
    vae = params["vae"]  # near the prior, where importance weights are good for something
    vae["encoder"] = jax.tree.map(lambda x: 0.3 * x, vae["encoder"])
    new, _, said = quick(learner.update)(params, learner.opt(params, hp), b, KEY, 0, 0, hp)
    return params, new, said


def grid(mean, std):
    """Points [G, 2] and weights [G] of N(mean, std²)."""
    x, w = special.roots_hermitenorm(60)
    z = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    return mean + std * z, np.outer(w, w).ravel() / (2 * np.pi)


def test_the_elbo_by_quadrature():
    params, _, said = one_number(ROWS)
    a = np.array([[0.3]])
    mean, std = encoded(params["vae"], S, a)
    z, w = grid(mean, std)
    error = w @ (decoded(params["vae"], np.tile(S, (len(z), 1)), z)[:, 0] - 0.3) ** 2
    kl = (stats.norm.logpdf(z, mean, std) - stats.norm.logpdf(z)).sum(1)
    assert said["vae_loss"] == pytest.approx(error + BETA * w @ kl / 2, rel=0.02)


def test_importance_weights_reach_the_density_itself():
    """-log ∫ p(a|s, z) N(z; 0, 1) dz, which is less than the ELBO says."""
    params, new, said = one_number(10, samples=2000, pretrain=0)
    a = np.tanh(forward(params["actor"], S))
    z, w = grid(0.0, 1.0)
    u = decoded(params["vae"], np.tile(S, (len(z), 1)), z)
    want = -np.log(w @ stats.norm.pdf(a[0, 0], u[:, 0], np.sqrt(BETA / 4)))
    sign = np.sign(pair(new["critic"], S, a)[0, 0])  # Q₁ / |Q₁|, of one state
    got = (said["actor_loss"] + sign) / LAM
    assert got == pytest.approx(want, abs=0.05)
    mean, std = encoded(params["vae"], S, a)
    z, w = grid(mean, std)
    p = stats.norm.logpdf(a[0], decoded(params["vae"], np.tile(S, (len(z), 1)), z), BETA**0.5 / 2)
    kl = (stats.norm.logpdf(z, mean, std) - stats.norm.logpdf(z)).sum(1)
    assert got < w @ (kl - p[:, 0]) - 0.1
