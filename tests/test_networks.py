"""Networks against numpy, and the initialiser against the Haar measure."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.networks import CNN, MLP, ActorCritic, Conv, Recurrent, orthogonal, product

KEY = jax.random.key(0)
small = partial(MLP, (8,))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numbers(net, *inputs):
    """Parameters from numpy, all of which matter: nothing is compiled, no bias is 0."""
    flat, structure = jax.tree.flatten(jax.eval_shape(net.init, KEY, *inputs))
    return jax.tree.unflatten(structure, [0.5 * normal(i, *x.shape) for i, x in enumerate(flat)])


# ---- orthogonal ----


def test_orthogonal_rows_or_columns():
    shapes = [(4, 64), (64, 64), (64, 2), (256, 256), (3, 3, 4, 16), (3, 3, 2, 32), (1, 8)]
    gain = 0.01

    @jax.jit
    def draw(key):
        return [orthogonal(gain)(key, shape) for shape in shapes]

    for shape, w in zip(shapes, draw(KEY)):
        assert w.shape == shape and w.dtype == jnp.float32
        m = np.asarray(w, np.float64).reshape(-1, shape[-1]) / gain
        gram = m.T @ m if m.shape[0] >= m.shape[1] else m @ m.T  # the shorter side is orthonormal
        np.testing.assert_allclose(gram, np.eye(min(m.shape)), atol=1e-4, err_msg=str(shape))
    assert orthogonal()(KEY, (4, 4), jnp.bfloat16).dtype == jnp.bfloat16


def test_orthogonal_is_uniform_over_the_group():
    """Moments and the law of an entry against scipy's sampler (a QR with its signs made right)."""
    n, m = 4, 4000
    q = np.asarray(jax.jit(jax.vmap(lambda k: orthogonal()(k, (n, n))))(jax.random.split(KEY, m)))
    haar = stats.ortho_group.rvs(n, size=m, random_state=0)
    np.testing.assert_allclose(q.mean(0), 0, atol=5 * 0.5 / m**0.5)  # an entry's deviation is 1/√n
    np.testing.assert_allclose((q**2).mean(0), 1 / n, atol=0.03)
    np.testing.assert_allclose((q**4).mean(), 3 / (n * (n + 2)), rtol=0.05)  # Haar's fourth moment
    for of in (lambda x: x[:, 0, 0], lambda x: x[:, 2, 3], lambda x: np.trace(x, axis1=1, axis2=2)):
        assert stats.ks_2samp(of(q), of(haar)).pvalue > 1e-3
    sign = np.linalg.det(q.astype(np.float64))  # rotations and reflections alike
    np.testing.assert_allclose(np.abs(sign), 1, atol=1e-4)
    assert abs((sign > 0).mean() - 0.5) < 5 * 0.5 / m**0.5


def test_vmapped_initialisation_runs_without_a_qr():
    """A batched QR hangs jaxlib 0.10.2 on two cores: 32 seeds, really run."""
    net, gru = ActorCritic(3, partial(CNN, (8,)), True), Recurrent(3, small, 16)
    obs, start, memory = jnp.zeros((1, 2, 4)), jnp.ones((1, 2), bool), jnp.zeros((2, 16))
    images, keys = jnp.zeros((2, 5, 5, 2)), jax.random.split(KEY, 32)
    both = [
        jax.vmap(lambda k: net.init(k, images)),
        jax.vmap(lambda k: gru.init(k, obs, start, memory)),
    ]
    for init in both:
        text = (jax.jit(init).lower(keys).as_text() + str(jax.make_jaxpr(init)(keys))).lower()
        for word in ("geqrf", "householder", "orgqr", "qr[", "svd", "eigh", "callback"):
            assert word not in text, word
    program = jax.jit(both[0]).lower(keys)
    params = jax.block_until_ready(program.compile()(keys))
    kernels = [x for x in jax.tree.leaves(params) if x.ndim > 2]  # with the seeds' axis
    assert len(kernels) == 4  # convolution, dense, policy, value
    for w in kernels:
        w = np.asarray(w, np.float64).reshape(32, -1, w.shape[-1])
        assert not np.allclose(w[0], w[1])  # one key, one draw
        s = np.linalg.svd(w, compute_uv=False)  # a gain times an orthogonal matrix
        np.testing.assert_allclose(s / s[:, :1], 1.0, atol=1e-3)


