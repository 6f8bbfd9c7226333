"""FPO (arXiv 2507.21053), PolicyFlow, DPPO (2409.00588), BC + PPO and CFGRL (2505.23458), against
NumPy, closed forms and what they must reduce to."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from envs.spaces import Box
from jaxrl.families.diffusion import Flow, denoiser, flow
from jaxrl.hyper import cast
from jaxrl.papers.diffusion import bc_ppo, cfgrl, dppo, fpo, policyflow
from jaxrl.policies import Network, policy_for
from jaxrl.types import Batch, Transitions
from tests.papers.by_hand import KEY, box, gradient, quick, shaken, transitions

M, D, F = 5, 2, 3
RNG = np.random.default_rng(0)
OBS = jnp.asarray(RNG.normal(size=(M, F)), jnp.float32)
START = jnp.zeros(M, bool)
A = RNG.normal(size=M)
NETS = flow(box(D), Network(hidden=(4,)))
OLD = shaken(RNG, NETS.init(KEY, OBS), 0.3)
NEW = shaken(RNG, OLD, 0.05)


def played(policy, params):
    """The action and a batch that remembers it."""
    act = quick(lambda p: policy.act(p, OBS, START, (), KEY))
    action, record, value, _ = act(params)
    b = Batch(obs=OBS, action=action, record=record, start=START, value=value, old=record)
    return action, b.replace(advantage=jnp.asarray(A, jnp.float32))


def looked(policy, new, old, b):
    """What a policy's view says under new parameters."""

    def look(new, old, b):
        w = policy.judge(new, old, b, KEY)
        whole = dict(kl=w.kl(), reverse_kl=w.reverse_kl(), entropy=w.entropy())
        return w._replace(**{k: () for k in whole}), whole

    return quick(look)(new, old, b)


def ours(params, s, x, t):
    """The field, one row at a time."""
    return np.asarray(NETS.field(params, jnp.asarray(s), jnp.asarray(x), jnp.asarray(t)), float)


# ---- FPO -------------------------------------------------------------------------------------


@pytest.mark.equation("fpo")
@pytest.mark.parametrize("error", ["noise", "velocity"])
def test_fpo_s_ratio_is_of_matching_losses(error):
    hp = cast(fpo.FPO(samples=3, flow_steps=4, error=error))
    policy = fpo.policy(NETS, hp)
    action, b = played(policy, OLD)
    w, whole = looked(policy, NEW, OLD, b)
    losses = {}
    for name, params in dict(old=OLD, new=NEW).items():
        L = np.zeros(M)
        for m in range(M):
            for i in range(3):
                eps, t = (np.asarray(b.record[k][m, i], float) for k in ("eps", "t"))
                a = np.asarray(action[m], float)
                a_t = np.float32((1 - t) * eps + t * a)
                v = ours(params, OBS[m], a_t, np.float32(t))
                seen = (a_t - t * v) - eps if error == "noise" else v - (a - eps)
                L[m] += (seen**2).mean() / 3
        losses[name] = L
    np.testing.assert_allclose(b.record["loss"], losses["old"], rtol=1e-4)
    log_ratio = losses["old"] - losses["new"]
    np.testing.assert_allclose(w.log_ratio, log_ratio, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(whole["kl"], np.expm1(log_ratio) - log_ratio, atol=1e-5)
    r = np.exp(log_ratio)
    want = -np.minimum(r * A, np.clip(r, 1 - 0.05, 1 + 0.05) * A)
    np.testing.assert_allclose(fpo.clip(w, b, hp), want, rtol=1e-3, atol=1e-5)


@pytest.mark.equation("fpo")
def test_fpo_begins_along_the_matching_gradient_that_advantages_weigh():
    hp = cast(fpo.FPO(samples=3, flow_steps=4, error="velocity"))
    policy = fpo.policy(NETS, hp)
    action, b = played(policy, OLD)

    def surrogate(p):
        return fpo.clip(policy.judge(p, OLD, b, KEY), b, hp).mean()

    def matching(p):
        s = jnp.broadcast_to(OBS[:, None], (M, 3, F))
        eps, t = b.record["eps"], b.record["t"]
        x = (1 - t[..., None]) * eps + t[..., None] * action[:, None]
        wrong = NETS.field(p, s, x, t) - (action[:, None] - eps)
        return (b.advantage * jnp.square(wrong).mean((1, 2))).mean()

    got, want = quick(lambda p: (jax.grad(surrogate)(p), jax.grad(matching)(p)))(OLD)
    for x, y in zip(jax.tree.leaves(got["field"]), jax.tree.leaves(want["field"])):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-6)


