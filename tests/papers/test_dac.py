"""DAC's discriminator, arXiv 1809.02925, by NumPy; its gradient by differences."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.families.imitation import discriminator, rewarded
from jaxrl.families.off_policy import optimisers
from jaxrl.hyper import cast
from jaxrl.papers.imitation.dac import DAC, cross_entropy
from jaxrl.policies import Network
from jaxrl.types import Batch
from tests.papers.by_hand import (
    KEY,
    adam_step,
    close,
    differences,
    forward,
    gradient,
    quick,
    shaken,
)

pytestmark = pytest.mark.equation("dac")

M = 5
HP = cast(DAC(disc_lr=0.02, lr=0.9, penalty=3.0))


def pairs(seed):
    rng = np.random.default_rng(seed)
    obs = jnp.asarray(rng.normal(size=(M, 2)), jnp.float32)
    action = jnp.asarray(rng.uniform(-1, 1, (M, 1)), jnp.float32)
    b = SimpleNamespace(obs=obs, action=action, terminated=jnp.zeros(M, bool))
    return b, np.concatenate([obs, action, np.zeros((M, 1))], 1)


def sigmoid(h):
    return 1 / (1 + np.exp(-h))


def slope(p, x):
    """∇D of a network with one hidden layer, [M, n]."""
    first, last = p["params"]["MLP_0"]["Dense_0"], p["params"]["Dense_0"]
    h = np.tanh(x @ first["kernel"] + first["bias"])
    return ((1 - h**2) * last["kernel"][:, 0]) @ first["kernel"].T


def test_the_discriminator_s_step():
    (expert, x), (replayed, y) = pairs(0), pairs(1)
    init, _, update = discriminator(Network(hidden=(4,), activation="tanh"), cross_entropy)
    params = dict(discriminator=shaken(np.random.default_rng(2), init(KEY, jnp.asarray(x))))
    opt = optimisers("discriminator")(params, HP)
    step = lambda p, o: update(p, o, expert, replayed, KEY, 0, HP)
    new, opt, stats = quick(step)(params, opt)
    u = np.asarray(jax.random.uniform(jax.random.split(KEY, 3)[2], (M, 1)))

    def likelihood(p):
        D_x, D_y = sigmoid(forward(p, x)), sigmoid(forward(p, y))
        return np.log(D_x).mean() + np.log(1 - D_y).mean()

    def loss(p):
        norms = np.linalg.norm(slope(p, u * x + (1 - u) * y), axis=1)
        return -likelihood(p) + 3.0 * np.square(norms - 1).mean()

    entry = params["discriminator"]
    want = differences(loss, entry)
    close(gradient(opt["discriminator"], entry), want, rtol=1e-3, atol=1e-4)
    moved = jax.tree.map(np.subtract, new["discriminator"], entry)
    close(moved, adam_step(gradient(opt["discriminator"], entry), 0.02), atol=1e-5)
    np.testing.assert_allclose(stats["disc_loss"], -likelihood(entry), rtol=1e-4)


def test_the_reward_is_the_odds():
    _, x = pairs(3)
    init, D, _ = discriminator(Network(hidden=(4,), activation="tanh"), cross_entropy)
    p = shaken(np.random.default_rng(4), init(KEY, jnp.asarray(x)))
    obs, action = x[:, None, :2], x[:, None, 2:3]
    rows = Batch(obs, action, (), None, terminated=jnp.zeros((M, 1), bool))
    h = forward(p, x)[:, 0]
    want = np.log(sigmoid(h)) - np.log(1 - sigmoid(h))
    got = rewarded(partial(D, p), rows, HP).reward[:, 0]
    np.testing.assert_allclose(got, want, rtol=1e-3)
