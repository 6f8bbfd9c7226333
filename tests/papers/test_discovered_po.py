"""DPO's drift, arXiv 2210.05639, against a loop and what makes a function a drift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import View
from jaxrl.papers.meta import discovered_po
from jaxrl.papers.meta.discovered_po import DPO
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("discovered_po")

RATIOS = [0.05, 0.4, 0.8, 0.99, 1.0, 1.01, 1.2, 1.9, 6.0]
ADVANTAGES = [-3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 2.5]
R, A = (x.ravel() for x in np.meshgrid(RATIOS, ADVANTAGES))


def surrogate(log_ratio, advantage, hp):
    w = View(log_ratio, log_ratio, jnp.zeros(()), *[lambda: jnp.zeros(())] * 3, None)
    return discovered_po.mirror(w, Batch(0, 0, 0, 0, advantage=advantage), hp)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.6), (0.5, 3.0)])
def test_the_loss_is_the_formula(alpha, beta):
    want = []
    for r, a in zip(R, A):
        if a >= 0:
            f = max((r - 1) * a - alpha * np.tanh((r - 1) * a / alpha), 0.0)
        else:
            f = max(np.log(r) * a - beta * np.tanh(np.log(r) * a / beta), 0.0)
        want.append(-(r * a - f))
    got = surrogate(jnp.log(R), jnp.asarray(A), DPO(alpha=alpha, beta=beta))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_it_is_a_drift():
    """Never negative; nothing and flat at r = 1, whatever the advantage."""
    f = jax.vmap(jax.value_and_grad(discovered_po.drift), (0, 0, None))
    assert (np.asarray(f(jnp.log(R), jnp.asarray(A), DPO())[0]) >= 0).all()
    one = jnp.zeros(len(ADVANTAGES))
    for x in f(one, jnp.asarray(ADVANTAGES), DPO()):
        assert not x.any()


def test_a_good_action_is_never_stopped_and_a_bad_one_is_rolled_back():
    """-d loss / d log r: up where A > 0, however far; up again where a bad one is rare already."""
    pull = jax.vmap(jax.grad(lambda x, a: -surrogate(x, a, DPO())))
    log_r = jnp.log(jnp.array([1.0, 1.5, 3.0, 1.0, 0.8, 0.4, 0.1]))
    advantage = jnp.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    assert (pull(log_r, advantage) > 0).tolist() == [True] * 3 + [False] * 2 + [True] * 2
