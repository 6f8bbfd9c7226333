"""TRPO's step, arXiv 1502.05477 appendix C, against NumPy with an explicit Fisher matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast
from jaxrl.optim import adam, fisher_vector_product
from jaxrl.papers.on_policy import trpo
from jaxrl.papers.on_policy.trpo import TRPO
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("trpo")

T, N = 6, 4  # of the batch; observations have 1 feature, there are 2 actions
WORLD = envs.make("probe/match")
LINEAR = policy_for(WORLD, Network(hidden=()))
KEY = jax.random.key(0)
# with a learning rate of 0 the critic stays, and only the policy's step is seen
HP = TRPO(lr=0.0, ent_coef=0.1, num_envs=N, num_steps=T, minibatches=1, epochs=1)


quick = functools.partial(jax.jit, compiler_options=QUICK)  # compiled without XLA's slow passes


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@functools.cache
def problem(seed=0):
    """A linear softmax policy with a linear critic, and a batch that it collected."""
    rng = np.random.default_rng(seed)
    obs, theta = rng.normal(size=(T, N, 1)).astype(np.float32), rng.normal(size=4)
    params = jax.tree.map(jnp.ones_like, LINEAR.init(KEY, jnp.asarray(obs[0])))
    params["net"]["params"]["Dense_1"] = layer(theta)
    p = softmax(features(obs) @ theta.reshape(2, 2))
    action = (rng.random((T, N)) < p[:, 1].reshape(T, N)).astype(np.int32)
    A = rng.normal(size=(T, N)).astype(np.float32)
    logits = jnp.asarray(features(obs) @ theta.reshape(2, 2), jnp.float32).reshape(T, N, 2)
    taken = np.take_along_axis(p, action.reshape(-1, 1), 1).reshape(T, N)
    record = dict(raw=jnp.asarray(action), out=logits, log_prob=jnp.log(taken))
    b = Batch(jnp.asarray(obs), action, record, jnp.zeros((T, N), bool), old=record)
    return params, theta, b.replace(advantage=jnp.asarray(A), target=jnp.zeros((T, N)))


def layer(v):
    """The parameters of the policy's only layer, in the order of theta [4]: kernel, then bias."""
    return dict(kernel=jnp.asarray(v[:2], jnp.float32)[None], bias=jnp.asarray(v[2:], jnp.float32))


def features(obs):
    """[M, 2]: the observation and 1, for logits = features @ theta [2, 2], a column an action."""
    x = np.asarray(obs, float).reshape(-1, 1)
    return np.concatenate([x, np.ones_like(x)], 1)


def fisher(theta, b):
    """E[φφᵀ ⊗ (diag(p) - ppᵀ)], in the order (kernel, bias): that of theta. [4, 4]"""
    phi = features(b.obs)
    F = np.zeros((4, 4))
    for x, p in zip(phi, softmax(phi @ theta.reshape(2, 2))):
        F += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) / len(phi)
    return F


def objective(theta, old, b, hp):
    """L(θ), E[KL(π_old || π)] and ∇L at θ, by a loop over samples."""
    L, kl, g = 0.0, 0.0, np.zeros((2, 2))
    phi, action, A = features(b.obs), np.ravel(b.action), np.ravel(b.advantage)
    for x, a, adv in zip(phi, action, A):
        p, q = softmax(x @ theta.reshape(2, 2)), softmax(x @ old.reshape(2, 2))
        H = -(p * np.log(p)).sum()
        L += (p[a] / q[a] * adv + hp.ent_coef * H) / len(phi)
        kl += (q * np.log(q / p)).sum() / len(phi)
        score = np.eye(2)[a] - p
        dH = -p * (np.log(p) + H)
        g += np.outer(x, p[a] / q[a] * adv * score + hp.ent_coef * dH) / len(phi)
    return L, kl, g.ravel()


def actor_of(params):
    layer = params["net"]["params"]["Dense_1"]
    return np.concatenate([np.ravel(layer["kernel"]), np.ravel(layer["bias"])])


def with_actor(params, v):
    """A tangent of the parameters: v for the policy's, nothing for the critic's."""
    zero = jax.tree.map(jnp.zeros_like, params)
    zero["net"]["params"]["Dense_1"] = layer(v)
    return zero


def critic_of(params):
    one = params["net"]["params"]["Dense_0"]
    return np.concatenate([np.ravel(one["kernel"]), np.ravel(one["bias"])])


@quick
def product(params, b, v):
    kl = lambda p: LINEAR.judge(p, params, b, KEY).kl().mean()
    return fisher_vector_product(kl, params)(v)


@quick
def update(params, b, hp):
    """The parameters and metrics after one update."""
    s = State(params, adam(hp).init(params), KEY, None, {})
    _, (s, stats) = trpo.trust_region(LINEAR).apply((), s, b, 0, hp, WORLD)
    return s.params, stats


def test_the_fisher_vector_product_is_that_of_the_explicit_matrix():
    params, theta, b = problem()
    F = fisher(theta, b)
    for v in [*np.eye(4), np.array([1.0, -2.0, 0.5, 3.0])]:
        got = product(params, b, with_actor(params, v))
        np.testing.assert_allclose(actor_of(got), F @ v, rtol=1e-4, atol=1e-6)
        assert not critic_of(got).any()  # the KL does not see it


