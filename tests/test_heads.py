"""Heads against scipy, quadrature and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from envs.spaces import Box, Discrete, MultiDiscrete
from jaxrl import heads
from jaxrl.errors import InputError

KEY = jax.random.key(0)


def normal(seed, *shape, scale=1.0):
    """Float32 numbers from numpy, the same in every run."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def softmax(x, ok=True):
    """Probabilities in float64, over the allowed entries only."""
    p = np.exp(x.astype(np.float64) - x.max()) * ok
    return p / p.sum(-1, keepdims=True)


def judged(head, x, raw, obs=None, own=None, y=None):
    """From the head's outputs x: log_prob of raw, entropy, mode, and KL to the outputs y."""
    own = head.init() if own is None else own

    @jax.jit
    def facts(x, y, raw):
        p, q = (head.distribution(head.output(own, z, obs)) for z in (x, y))
        return p.log_prob(raw), p.entropy(), p.mode(), p.kl_divergence(q)

    return [np.asarray(z) for z in facts(x, x if y is None else y, raw)]


# ---- categorical ----


@pytest.mark.parametrize("masked", [False, True])
def test_categorical(masked):
    head, x, y = heads.categorical(5), normal(1, 7, 5, scale=2.0), normal(2, 7, 5)
    ok = np.random.default_rng(3).random((7, 5)) < 0.6 if masked else np.ones((7, 5), bool)
    ok[:, 3] = True  # at least one
    obs = dict(action_mask=jnp.asarray(ok), x=jnp.zeros((7, 2))) if masked else jnp.zeros((7, 2))
    p, q = softmax(x, ok), softmax(y, ok)
    assert head.size == 5 and head.init() == {}
    for a in (0, 3, 4):
        log_prob, entropy, mode, kl = judged(head, x, np.full(7, a), obs, y=y)
        assert log_prob.shape == entropy.shape == mode.shape == kl.shape == (7,)
        np.testing.assert_allclose(np.exp(log_prob), p[:, a], atol=1e-6)
    for i in range(7):  # the entropy and KL of the smaller distribution, over the allowed alone
        np.testing.assert_allclose(entropy[i], stats.entropy(p[i][ok[i]]), atol=1e-5)
        np.testing.assert_allclose(kl[i], stats.entropy(p[i][ok[i]], q[i][ok[i]]), atol=1e-5)
    np.testing.assert_array_equal(mode, p.argmax(-1))


def test_masked_actions_are_never_taken_and_give_finite_gradients():
    head, ok = heads.categorical(4), np.array([[1, 0, 1, 0], [0, 1, 0, 0]], bool)
    obs = dict(action_mask=jnp.asarray(ok))
    # the network prefers what is masked
    x = jnp.array([[0.0, 50.0, 1.0, 80.0], [0.0, -30.0, 60.0, 1.0]])

    @jax.jit
    def sample(x, key):
        out = head.output({}, x, obs)
        keys = jax.random.split(key, 20_000)
        pi = head.distribution(out)
        return jax.vmap(lambda k: head.sample(pi, head.noise(k, (2,))))(keys)

    a = np.asarray(sample(x, KEY))
    assert a.shape == (20_000, 2) and a.dtype == np.int32
    assert set(a[:, 0]) == {0, 2} and set(a[:, 1]) == {1}
    p2 = np.exp(1.0) / (1.0 + np.exp(1.0))
    assert abs((a[:, 0] == 2).mean() - p2) < 5 * np.sqrt(p2 * (1 - p2) / 20_000)
    assert head.distribution(head.output({}, x, obs)).mode().tolist() == [2, 1]

    @jax.jit
    @jax.grad
    def slope(x):
        p = head.distribution(head.output({}, x, obs))
        q = head.distribution(head.output({}, x * 0.5 + 1.0, obs))
        return (p.log_prob(jnp.array([0, 1])) + p.entropy() + p.kl_divergence(q)).sum()

    g = np.asarray(slope(x))
    assert np.isfinite(g).all() and (g[~ok] == 0).all() and abs(g[0, 0]) > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_multi_discrete_is_a_sum_of_categoricals(masked):
    n, m = (3, 5, 2), 4
    head, x, y = heads.multi_discrete(n), normal(4, m, 10), normal(5, m, 10)
    rng = np.random.default_rng(6)
    ok = rng.random((m, 3, 5)) < 0.7 if masked else np.ones((m, 3, 5), bool)
    ok[..., 0] = True
    obs = dict(action_mask=jnp.asarray(ok)) if masked else None
    raw = np.stack([rng.integers(0, k, m) for k in n], -1)
    raw = np.where(np.take_along_axis(ok, raw[..., None], -1)[..., 0], raw, 0)
    log_prob, entropy, kl, best = np.zeros(m), np.zeros(m), np.zeros(m), np.zeros((m, 3), int)
    for i in range(m):
        for j, start in enumerate([0, 3, 8]):  # by hand: where each component's logits begin
            may = ok[i, j, : n[j]]
            p, q = (softmax(z[i, start : start + n[j]], may) for z in (x, y))
            log_prob[i] += np.log(p[raw[i, j]])
            entropy[i] += stats.entropy(p[may])
            kl[i] += stats.entropy(p[may], q[may])
            best[i, j] = p.argmax()
    got = judged(head, x, raw, obs, y=y)
    assert head.size == 10
    np.testing.assert_allclose(got[0], log_prob, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[1], entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[2], best)
    np.testing.assert_allclose(got[3], kl, rtol=1e-5, atol=1e-5)

    @jax.jit
    def sample(x, keys):
        pi = head.distribution(head.output({}, x, obs))
        return jax.vmap(lambda k: head.sample(pi, head.noise(k, (m,))))(keys)

    a = sample(x, jax.random.split(KEY, 500))
    assert a.shape == (500, m, 3) and (a < np.array(n)).all() and (a >= 0).all()
    assert np.take_along_axis(ok, np.moveaxis(np.asarray(a), 0, -1), -1).all()


