"""PG-Rainbow, arXiv 2407.13146: the quantile loss, the fusion, and who learns what from whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from jaxrl.core import train
from jaxrl.hyper import cast
from jaxrl.networks import MLP
from jaxrl.papers.on_policy import pg_rainbow
from jaxrl.papers.on_policy.pg_rainbow import K, PGRainbow, Rainbow
from jaxrl.policies import Network

pytestmark = pytest.mark.equation("pg_rainbow")

NET = Rainbow(3, functools.partial(MLP, (8,), "tanh"), True)
OBS = jax.random.normal(jax.random.key(0), (4, 2))
PARAMS = NET.init(jax.random.key(1), OBS)


def test_the_quantile_huber_loss_is_the_formula():
    rng = np.random.default_rng(0)
    z, draws, tau = rng.normal(size=(2, 3)), 2 * rng.normal(size=(2, 5)), rng.random((2, 3))
    want = np.zeros(2)
    for m in range(2):
        for i in range(3):
            for j in range(5):
                d = draws[m, j] - z[m, i]
                huber = d**2 / 2 if abs(d) <= 1 else abs(d) - 0.5
                want[m] += abs(tau[m, i] - (d < 0)) * huber / 5
    got = pg_rainbow.quantile_huber(*(jnp.asarray(x) for x in (z, tau, draws)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_its_minimum_is_the_quantiles_of_the_draws():
    """Of returns whose spread is large against the Huber loss's quadratic part."""
    tau = (jnp.arange(K) + 0.5)[None] / K
    returns = 50 * jax.random.normal(jax.random.key(2), (1, 4001))
    opt = optax.adam(1.0)

    @jax.jit
    def fit(z):
        def step(carry, _):
            z, state = carry
            g = jax.grad(lambda z: pg_rainbow.quantile_huber(z, tau, returns).sum())(z)
            updates, state = opt.update(g, state)
            return (z + updates, state), None

        return jax.lax.scan(step, (z, opt.init(z)), None, 400)[0][0]

    want = np.quantile(np.asarray(returns), np.asarray(tau[0]))
    np.testing.assert_allclose(fit(jnp.zeros((1, K)))[0], want, atol=3)


def test_the_critic_fuses_its_features_with_the_best_actions_quantiles():
    mid = jnp.broadcast_to((jnp.arange(K) + 0.5) / K, (4, K))
    Z = NET.apply(PARAMS, OBS, mid)  # [M, K, actions]
    q = np.stack([z[:, np.argmax(z.sum(0))] for z in np.asarray(Z)])
    own = PARAMS["params"]
    heads = {k: v for k, v in own.items() if k.startswith("ActorCritic")}["ActorCritic_0"]
    h = np.tanh(OBS @ heads["critic"]["Dense_0"]["kernel"] + heads["critic"]["Dense_0"]["bias"])
    v = h @ heads["Dense_0"]["kernel"] + heads["Dense_0"]["bias"]
    two, one = own["Dense_3"], own["Dense_2"]
    if two["kernel"].shape[-1] != 1:
        two, one = one, two
    fused = np.maximum((v * q) @ one["kernel"] + one["bias"], 0) @ two["kernel"] + two["bias"]
    np.testing.assert_allclose(NET.apply(PARAMS, OBS)[1], fused[:, 0], rtol=1e-4, atol=1e-5)


def test_the_critics_gradient_stops_at_the_quantiles():
    def grads(net):
        g = jax.grad(lambda p: net.apply(p, OBS)[1].sum())(PARAMS)["params"]["iqn"]
        return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(g))

    assert grads(NET) == 0 < grads(NET.clone(distil=False))


@pytest.mark.slow
def test_the_quantiles_of_a_known_return_are_learned():
    """An episode of one step, whose reward is certain: every quantile is that reward."""
    world = envs.make("probe/match")
    algo = pg_rainbow.make(world, Network(hidden=(16,)))
    hp = cast(PGRainbow(num_envs=32, num_steps=8, lr=0.01, normalise_reward=False, ent_coef=1.0))
    s, _ = jax.jit(lambda k: train(algo, k, hp, world, 60))(jax.random.key(0))
    net = Rainbow(2, functools.partial(MLP, (16,), "tanh"), True)
    obs = jnp.array([[1.0], [-1.0]])
    tau = jnp.broadcast_to((jnp.arange(K) + 0.5) / K, (2, K))
    Z = np.asarray(net.apply(s.params["net"], obs, tau))
    want = np.array([[-1.0, 1.0], [1.0, -1.0]])
    np.testing.assert_allclose(Z, np.broadcast_to(want[:, None], Z.shape), atol=0.2)
