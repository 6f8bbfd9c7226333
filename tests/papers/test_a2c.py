"""A2C (arXiv 1602.01783) and REINFORCE (Williams 1992): one update against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import envs
from jaxrl.core import train
from jaxrl.families.on_policy import on_policy_sampler
from jaxrl.hyper import cast
from jaxrl.papers.on_policy import a2c, reinforce
from jaxrl.papers.on_policy.a2c import A2C
from jaxrl.papers.on_policy.reinforce import REINFORCE
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK

quick = functools.partial(jax.jit, compiler_options=QUICK)  # compiled without XLA's slow passes
WORLD = envs.make("CartPole-v1", max_steps=12)  # episodes are cut, and end, within a rollout
LINEAR = Network(hidden=())
SIZE = dict(num_envs=6, num_steps=30, max_grad_norm=jnp.inf, ent_coef=0.1, vf_coef=0.7)


def returns(b, gamma):
    """Gₜ by its definition: rewards to the end of the episode or the rollout, then V of the state
    there unless it is terminal. [T, N], a loop for each t."""
    T, N = b.reward.shape
    G = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            for i in range(t, T):
                G[t, n] += gamma ** (i - t) * b.reward[i, n]
                if b.done[i, n] or i == T - 1:
                    if not b.terminated[i, n]:
                        G[t, n] += gamma ** (i - t + 1) * b.next_value[i, n]
                    break
    return G


def gradient(params, b, A, target, hp):
    """Of -log π A + vf_coef (V - target)² / 2 - ent_coef H, averaged: (actor, critic), [5, K]."""
    net = params["net"]["params"]
    weights = [np.vstack([net[k]["kernel"], net[k]["bias"]]).astype(float) for k in LAYERS]
    actor, critic = np.zeros((5, 2)), np.zeros((5, 1))
    T, N = A.shape
    for t in range(T):
        for n in range(N):
            x = np.append(np.asarray(b.obs[t, n], float), 1.0)
            z = x @ weights[0]
            p = np.exp(z - z.max())
            p /= p.sum()
            H = -(p * np.log(p)).sum()
            score = np.eye(2)[b.action[t, n]] - p
            entropy = -p * (np.log(p) + H)
            actor += np.outer(x, -score * A[t, n] - hp.ent_coef * entropy) / (T * N)
            critic += np.outer(x, hp.vf_coef * (x @ weights[1] - target[t, n])) / (T * N)
    return actor, critic


LAYERS = "Dense_1", "Dense_0"  # the actor's and the critic's


@pytest.mark.parametrize(
    ("module", "cls", "standardised"),
    [
        pytest.param(a2c, A2C, False, marks=pytest.mark.equation("a2c")),
        pytest.param(reinforce, REINFORCE, True, marks=pytest.mark.equation("reinforce")),
    ],
    ids=["a2c", "reinforce"],
)
def test_one_update_is_one_step_along_the_gradient_written_out(module, cls, standardised):
    hp = cast(cls(**SIZE, lr=0.1))
    algo, policy = module.make(WORLD, LINEAR), policy_for(WORLD, LINEAR)

    @quick
    def run(key):
        s = algo.init(key, hp, WORLD)
        # a policy and a critic that say something: at the start they are nearly uniform
        s = s.replace(
            params=jax.tree.map(
                lambda x: jnp.cos(7.0 * jnp.arange(x.size) + x.ndim).reshape(x.shape), s.params
            )
        )
        _, (_, b, _) = on_policy_sampler(policy).apply((), s, None, 0, hp, WORLD)
        return s.params, b, *algo.step(s, jnp.int32(0), hp, WORLD)

    params, b, got, stats = run(jax.random.key(2))
    b = jax.tree.map(np.asarray, b)
    ends = b.terminated.sum(), (b.done & ~b.terminated).sum(), (~b.done[-1]).sum()
    assert min(ends) > 0, "an episode must end in each of the three ways"

    G = returns(b, 0.99)
    A = G - b.value
    if standardised:
        A = (A - A.mean()) / A.std()
    want = gradient(params, b, A, G, hp)
    back = ravel_pytree(params)[1]  # the optimiser sees one vector
    net, mu = got.params["net"]["params"], back(got.opt[1][0].mu)["net"]["params"]
    for g, name in zip(want, LAYERS):
        # Adam's first moment is (1 - 0.9) g, and its first step lr g / (|g| + eps)
        moment = np.vstack([mu[name]["kernel"], mu[name]["bias"]])
        np.testing.assert_allclose(moment / 0.1, g, rtol=1e-3, atol=1e-4)
        moved = np.vstack(
            [net[name][k] - params["net"]["params"][name][k] for k in net[name]][::-1]
        )
        np.testing.assert_allclose(moved, -0.1 * g / (np.abs(g) + 1e-5), rtol=1e-2)
    norm = np.sqrt(sum((g**2).sum() for g in want))
    np.testing.assert_allclose(stats["grad_norm"], norm, rtol=1e-4)


def learned(algo, hp, world):
    """What two iterations learn with (seed, λ) of (0, 1), (0, 0.5) and (1, 1), in one program."""
    f = lambda k, lam: train(algo, k, hp.replace(lam=lam), world, 2)[0].params
    keys, lam = jax.vmap(jax.random.key)(jnp.array([0, 0, 1])), jnp.array([1.0, 0.5, 1.0])
    leaves = [np.asarray(x) for x in jax.tree.leaves(quick(jax.vmap(f))(keys, lam))]
    assert all(np.isfinite(x).all() for x in leaves)
    return [np.concatenate([x[i].ravel() for x in leaves]) for i in range(3)]


@pytest.mark.equation("reinforce")
def test_the_return_of_reinforce_is_monte_carlo_whatever_lambda():
    network = Network(hidden=(4,))
    hp = REINFORCE(num_envs=4, num_steps=8)
    one, other, seed = learned(reinforce.make(WORLD, network), hp, WORLD)
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, seed)


@pytest.mark.equation("a2c")
def test_lambda_mixes_the_returns_of_a2c_for_a_squashed_gaussian_with_a_memory():
    world = envs.make("probe/delay-continuous")
    network = Network(hidden=(4,), head="squashed", memory=3)
    one, other, seed = learned(a2c.make(world, network), A2C(num_envs=4), world)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, seed)


@pytest.mark.equation("a2c")
@pytest.mark.equation("reinforce")
def test_a_rollout_is_one_gradient_step_on_every_class_of_environment():
    for cls in A2C, REINFORCE:
        for kind in "classic", "control", "minatar", "brax":
            hp = cls.for_env(kind)
            assert (hp.epochs, hp.minibatches) == (1, 1)
    assert {A2C.for_env(k).num_steps for k in ("classic", "control", "brax")} == {5}
    assert A2C().lam == 1.0