# ---- Gaussians ----


@pytest.mark.parametrize("state_std", [False, True])
def test_gaussian_is_the_multivariate_normal(state_std):
    m, d = 6, 3
    head = heads.gaussian(d, state_std=state_std, log_std=-0.5)
    assert head.size == (2 * d if state_std else d)
    loc, raw, loc2 = normal(7, m, d), normal(8, m, d), normal(9, m, d)
    if state_std:
        logs = normal(10, m, d)
        own, x, y = {}, np.concatenate([loc, logs], -1), np.concatenate([loc2, logs * 0.5], -1)
        sigma, sigma2 = np.exp(logs - 0.5), np.exp(logs * 0.5 - 0.5)
        assert head.init() == {}
    else:
        np.testing.assert_allclose(head.init()["log_std"], [-0.5] * d)
        own, x, y = dict(log_std=jnp.array([0.3, -1.0, 0.0])), loc, loc2
        sigma = sigma2 = np.broadcast_to(np.exp([0.3, -1.0, 0.0]), (m, d))
    log_prob, entropy, mode, kl = judged(head, x, raw, own=own, y=y)
    for i in range(m):
        p = stats.multivariate_normal(loc[i], np.diag(sigma[i] ** 2))
        np.testing.assert_allclose(log_prob[i], p.logpdf(raw[i]), rtol=1e-5)
        np.testing.assert_allclose(entropy[i], p.entropy(), rtol=1e-5)
        s, s2 = np.diag(sigma[i] ** 2), np.diag(sigma2[i] ** 2)  # the textbook's matrix form
        gap = loc2[i] - loc[i]
        want = np.trace(np.linalg.solve(s2, s)) - d + gap @ np.linalg.solve(s2, gap)
        want = 0.5 * (want + np.linalg.slogdet(s2)[1] - np.linalg.slogdet(s)[1])
        np.testing.assert_allclose(kl[i], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mode, loc)
    np.testing.assert_array_equal(head.action(jnp.asarray(raw)), raw)


def test_gaussian_samples_have_its_moments():
    head, n = heads.gaussian(2, state_std=True), 40_000
    x = jnp.broadcast_to(jnp.array([1.0, -2.0, np.log(0.5), np.log(2.0)]), (n, 4))
    pi = head.distribution(head.output({}, x, None))
    a = np.asarray(head.sample(pi, head.noise(KEY, (n,))))
    np.testing.assert_allclose(a.mean(0), [1, -2], atol=5 * 2 / n**0.5)
    np.testing.assert_allclose(a.std(0), [0.5, 2.0], rtol=0.02)
    assert abs(np.corrcoef(a.T)[0, 1]) < 0.03


def test_the_state_dependent_scale_is_clipped():
    head = heads.gaussian(1, state_std=True)
    out = head.output({}, jnp.array([[0.0, -80.0], [0.0, 80.0], [0.0, 0.5]]), None)
    np.testing.assert_allclose(out["scale"][:, 0], np.exp([-5.0, 2.0, 0.5]), rtol=1e-6)


