"""GBRL, arXiv 2407.08250: an update is the tree of minus PPO's gradient, written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_trees import by_hand, data, fit, grow, same, walk

import envs
from envs.spaces import Box, Discrete
from jaxrl import heads, trees
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.papers.on_policy import gbrl
from jaxrl.papers.on_policy.gbrl import GBRL
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("gbrl")
quick = functools.partial(jax.jit, compiler_options=QUICK)  # compiled without XLA's slow passes
KINDS, BINS, DEPTH = np.array([0, 3, 0]), 4, 2
T, N = 8, 5
RATE = dict(lr=0.5, value_lr=0.2)
HP = dict(ent_coef=0.3, vf_coef=0.7, eps=0.1, bins=BINS, depth=DEPTH, trees=8)
TINY = GBRL(num_envs=4, num_steps=8, epochs=2, bins=8, trees=16)


def problem(space, seed):
    """A state with three trees on it, a rollout of noise, and F of its rows: for one update."""
    rng = np.random.default_rng(seed)
    head = heads.for_space(space)
    x = data(KINDS, T * N, rng=rng)[0]
    net = trees.empty(8, DEPTH, head.size + 1)
    for _ in range(3):
        h = fit(*data(KINDS, outputs=head.size + 1, rng=rng), kinds=tuple(KINDS), depth=DEPTH)
        net = trees.append(net, h)
    alone = [jax.tree.map(lambda a, i=i: a[i], net.trees) for i in range(3)]
    F = sum(np.array([walk(by_hand(h), row) for row in x]) for h in alone)
    own = jax.tree.map(lambda w: w - jnp.array([0.3, -0.2]), head.init())
    out = head.output(own, jnp.asarray(F[:, :-1], jnp.float32), None)
    raw = head.distribution(out).sample(seed=jax.random.key(seed))
    # not what the trees say: ratios lie on both sides of the clip
    old = head.distribution(out).log_prob(raw) + 0.2 * rng.normal(size=T * N)
    fold = lambda a: jax.tree.map(lambda a: jnp.asarray(a, a.dtype).reshape(T, N, *a.shape[1:]), a)
    A, target = (rng.normal(size=T * N).astype(np.float32) for _ in range(2))
    record = fold(dict(raw=raw, out=out, log_prob=jnp.asarray(old, jnp.float32)))
    b = Batch(fold(x), record["raw"], record, jnp.zeros((T, N), bool), old=record)
    b = b.replace(value=jnp.zeros((T, N)), advantage=fold(A), target=fold(target))
    s = State(dict(net=net, head=own), (), jax.random.key(0), None, {})
    return head, s, b, (x, F, np.asarray(raw), A, target, np.asarray(old, float))


def slope(A, ratio):
    """Of min(r A, clip(r) A) in log π(a|s)."""
    outside = ((A > 0) & (ratio > 1.1)) | ((A < 0) & (ratio < 0.9))
    assert 5 < outside.sum() < 35
    return np.where(outside, 0.0, ratio * A)[:, None]


def updater(head, **more):
    hp = cast(GBRL(**HP, **RATE, num_envs=N, num_steps=T, **more))
    return quick(lambda s, b: gbrl.boost(head, KINDS).apply((), s, b, 0, hp, None)[1])


def expected(x, F, up, target, most=np.inf):
    """The tree of the rows' ascent directions, each actor's and critic's bounded, at its rates."""
    g = [up, 0.7 * (target - F[:, -1])[:, None]]
    g = [d * np.minimum(1, most / np.linalg.norm(d, axis=1))[:, None] for d in g]
    chosen, leaves = grow(x, np.concatenate(g, 1), BINS, KINDS, DEPTH)
    rate = np.append(np.full(up.shape[1], 0.5), 0.2)
    return chosen, {path: rate * mean for path, mean in leaves.items()}


@pytest.mark.parametrize("most", [np.inf, 0.4])
def test_the_trees_of_a_softmax_are_fitted_to_minus_the_gradient(most):
    """Two passes: the second tree to the gradient where the first has left F."""
    head, s, b, (x, F, a, A, target, old) = problem(Discrete(3), 0)
    after, stats = updater(head, epochs=2, max_grad_norm=most)(s, b)
    net, norms = after.params["net"], []
    assert net.count == stats["trees"] == 5
    for k in (3, 4):
        p = np.exp(F[:, :-1]) / np.exp(F[:, :-1]).sum(1, keepdims=True)
        H = -(p * np.log(p)).sum(1, keepdims=True)
        ratio = p[np.arange(T * N), a] / np.exp(old)
        up = slope(A, ratio) * (np.eye(3)[a] - p) - 0.3 * p * (np.log(p) + H)
        h = expected(x, F, up, target, most)
        same(jax.tree.map(lambda t, k=k: t[k], net.trees), h, rtol=1e-3)
        norms.append((np.square(up).sum(1) + np.square(0.7 * (target - F[:, -1]))).mean() ** 0.5)
        F = F + np.array([walk(h, row) for row in x])
    np.testing.assert_allclose(stats["grad_norm"], np.mean(norms), rtol=1e-4)
    before = jax.tree.map(lambda t: t[:3], (s.params["net"].trees, net.trees))
    jax.tree.map(np.testing.assert_array_equal, *before)