@pytest.mark.equation("fpo")
def test_fpo_acts_where_euler_s_method_carries_its_noise():
    hp = cast(fpo.FPO(samples=1, flow_steps=3))
    policy = fpo.policy(NETS, hp)
    z = jax.tree.map(lambda x: x[0], policy.draw(KEY, 1, M))
    action = quick(lambda p: policy.act(p, OBS, START, (), z))(OLD)[0]
    x = np.asarray(z["x"], np.float32)
    for k in range(3):
        x = x + ours(OLD, OBS, x, np.full(M, k / 3, np.float32)).astype(np.float32) / 3
    np.testing.assert_allclose(action, x, rtol=1e-4, atol=1e-5)
    mode = policy.act(OLD, OBS, START, (), None)[0]
    again = policy.act(OLD, OBS, START, (), None)[0]
    assert np.array_equal(mode, again) and not np.allclose(mode, action)


# ---- PolicyFlow ------------------------------------------------------------------------------


@pytest.mark.equation("policyflow")
def test_policyflow_s_ratio_is_of_the_velocity_s_change():
    hp = cast(policyflow.PolicyFlow(flow_steps=2, brownian=0.01))
    policy = policyflow.policy(NETS, hp)
    old, new = (
        p | dict(log_std=jnp.log(jnp.array(s))) for p, s in ((OLD, [0.4, 0.3]), (NEW, [0.5, 0.2]))
    )
    action, b = played(policy, old)
    w, whole = looked(policy, new, old, b)
    r = {k: np.asarray(x, float) for k, x in b.record.items()}
    np.testing.assert_allclose(action, r["prior"] + r["delta"], rtol=1e-5)
    t = np.asarray(jax.random.randint(KEY, (M,), 0, 5)) / 4  # of two midpoint steps' five times
    x = (1 - t[:, None]) * r["x"] + t[:, None] * r["prior"]
    at = OBS, np.float32(x), np.float32(t)
    v, v_old = ours(new, *at), ours(old, *at)
    s, s_old = np.array([0.5, 0.2]), np.array([0.4, 0.3])
    log_ratio = norm.logpdf(r["delta"], v - v_old, s) - norm.logpdf(r["delta"], 0, s_old)
    np.testing.assert_allclose(w.log_ratio, log_ratio.sum(1), rtol=1e-3, atol=1e-4)
    grid = np.linspace(-4, 4, 8001)[:, None, None]
    p, q = norm.pdf(grid, 0, s_old), norm.pdf(grid, v - v_old, s)
    kl = (p * (norm.logpdf(grid, 0, s_old) - norm.logpdf(grid, v - v_old, s))).sum(0) * 1e-3
    np.testing.assert_allclose(whole["kl"], kl.sum(1), rtol=1e-2)
    kl = (q * (norm.logpdf(grid, v - v_old, s) - norm.logpdf(grid, 0, s_old))).sum(0) * 1e-3
    np.testing.assert_allclose(whole["reverse_kl"], kl.sum(1), rtol=1e-2)
    np.testing.assert_allclose(whole["entropy"], norm.entropy(0, s).sum(), rtol=1e-5)
    wander = (((1 - t[:, None]) * v - (x - t[:, None] * v_old)) ** 2).mean(1)
    ratio = np.exp(log_ratio.sum(1))
    want = -np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A) + 0.01 * wander
    np.testing.assert_allclose(policyflow.regularised(w, b, hp), want, rtol=1e-3, atol=1e-4)


@pytest.mark.equation("policyflow")
def test_policyflow_of_a_velocity_that_sees_states_alone_is_a_gaussian():
    """x₀ = 0 and v = W s: the action is N(W s, σ²), and the ratio is that of two such Gaussians."""
    straight = Flow(D, NETS.init, lambda p, s, x, t: s @ p["W"], lambda p, obs, start: obs[:, 0])
    hp = cast(policyflow.PolicyFlow(flow_steps=3))
    policy = policyflow.policy(straight, hp)
    W, W_new = RNG.normal(size=(2, F, D)).astype(np.float32) * 0.2
    make = lambda W, std: dict(W=jnp.asarray(W), log_std=jnp.log(jnp.full(D, std)))
    z = jax.tree.map(lambda x: x[0], policy.draw(KEY, 1, M)) | dict(x=jnp.zeros((M, D)))
    action, record, _, _ = policy.act(make(W, 0.5), OBS, START, (), z)
    b = Batch(obs=OBS, action=action, record=record, start=START, old=record)
    w = policy.judge(make(W_new, 0.4), make(W, 0.5), b, KEY)
    obs, a = np.asarray(OBS, float), np.asarray(action, float)
    want = norm.logpdf(a, obs @ W_new, 0.4) - norm.logpdf(a, obs @ W, 0.5)
    np.testing.assert_allclose(w.log_ratio, want.sum(1), rtol=1e-4, atol=1e-5)


