"""Hyper++, arXiv 2512.14202: the critic's targets and loss, what is recorded, and the switches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import View
from jaxrl.errors import InputError
from jaxrl.papers.on_policy import hyper_plus_plus as hpp
from jaxrl.papers.on_policy.hyper_plus_plus import HyperPlusPlus
from jaxrl.policies import Network
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("hyper_plus_plus")
quick = functools.partial(jax.jit, compiler_options=QUICK)

KEY = jax.random.key(0)
WIDTH = 20 / 51


def masses(target):
    """N(target, (0.75 width)²) over 51 bins of [-10, 10], by a loop."""
    cdf = lambda x: 0.5 * (1 + math.erf((x - target) / (0.75 * WIDTH) / math.sqrt(2)))
    p = [cdf(-10 + (i + 1) * WIDTH) - cdf(-10 + i * WIDTH) for i in range(51)]
    return np.array(p) / sum(p)


@pytest.mark.parametrize("target", [-9.9, -3.21, 0.0, 0.1, 7.77])
def test_a_target_is_a_gaussian_s_mass_in_each_bin(target):
    p = np.asarray(hpp.hl_gauss(jnp.float32(target)))
    np.testing.assert_allclose(p, masses(target), atol=2e-6)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
    if abs(target) < 9:  # its mean is the target but for the bins' width
        np.testing.assert_allclose((p * hpp.CENTRES).sum(), target, atol=0.01 * WIDTH)


def test_a_target_beyond_the_bins_is_at_their_end():
    p = np.asarray(hpp.hl_gauss(jnp.array([-1e9, 1e9, np.inf])))
    assert np.isfinite(p).all() and p[0].argmax() == 0 and (p[1:].argmax(-1) == 50).all()


def test_the_critic_s_loss_is_the_cross_entropy():
    logits, target = np.random.default_rng(0).normal(size=(3, 51)), np.array([-2.0, 0.3, 4.0])
    none = lambda: jnp.zeros(3)
    w = View(none(), none(), none(), none, none, none, dict(critic=jnp.asarray(logits)))
    got = hpp.cross_entropy(w, Batch(0, 0, 0, 0, target=jnp.asarray(target)), None)
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = [-(masses(y) @ q) for y, q in zip(target, log_q)]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def numbers(policy, obs, seed=0):
    """Parameters from numpy: nothing is compiled."""
    flat, structure = jax.tree.flatten(jax.eval_shape(policy.init, KEY, obs))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [0.5 * rng.normal(size=x.shape) for x in flat])


def test_what_is_judged_is_what_was_recorded():
    world = envs.make("probe/match")
    policy = hpp.hyperbolic(world, Network(hidden=(4,)))
    hp = HyperPlusPlus(num_envs=2, num_steps=3, normalise_reward=False)
    stage = begin(policy, KEY, hp, world)

    @quick
    def run(params):
        b = rollout(policy, params, stage, KEY, hp, world, 3)[1]
        return b, policy.judge(params, params, b, KEY)._replace(entropy=0, kl=0, reverse_kl=0)

    b, w = jax.tree.map(np.asarray, run(numbers(policy, stage.obs)))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, w.record, b.record)
    same(w.value, b.value)
    logits = b.record["critic"].astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = p @ (-10 + WIDTH * (np.arange(51) + 0.5))
    np.testing.assert_allclose(b.value, want, rtol=1e-3, atol=1e-4)


def test_a_bounded_embedding_is_within_atanh_095_of_the_origin():
    """A logit of a hyperplane through the origin is at most ‖z‖ atanh(0.95), whatever comes in."""
    world = envs.make("probe/match")
    obs, start = jnp.linspace(-1e6, 1e6, 16)[:, None], jnp.zeros(16, bool)
    far = {}
    for on in (True, False):
        policy = hpp.hyperbolic(world, Network(hidden=()), bounded=on, categorical=on)
        params = numbers(policy, obs)
        last = params["net"]["params"]["HyperplaneLogits_0"]
        last["r"] = 0 * last["r"]
        _, record, value, _ = quick(lambda p: policy.act(p, obs, start, (), None))(params)  # noqa: B023
        far[on] = np.abs(record["out"]) / np.linalg.norm(last["z"], axis=0)
    assert 0.01 < far[True].max() < np.arctanh(0.95)
    assert not np.isfinite(far[False]).all()
    np.testing.assert_array_equal(value, record["critic"][..., 0])  # without bins it is the value


def test_memory_is_refused():
    with pytest.raises(InputError, match="memory: 8"):
        hpp.make(None, Network(memory=8))