@pytest.mark.parametrize("delta", [0.001, 0.01, 1.0])
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_the_full_step_is_along_the_natural_gradient_and_costs_delta(delta, damping):
    """½ stepᵀ F step = δ. Without a search it is taken whatever the KL turns out to be."""
    params, theta, b = problem(7)
    F, g = fisher(theta, b), objective(theta, theta, b, HP)[2]
    hp = HP.replace(delta=delta, damping=damping, backtracks=0)
    got, stats = update(params, b, cast(hp))
    step = actor_of(got) - theta
    np.testing.assert_allclose(0.5 * step @ F @ step, delta, rtol=1e-3)
    x = np.linalg.solve(F + damping * np.eye(4), g)
    want = np.sqrt(2 * delta / (x @ F @ x)) * x
    np.testing.assert_allclose(step, want, rtol=2e-3, atol=1e-3 * np.abs(want).max())
    assert stats["accepted"] == 1.0
    assert stats["kl"] > delta


@pytest.mark.parametrize(
    ("seed", "delta", "refused"),
    [(0, 0.01, ""), (5, 1.0, ""), (7, 0.01, "kl"), (10, 3.0, "kl"), (8, 3.0, "surrogate")],
)
def test_an_update_is_appendix_c_written_out(seed, delta, refused):
    """Where the full step is taken, and where it breaks one of the two conditions."""
    params, theta, b = problem(seed)
    hp = cast(HP.replace(delta=delta))
    F = fisher(theta, b)
    before, _, g = objective(theta, theta, b, hp)
    x = np.linalg.solve(F + HP.damping * np.eye(4), g)
    step = np.sqrt(2 * delta / (x @ F @ x)) * x
    why = []
    for k in range(HP.backtracks):
        after, kl, _ = objective(theta + 0.5**k * step, theta, b, hp)
        worse = {"surrogate": after <= before, "kl": kl > delta}
        if not any(worse.values()):
            break
        why.append([name for name in worse if worse[name]])
    assert {name for names in why for name in names} == ({refused} if refused else set())
    got, stats = update(params, b, hp)
    assert stats["accepted"] == 0.5**k
    want = theta + 0.5**k * step
    np.testing.assert_allclose(actor_of(got), want, rtol=2e-3, atol=1e-3 * np.abs(want).max())
    np.testing.assert_allclose(stats["kl"], kl, rtol=5e-3)
    assert stats["kl"] <= delta
    gain = objective(want, theta, b, HP.replace(ent_coef=0.0))[0]
    np.testing.assert_allclose(stats["policy_loss"], -gain, rtol=5e-3)
    np.testing.assert_allclose(stats["grad_norm"], np.linalg.norm(g), rtol=1e-4)
    np.testing.assert_array_equal(critic_of(got), critic_of(params))


@pytest.mark.parametrize("why", ["no gradient", "no step shows", "not a number"])
def test_what_cannot_improve_leaves_every_bit_of_the_parameters_alone(why):
    params, _, b = problem()
    hp = HP.replace(ent_coef=0.0)
    if why == "no gradient":
        b = b.replace(advantage=jnp.zeros((T, N)))
    if why == "no step shows":
        hp = hp.replace(delta=1e-20)  # its gain is lost in rounding
    if why == "not a number":
        b = b.replace(advantage=b.advantage.at[2, 1].set(jnp.nan))
    got, stats = update(params, b, cast(hp))
    assert stats["accepted"] == 0.0
    assert (stats["grad_norm"] > 0.01) == (why == "no step shows")
    np.testing.assert_allclose(stats["kl"], 0.0, atol=1e-6)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(params)):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_adam_is_the_critic_s_alone():
    """Its first step on a linear critic; the policy does not move by it, entropy bonus or not."""
    params, theta, b = problem()
    hp = HP.replace(lr=0.1, delta=1e-12, max_grad_norm=jnp.inf)
    got, _ = update(params, b, cast(hp))
    phi, w = features(b.obs), critic_of(params)
    g = HP.vf_coef * ((phi @ w)[:, None] * phi).mean(0)  # the target is 0
    np.testing.assert_allclose(critic_of(got) - w, -0.1 * g / (np.abs(g) + 1e-5), rtol=1e-3)
    np.testing.assert_allclose(actor_of(got), theta, atol=1e-4)


def test_every_step_keeps_its_own_bound_where_the_critic_moves_the_policy_too():
    """A squashed Gaussian with a memory, one trunk for actor and critic; vmapped over seeds and
    bounds. A bound around the policy that collected would refuse many steps."""
    world = envs.make("probe/match-continuous")
    hp = TRPO(lr=0.05, gamma=0.9, num_envs=8, num_steps=8, minibatches=2)
    algo = trpo.make(world, Network(hidden=(4,), head="squashed", memory=4))
    delta = jnp.array([0.001, 0.001, 0.03])

    def run(key, delta):
        return train(algo, key, hp.replace(delta=delta), world, 30)[1]

    keys = jax.vmap(jax.random.key)(jnp.array([0, 1, 1]))
    m = jax.tree.map(np.asarray, quick(jax.vmap(run))(keys, delta))
    assert all(np.isfinite(v).all() for v in m.values())
    taken, bound = m["accepted"] > 0, np.broadcast_to(delta[:, None], m["kl"].shape)
    assert set(np.unique(m["accepted"])) <= {0.0, *0.5 ** np.arange(10)}
    assert taken.mean(1).min() > 0.7
    assert (m["kl"] <= 1.001 * bound)[taken].all()
    assert (m["approx_kl"] > bound)[:2].mean() > 0.2  # from the policy that collected
    assert m["kl"][2].mean() > 5 * m["kl"][1].mean()  # one seed, two bounds
    assert not np.array_equal(m["kl"][0], m["kl"][1])
    assert m["episode_return"][2, -5:].mean() > m["episode_return"][2, :5].mean()