def test_a_gaussian_has_a_tree_for_its_mean_and_a_gradient_step_for_its_scale():
    head, s, b, (x, F, a, A, target, old) = problem(Box(-1.0, 1.0, (2,)), 1)
    log_std = np.array([-0.3, 0.2])
    after, _ = updater(head, epochs=1)(s, b)
    e = (a - F[:, :-1]) / np.exp(log_std)
    up = slope(A, np.exp((-(e**2) / 2 - log_std - np.log(2 * np.pi) / 2).sum(1) - old))
    h = jax.tree.map(lambda t: t[3], after.params["net"].trees)
    same(h, expected(x, F, up * e / np.exp(log_std), target), rtol=1e-3)
    step = 0.5 * ((up * (e**2 - 1)).mean(0) + 0.3)  # the entropy's slope is 1
    np.testing.assert_allclose(after.params["head"]["log_std"], log_std + step, rtol=1e-4)


def test_a_minibatch_has_a_tree_and_a_full_ensemble_learns_no_more():
    """Four minibatches: 3 trees, 7, then 8 of 8."""
    head, s, b, _ = problem(Box(-1.0, 1.0, (2,)), 2)
    update = updater(head, epochs=1, minibatches=4)
    states = [s]
    for count in (7, 8, 8):
        s, stats = update(s, b)
        assert s.params["net"].count == stats["trees"] == count
        states.append(s)
    jax.tree.map(np.testing.assert_array_equal, states[2].params, states[3].params)
    assert (states[2].params["head"]["log_std"] != states[1].params["head"]["log_std"]).all()
    values = np.asarray(s.params["net"].trees.value)
    assert len(np.unique(values.reshape(8, -1), axis=0)) == 8


def test_seeds_and_rates_are_rows_of_one_program():
    """At twice the rate the first tree asks the same and answers twice as much."""
    world = envs.make("CartPole-v1")
    hp = cast(TINY.replace(epochs=1, value_lr=0.1))
    f = lambda k, lr: train(gbrl.make(world), k, hp.replace(lr=lr), world, 3)[0].params["net"]
    keys = jax.vmap(jax.random.key)(jnp.array([0, 0, 1]))
    net = quick(jax.vmap(f))(keys, jnp.array([0.5, 1.0, 0.5]))
    assert (net.count == 3).all()
    one, twice, other = (jax.tree.map(lambda a, i=i: a[i, 0], net.trees) for i in range(3))
    np.testing.assert_array_equal(one.feature, twice.feature)
    np.testing.assert_allclose(one.value * np.array([2.0, 2.0, 1.0]), twice.value, rtol=1e-5)
    assert not np.array_equal(one.low, other.low)
    assert not np.allclose(net.trees.value[0, 2], net.trees.value[1, 2])


@pytest.mark.parametrize(
    ("name", "ask", "values"),
    [("match", [-1.0, 1.0], [1.0, 1.0]), ("delay-continuous", [0.0, 1.0], [0.9, 1.0])],
)
def test_the_critic_reaches_the_exact_values(name, ask, values):
    world = envs.make(f"probe/{name}")
    hp = cast(TINY.replace(gamma=0.9, ent_coef=0.0, num_steps=32, trees=480, lr=0.2))
    algo = gbrl.make(world)
    s = quick(lambda k: train(algo, k, hp, world, 240)[0])(jax.random.key(0))
    V = trees.predict(s.params["net"], jnp.array(ask)[:, None])[:, -1]
    np.testing.assert_allclose(V, values, atol=0.05)
    if name == "match":
        action, _ = algo.act(s, jnp.array(ask)[:, None], (), None, hp)
        np.testing.assert_array_equal(action, [0, 1])


def test_of_a_network_only_the_head_is_looked_at():
    world = envs.make("probe/match-continuous")
    state = lambda **kw: gbrl.make(world, Network(**kw)).init(jax.random.key(0), TINY, world).params
    jax.tree.map(np.testing.assert_array_equal, state(), state(hidden=(3,), shared=True))
    assert state(head="squashed")["net"].trees.value.shape == (16, 16, 3)
    with pytest.raises(InputError, match="^memory: 8; trees remember nothing, so gbrl takes 0$"):
        gbrl.make(world, Network(memory=8))