# ---- actor and critic ----


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "torso, shape", [(small, (5,)), (small, (2, 3)), (partial(CNN, (8,)), (5, 5, 2))]
)
def test_actor_critic_shapes(torso, shape, shared):
    obs = jnp.asarray(normal(0, 7, *shape))
    for values in (0, 3):
        net = ActorCritic(4, torso, shared, values)
        (x, v), params = jax.eval_shape(net.init_with_output, KEY, obs)
        assert x.shape == (7, 4) and v.shape == ((7, 3) if values else (7,))
        assert set(params["params"]) >= ({"actor"} if shared else {"actor", "critic"})
        assert ("critic" in params["params"]) != shared


def test_separate_trunks_share_nothing_and_a_shared_one_does():
    obs = jnp.asarray(normal(0, 7, 5))

    def moved_by(net, part, output):
        """Whether the gradient of an output with respect to a trunk is not 0."""
        params = numbers(net, obs)
        grads = jax.jit(jax.grad(lambda p: (net.apply(p, obs)[output] ** 2).sum()))(params)
        return any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["params"][part]))

    net = ActorCritic(4, small)
    assert moved_by(net, "actor", 0) and not moved_by(net, "actor", 1)
    assert moved_by(net, "critic", 1) and not moved_by(net, "critic", 0)
    net = ActorCritic(4, small, True)
    assert moved_by(net, "actor", 0) and moved_by(net, "actor", 1)


def test_the_mlp_is_the_numpy_mlp():
    obs = normal(0, 3, 5)
    net = ActorCritic(2, partial(MLP, (8, 6), "relu"))
    params = numbers(net, obs)
    w = jax.tree.map(np.asarray, params["params"])

    def layer(p, x):
        return x @ p["kernel"] + p["bias"]

    def trunk(p, x):
        for k in sorted(p):
            x = np.maximum(layer(p[k], x), 0)
        return x

    def leaves(width):  # the last layer of that width, wherever flax puts it
        (p,) = [p for k, p in w.items() if k.startswith("Dense") and p["bias"].shape == (width,)]
        return p

    x, v = net.apply(params, obs)
    np.testing.assert_allclose(x, layer(leaves(2), trunk(w["actor"], obs)), rtol=1e-4, atol=1e-5)
    want = layer(leaves(1), trunk(w["critic"], obs))[:, 0]
    np.testing.assert_allclose(v, want, rtol=1e-4, atol=1e-5)


OBS = {
    "a": normal(1, 6, 2, 2),
    "action_mask": np.ones((6, 4), bool),
    "count": np.arange(6, dtype=np.int32),
    "privileged": normal(2, 6, 3),
}


def influence(f, obs):
    """Which entries change each output of f: [actor's, critic's], by perturbation."""
    base, reads = f(obs), (set(), set())
    for k, v in obs.items():
        other = f({**obs, k: ~v if v.dtype == bool else v + 1})
        for i in (0, 1):
            if not np.array_equal(base[i], other[i]):
                reads[i].add(k)
    return list(reads)


def test_only_the_critic_reads_what_is_privileged():
    net = ActorCritic(4, small)
    params = numbers(net, OBS)
    f = jax.jit(partial(net.apply, params))
    assert influence(f, OBS) == [{"a", "count"}, {"a", "count", "privileged"}]
    only = jax.grad(lambda z: f({**OBS, "privileged": z})[0].sum())(OBS["privileged"])
    assert (only == 0).all()


@pytest.mark.parametrize("net", ["shared", "recurrent"])
def test_an_actor_that_shares_its_trunk_does_not_read_it_either(net):
    if net == "shared":
        net = ActorCritic(4, small, True)
        f = jax.jit(partial(net.apply, numbers(net, OBS)))
        obs = OBS
    else:
        net = Recurrent(4, small, 8)
        obs = {k: v[None] for k, v in OBS.items()}
        rest = jnp.zeros((1, 6), bool), jnp.asarray(normal(3, 6, 8))
        params = numbers(net, obs, *rest)
        f = jax.jit(lambda obs: net.apply(params, obs, *rest))
    assert "privileged" not in influence(f, obs)[0]
    assert {"a", "count"} == influence(f, obs)[0]