# ---- squashed ----


def squashed(loc, scale):
    """A squashed head's distribution in one dimension."""
    return heads.gaussian(1, squash=True).distribution(
        dict(loc=jnp.array([loc], jnp.float32), scale=jnp.array([scale], jnp.float32))
    )


@pytest.mark.parametrize("loc, scale", [(0.0, 0.3), (0.5, 0.7), (-1.0, 1.0)])
def test_the_squashed_density_integrates_to_one(loc, scale):
    pi, action = squashed(loc, scale), heads.gaussian(1, squash=True).action
    log_prob = jax.jit(jax.vmap(pi.log_prob))

    def density(a):  # of the *action*, on (-1, 1): the change of variables by numpy's arctanh
        return np.exp(log_prob(jnp.arctanh(np.float32(a)).reshape(-1, 1)))

    mid = 1 - 10 ** np.linspace(-6, -0.01, 1500)  # dense towards the boundary
    grid = np.concatenate([-mid, mid[::-1]])
    grid = np.unique(grid.astype(np.float32)).astype(np.float64)
    assert abs(integrate.trapezoid(density(grid), grid) - 1.0) < 2e-3
    mean = integrate.trapezoid(density(grid) * grid, grid)  # against numpy's samples
    u = loc + scale * np.random.default_rng(0).normal(size=200_000)
    assert abs(mean - np.tanh(u).mean()) < 5e-3
    np.testing.assert_allclose(action(jnp.array([0.3, -2.0])), np.tanh([0.3, -2.0]), rtol=1e-6)


def test_squashed_log_prob_is_the_change_of_variables_and_finite_at_the_boundary():
    """hil-serl#6, reppo#4, ray#14878: the inverse of tanh, and log(1 - tanh²), end in NaN there."""
    u = np.array([-20, -9.1, -3, -0.5, 0, 0.1, 2, 8.5, 15, 20], np.float32)
    wide = u.astype(np.float64)
    exact = 2 * np.log(2) - 2 * np.logaddexp(wide, -wide)  # -2 log cosh
    np.testing.assert_allclose(heads.log_det_tanh(jnp.asarray(u)), exact, rtol=1e-5, atol=1e-6)
    slope = jax.vmap(jax.grad(heads.log_det_tanh))(jnp.asarray(u))
    np.testing.assert_allclose(slope, -2 * np.tanh(u), rtol=1e-5, atol=1e-6)

    def log_prob(loc, log_scale, u):
        head = heads.gaussian(1, state_std=True, squash=True)
        pi = head.distribution(head.output({}, jnp.stack([loc, log_scale])[None], None))
        return pi.log_prob(u[None, None])[0], pi.entropy()[0]

    both = jax.value_and_grad(lambda *x: sum(log_prob(*x)), (0, 1, 2))
    each = jax.jit(jax.vmap(both, (None, None, 0)))
    value, slopes = each(jnp.float32(0.2), jnp.float32(-0.3), jnp.asarray(u))
    assert np.isfinite(value).all() and all(np.isfinite(g).all() for g in slopes)
    only = jax.vmap(lambda u: log_prob(jnp.float32(0.2), jnp.float32(-0.3), u)[0])(jnp.asarray(u))
    np.testing.assert_allclose(only, stats.norm(0.2, np.exp(-0.3)).logpdf(u) - exact, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0])
def test_squashed_entropy_and_kl_against_monte_carlo(scale):
    head, d, n = heads.gaussian(2, state_std=True, squash=True), 2, 100_000
    x = jnp.array([0.8, -0.3, np.log(scale), np.log(scale)])[None]
    y = jnp.array([0.5, 0.1, np.log(scale * 1.2), np.log(scale * 0.8)])[None]

    @jax.jit
    def estimate(key):
        p, q = (head.distribution(head.output({}, z, None)) for z in (x, y))
        u = jax.vmap(lambda k: p.sample(seed=k))(jax.random.split(key, n))
        return -p.log_prob(u), p.log_prob(u) - q.log_prob(u), p.entropy(), p.kl_divergence(q)

    minus, ratio, entropy, kl = (np.asarray(z, np.float64) for z in estimate(KEY))
    assert entropy.shape == kl.shape == (1,) and head.size == 2 * d
    assert abs(minus.mean() - entropy[0]) < 5 * minus.std() / n**0.5 + 1e-3
    assert abs(ratio.mean() - kl[0]) < 5 * ratio.std() / n**0.5 + 1e-3

    def log_det(z, loc):  # E log(1 - tanh^2) by adaptive quadrature, in float64
        f = lambda u: stats.norm(loc, scale).pdf(u) * -2 * (np.logaddexp(u, -u) - np.log(2))
        return integrate.quad(f, loc - 12 * scale, loc + 12 * scale, epsabs=1e-10)[0]

    want = sum(stats.norm(m, scale).entropy() + log_det(0, m) for m in (0.8, -0.3))
    np.testing.assert_allclose(entropy[0], want, atol=1e-3)


