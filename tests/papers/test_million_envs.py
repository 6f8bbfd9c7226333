"""The recipe of arXiv 2603.06009: the inner loop stays, only the number of minibatches grows."""

from typing import Any

import jax
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.hyper import cast, check
from jaxrl.papers.on_policy import million_envs, ppo
from jaxrl.papers.on_policy.million_envs import MillionEnvs
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("million_envs")

SIZE: dict[str, Any] = dict(num_steps=8, epochs=2, lr=0.02)


def learned(make, hp):
    world = envs.make("CartPole-v1")
    algo = make(world, Network(hidden=(8,)))
    run = jax.jit(lambda k: train(algo, k, cast(hp), world, 2)[0].params, compiler_options=QUICK)
    return jax.tree.leaves(run(jax.random.key(0)))


@pytest.mark.parametrize("num_envs", [4, 8])
def test_it_is_ppo_with_as_many_minibatches_as_have_the_size(num_envs):
    ours = learned(million_envs.make, MillionEnvs(num_envs=num_envs, minibatch_size=16, **SIZE))
    count = num_envs * 8 // 16
    for minibatches, same in ((count, True), (2 * count, False)):
        theirs = learned(ppo.make, ppo.PPO(num_envs=num_envs, minibatches=minibatches, **SIZE))
        assert all(np.array_equal(x, y) for x, y in zip(ours, theirs)) == same


def test_a_size_that_does_not_divide_is_said_in_one_line():
    with pytest.raises(InputError, match="minibatch_size: 5 does not divide .* = 32"):
        check(MillionEnvs(num_envs=4, num_steps=8, minibatch_size=5))
