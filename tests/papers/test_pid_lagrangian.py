"""PID Lagrangian, arXiv 2007.03964: the controller in a run, and its integral alone."""

import functools
from collections import deque

import jax
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.hyper import cast
from jaxrl.papers.safe import pid_lagrangian, ppo_lagrangian
from jaxrl.papers.safe.pid_lagrangian import PIDLagrangian
from jaxrl.papers.safe.ppo_lagrangian import PPOLagrangian
from jaxrl.policies import Network
from jaxrl.run.battery import QUICK

pytestmark = pytest.mark.equation("pid_lagrangian")

WORLD = envs.make("tabular/tolls", max_steps=8)
SMALL = dict(num_envs=4, num_steps=8, minibatches=1, epochs=1, budget=2.0, lr=0.03)


@functools.cache
def program(module, delay):
    algo = module.make(WORLD, Network(hidden=()))
    f = lambda hp: train(algo, jax.random.key(0), hp, WORLD, 15)
    return jax.jit(f, compiler_options=QUICK)


def test_prices_are_the_controller_s_of_the_costs_that_were_counted():
    hp = PIDLagrangian(**SMALL, kp=0.2, ki=0.05, kd=0.4, smooth=0.6, delay=3)
    m = program(pid_lagrangian, 3)(cast(hp))[1]
    integral = excess = average = 0.0
    past, rose = deque([0.0] * 3, maxlen=3), 0
    for cost, got in zip(np.asarray(m["episode_cost"], float), m["price_cost"]):
        integral = max(integral + 0.05 * (cost - 2.0), 0.0)
        excess = 0.6 * excess + 0.4 * (cost - 2.0)
        average = 0.6 * average + 0.4 * cost
        rise = max(average - past[0], 0.0)
        past.append(average)
        rose += rise > 0
        want = max(0.2 * excess + integral + 0.4 * rise, 0.0)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    assert 0 < rose < 15  # at times the cost fell, and that counts for nothing


def test_its_integral_alone_is_ppo_lagrangian():
    hp = PIDLagrangian(**SMALL, kp=0.0, ki=0.07, kd=0.0, delay=3)
    s, _ = program(pid_lagrangian, 3)(cast(hp))
    z, _ = program(ppo_lagrangian, 0)(cast(PPOLagrangian(**SMALL, dual_lr=0.07)))
    for x, y in zip(jax.tree.leaves(s.params), jax.tree.leaves(z.params)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