# ---- every head, under every transformation ----


def test_no_tracer_leaks_through_jit_scan_and_vmap_and_shapes_are_batched():
    """Mava#1038: a distribution that crosses a vmap fails or has the wrong batch shape."""
    every = {
        "categorical": (heads.categorical(3), ()),
        "multi_discrete": (heads.multi_discrete((3, 2)), (2,)),
        "gaussian": (heads.gaussian(2), (2,)),
        "squashed": (heads.gaussian(2, state_std=True, squash=True), (2,)),
    }
    seeds, t, m = 2, 3, 4

    def facts(head, x, key):  # x [M, size]
        out, other = (head.output(head.init(), z, None) for z in (x, 0.5 * x))
        pi = head.distribution(out)
        raw = pi.sample(seed=key)
        kl = pi.kl_divergence(head.distribution(other))
        each = dict(log_prob=pi.log_prob(raw), entropy=pi.entropy(), kl=kl)
        return each, (raw, head.action(raw), pi.mode()), out

    def run(x, key):  # x: per head [T, M, size]
        def step(total, inputs):
            x, key = inputs
            y = {k: facts(head, x[k], key) for k, (head, _) in every.items()}
            return total + sum(each["log_prob"].sum() for each, *_ in y.values()), y

        return jax.lax.scan(step, 0.0, (x, jax.random.split(key, t)))

    x = {k: normal(11, seeds, t, m, head.size) for k, (head, _) in every.items()}
    with jax.check_tracer_leaks():
        total, y = jax.jit(jax.vmap(run))(x, jax.random.split(KEY, seeds))
    assert total.shape == (seeds,)
    for name, (head, event) in every.items():
        each, actions, out = y[name]
        raw = actions[0]
        assert [a.shape for a in actions] == [(seeds, t, m, *event)] * 3, name
        for k, v in each.items():
            assert v.shape == (seeds, t, m) and np.isfinite(v).all(), (name, k)
        assert (each["kl"] >= -1e-6).all()
        assert {leaf.shape[:3] for leaf in jax.tree.leaves(out)} == {(seeds, t, m)}
        # the arrays that left the scan define the same distribution outside
        again = head.distribution(out).log_prob(raw)
        np.testing.assert_allclose(again, each["log_prob"], rtol=1e-4, atol=1e-5, err_msg=name)
        assert (np.asarray(raw)[0] != np.asarray(raw)[1]).any(), "one sample for all seeds"


# ---- spaces ----


@pytest.mark.parametrize(
    "space, kind, size",
    [
        (Discrete(4), "auto", 4),
        (MultiDiscrete((3, 2)), "auto", 5),
        (Box(-1.0, 1.0, (3,)), "auto", 3),
        (Box(-1.0, 1.0, (3,)), "gaussian", 3),
        (Box(-1.0, 1.0, (3,)), "gaussian_state", 6),
        (Box(-1.0, 1.0, (3,)), "squashed", 6),
    ],
)
def test_for_space(space, kind, size):
    head = heads.for_space(space, kind)
    assert head.size == size
    pi = head.distribution(head.output(head.init(), jnp.full((1, size), 0.4), None))
    raw = pi.mode()
    inside = jnp.tanh(raw) if kind == "squashed" else raw
    np.testing.assert_array_equal(head.action(raw), inside)
    assert space.contains(np.asarray(head.action(raw))[0])


@pytest.mark.parametrize(
    "space, kind",
    [
        (Discrete(4), "gaussian"),
        (Discrete(4), "squashed"),
        (MultiDiscrete((3, 2)), "gaussian_state"),
        (Box(-1.0, 1.0, (3, 2)), "auto"),
        (Box(-1.0, 1.0, ()), "auto"),
        (Box(-1.0, 1.0, (3,)), "tanh"),
        ({"a": Discrete(2)}, "auto"),
    ],
)
def test_for_space_errors_name_the_head_and_the_space(space, kind):
    with pytest.raises(InputError) as error:
        heads.for_space(space, kind)
    message = str(error.value)
    assert "\n" not in message and repr(kind) in message and str(space) in message