# ---- DPPO ------------------------------------------------------------------------------------


@pytest.mark.equation("dppo")
def test_dppo_s_ratios_are_of_each_step_s_gaussian():
    K, tuned = 4, 3
    hp = cast(dppo.DPPO(denoise_steps=K, tuned_steps=tuned, std=0.2, eps=0.3, eps_first=0.05))
    policy = denoiser(NETS, K, tuned, hp.std)
    params = policy.init(KEY, OBS)
    assert params["base"] is params["field"]
    old, new = OLD | dict(base=NEW["field"]), NEW | dict(base=NEW["field"])
    z = policy.draw(KEY, 1, M)[0]
    action, record, value, _ = quick(lambda p: policy.act(p, OBS, START, (), z))(old)
    b = Batch(obs=OBS, action=action, record=record, start=START, value=value, old=record)
    b = b.replace(advantage=jnp.asarray(A, jnp.float32))
    w, whole = looked(policy, new, old, b)

    beta = np.clip(
        1 - (f := np.cos((np.arange(5) / 4 + 0.008) / 1.008 * np.pi / 2) ** 2)[1:] / f[:-1],
        0,
        0.999,
    )
    bar = np.cumprod([1.0, *(1 - beta)])

    def gaussian(params, x, k):
        noise = ours(params, OBS, np.float32(x), np.full(M, k / K, np.float32))
        a = np.clip((x - np.sqrt(1 - bar[k]) * noise) / np.sqrt(bar[k]), -1, 1)
        mean = (
            np.sqrt(bar[k - 1]) * beta[k - 1] * a + np.sqrt(1 - beta[k - 1]) * (1 - bar[k - 1]) * x
        )
        std = np.sqrt(beta[k - 1] * (1 - bar[k - 1]) / (1 - bar[k]))
        return mean / (1 - bar[k]), max(std, 0.2)

    x = np.asarray(z[:, K], float)
    path = []
    for k in range(K, 0, -1):  # the first of them by the frozen network
        mean, std = gaussian(dict(NEW if k > tuned else OLD), x, k)
        x = mean + std * np.asarray(z[:, k - 1], float)
        path.append(x)
    np.testing.assert_allclose(action, x, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(b.record["chain"][:, 0], path[0], rtol=1e-3, atol=1e-4)

    total, log_ratio = 0.0, np.zeros(M)
    chain = np.asarray(b.record["chain"], float)
    for i, k in enumerate(range(tuned, 0, -1)):
        log = {}
        for name, params in dict(old=OLD, new=NEW).items():
            mean, std = gaussian(params, chain[:, i], k)
            log[name] = norm.logpdf(chain[:, i + 1], mean, std).sum(1)
        ratio = np.exp(log["new"] - log["old"])
        log_ratio += log["new"] - log["old"]
        u = i / (tuned - 1)
        eps = 0.05 + 0.25 * (np.exp(3 * u) - 1) / (np.exp(3) - 1)
        A_k = 0.95 ** (k - 1) * A
        total = total - np.minimum(ratio * A_k, np.clip(ratio, 1 - eps, 1 + eps) * A_k) / tuned
    np.testing.assert_allclose(w.log_ratio, log_ratio, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(dppo.surrogate(w, b, hp), total, rtol=2e-3, atol=2e-4)
    same, none = looked(policy, old, old, b)
    np.testing.assert_allclose(same.log_ratio, 0.0, atol=1e-5)
    np.testing.assert_allclose(none["kl"], 0.0, atol=1e-8)
    assert (np.asarray(whole["kl"]) > 0).all()


@pytest.mark.equation("dppo")
def test_dppo_learns_in_its_last_steps_alone():
    hp = cast(dppo.DPPO(denoise_steps=4, tuned_steps=2))
    policy = denoiser(NETS, 4, 2, hp.std)
    old = OLD | dict(base=NEW["field"])
    _, b = played(policy, old)
    loss = lambda p: dppo.surrogate(policy.judge(p, old, b, KEY), b, hp).mean()
    g = quick(jax.grad(loss))(old)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(g["field"])) > 1e-3
    assert all(not x.any() for x in jax.tree.leaves(g["base"]))


@pytest.mark.equation("bc_ppo")
def test_bc_ppo_clones_by_likelihood():
    """What its cloning descends is the Gaussian's negative log-likelihood of the data."""
    world = SimpleNamespace(
        name="box", action_space=Box(-1.0, 1.0, (D,)), observation_space=Box(-1.0, 1.0, (F,))
    )
    policy = policy_for(world, Network(hidden=()))
    params = shaken(RNG, policy.init(KEY, OBS))
    a = RNG.normal(size=(M, D)).astype(np.float32)
    none = jnp.zeros(M)
    got = bc_ppo.likelihood(policy)(
        params, Transitions(OBS, jnp.asarray(a), none, none, OBS), KEY, None
    )
    layer = params["net"]["params"]["Dense_1"]  # the critic's is the first
    mean = np.asarray(OBS, float) @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"])
    std = np.exp(np.asarray(params["head"]["log_std"], float))
    assert float(got) == pytest.approx(-norm.logpdf(a, mean, std).sum(1).mean(), rel=1e-4)


# ---- CFGRL -----------------------------------------------------------------------------------

LEARNER = cfgrl.learner(box(D), Network(hidden=(4,)))


@functools.cache
def told() -> tuple[Any, Transitions]:
    rng = np.random.default_rng(1)
    b = transitions(rng, M, F, jnp.asarray(rng.uniform(-1, 1, (M, D)), jnp.float32))
    return shaken(rng, LEARNER.init(KEY, b.obs, cast(cfgrl.CFGRL()))), b


def field(params, obs, x, t, c):
    s = jnp.concatenate([obs, jnp.broadcast_to(jnp.eye(3)[c], (len(obs), 3))], -1)
    nets = flow(box(D), Network(hidden=(4,)), more=3)
    return nets.field(dict(field=params["flow"]), s, x, t)


@pytest.mark.equation("cfgrl")
@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_cfgrl_clones_with_the_label_of_an_advantage(dropout):
    params, b = told()
    hp = cast(cfgrl.CFGRL(lr=0.1, dropout=dropout, expectile=0.9))
    new, opt, said = quick(LEARNER.update)(params, LEARNER.opt(params, hp), b, KEY, 0, 0, hp)
    _, critics = cfgrl.ensemble(cfgrl.ActionValue(1, cfgrl.torso(Network(hidden=(4,)))), 2)
    q = critics(new["target"]["critic"], b.obs, b.action)[..., 0].min(0)
    v = cfgrl.ActionValues(1, 1, cfgrl.torso(Network(hidden=(4,))), critic=True).apply(
        new["value"], b.obs
    )
    good = np.asarray(q) >= np.asarray(v)[:, 0, 0]
    assert 0 < good.sum() < M and float(said["good"]) == pytest.approx(good.mean())
    k_x, k_t, _ = jax.random.split(KEY, 3)
    x, t = jax.random.normal(k_x, (M, D)), jax.random.uniform(k_t, (M,))

    def loss(flow):
        L = 0.0
        for m in range(M):
            at = (1 - t[m]) * x[m] + t[m] * b.action[m]
            one = lambda y: y[None]
            v = field(
                dict(flow=flow), one(b.obs[m]), one(at), one(t[m]), 0 if dropout else 1 + good[m]
            )
            L += jnp.square(v[0] - (b.action[m] - x[m])).mean() / M
        return L

    want = quick(jax.grad(loss))(params["flow"])
    got = gradient(opt["flow"], params["flow"])
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-5)


@pytest.mark.equation("cfgrl")
def test_cfgrl_is_guided_from_the_clone_past_what_is_better():
    params, b = told()
    ends = {}
    for w in (0.0, 1.0, 2.5):
        hp = cast(cfgrl.CFGRL(guidance=w, flow_steps=1))
        ends[w] = np.asarray(LEARNER.act(params, b.obs, (), None, 0, hp)[0])
    none, zero = jnp.zeros((M, D)), jnp.zeros(M)
    plain, better = (np.asarray(field(params, b.obs, none, zero, c)) for c in (0, 2))
    for w, end in ends.items():
        want = np.clip(plain + w * (better - plain), -1, 1)
        np.testing.assert_allclose(end, want, rtol=1e-4, atol=1e-6)