# ---- recurrent ----


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_recurrent_is_a_numpy_gru_with_resets():
    """The equations of flax's GRUCell, step by step, memory 0 at a start."""
    t, n, units = 7, 3, 5
    net = Recurrent(2, small, units, 2)
    obs, memory = normal(0, t, n, 4), normal(1, n, units)
    start = np.zeros((t, n), bool)
    start[0, 1] = start[3, 0] = start[4, 0] = start[6, 2] = True
    params = numbers(net, obs, start, memory)
    w = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    (gru,) = [p for k, p in w.items() if k.startswith("GRUCell")]
    (trunk,) = w["torso"].values()
    last = [p for k, p in sorted(w.items()) if k.startswith("Dense")]

    def layer(p, x):
        return x @ p["kernel"] + p.get("bias", 0.0)

    want = [np.zeros((t, n, 2)), np.zeros((t, n, 2)), np.zeros((n, units))]
    for j in range(n):
        h = memory[j].astype(np.float64)
        for i in range(t):
            h = np.zeros(units) if start[i, j] else h
            y = np.tanh(layer(trunk, obs[i, j]))
            r = sigmoid(layer(gru["ir"], y) + layer(gru["hr"], h))
            z = sigmoid(layer(gru["iz"], y) + layer(gru["hz"], h))
            m = np.tanh(layer(gru["in"], y) + r * layer(gru["hn"], h))
            h = (1 - z) * m + z * h
            want[0][i, j], want[1][i, j] = layer(last[1], h), layer(last[0], h)
        want[2][j] = h
    got = jax.jit(net.apply)(params, obs, start, memory)
    assert [x.shape for x in got] == [x.shape for x in want]
    for x, y in zip(got, want):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    # what was before a start is forgotten, exactly; where there was none it is not
    other = jax.jit(net.apply)(params, obs, start, memory + 1)
    np.testing.assert_array_equal(other[0][:, 1], got[0][:, 1])
    np.testing.assert_array_equal(other[0][3:, 0], got[0][3:, 0])
    assert (np.abs(other[0][:3, 0] - got[0][:3, 0]) > 1e-4).any(-1).all()
    one = Recurrent(2, small, units)  # a scalar value has no last axis
    shapes = jax.eval_shape(one.init_with_output, KEY, obs, start, memory)[0]
    assert shapes[1].shape == (t, n)


def test_a_convolution_is_jaxs():
    """The same sums as lax's convolution, gradients too, from the kernel reshaped."""
    x = jax.random.normal(jax.random.key(0), (5, 7, 6, 3))
    net = Conv(4)
    params = net.init(jax.random.key(1), x)

    def ours(params):
        return net.apply(params, x)

    def theirs(params):
        dense = params["params"]["Dense_0"]
        kernel = dense["kernel"].reshape(3, 3, 3, 4)
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        return y + dense["bias"]

    np.testing.assert_allclose(ours(params), theirs(params), atol=1e-5)
    a, b = (jax.grad(lambda p, f=f: jnp.sin(f(p)).sum())(params) for f in (ours, theirs))
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-3), a, b)


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_the_product_has_the_derivatives_of_a_product(shape):
    """First and second, forward and backward, of each argument, and for many seeds at once."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (5, 4)))
    dx, dw = jnp.sin(x), jnp.cos(w)

    def facts(mul):
        f = lambda x, w: jnp.sum(jnp.tanh(mul(x, w)) ** 2)
        g = jax.grad(f, (0, 1))
        out, forward = jax.jvp(mul, (x, w), (dx, dw))
        many = jax.vmap(g)(jnp.stack([x, dx]), jnp.stack([w, dw]))
        return out, forward, g(x, w), jax.jvp(g, (x, w), (dx, dw))[1], many

    got, want = facts(product), facts(jnp.matmul)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), got, want)
