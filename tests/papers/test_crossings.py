"""Any surrogate goes with any policy, and any float with any other in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.families.on_policy import on_policy
from jaxrl.papers.on_policy import fixpo, mdpo, pg_rainbow, ppo, s2pg, spo, trpo
from jaxrl.papers.on_policy.fixpo import FixPO
from jaxrl.papers.on_policy.mdpo import MDPO
from jaxrl.papers.on_policy.pg_rainbow import PGRainbow
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.papers.on_policy.trpo import TRPO
from jaxrl.policies import Network, policy_for

SMALL = dict(num_envs=4, num_steps=8, minibatches=2, epochs=2)


def finite(tree) -> bool:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(x).all()) for x in floats)


@pytest.mark.slow
def test_spos_surrogate_with_the_recurrent_network_remembers():
    """A task that needs memory: the first observation says which action to take at the end."""
    chain = envs.make("MemoryChain-bsuite")
    algo = on_policy(
        policy_for(chain, Network(hidden=(16,), memory=16)), spo.penalty, sequences=True
    )
    hp = PPO(num_envs=32, num_steps=32, lr=0.01)
    keys = jax.random.split(jax.random.key(0), 3)
    _, m = jax.jit(jax.vmap(lambda k: train(algo, k, hp, chain, 60)))(keys)
    assert (np.nanmean(m["episode_return"][:, -10:], 1) > 0.9).all()  # 0 is chance, 1 the most


@pytest.mark.slow
def test_mdpo_on_the_recurrent_network_remembers():
    chain = envs.make("MemoryChain-bsuite")
    algo, hp = mdpo.make(chain, Network(hidden=(16,), memory=16)), MDPO(num_envs=32, num_steps=32)
    hp = hp.replace(lr=0.01)
    keys = jax.random.split(jax.random.key(0), 3)
    _, m = jax.jit(jax.vmap(lambda k: train(algo, k, hp, chain, 60)))(keys)
    assert (np.nanmean(m["episode_return"][:, -10:], 1) > 0.9).all()


@pytest.mark.slow
def test_spos_surrogate_with_pg_rainbows_critic():
    """The critic learns its quantiles, and SPO's ratio is drawn back: both papers at once."""
    world = envs.make("CartPole-v1")
    algo = pg_rainbow.make(world, Network(hidden=(16,)), surrogate=spo.penalty)
    hp = PGRainbow(num_envs=8, num_steps=32, lr=0.01, epochs=8)
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 40))(jax.random.key(0))
    ppos = pg_rainbow.make(world, Network(hidden=(16,)))
    _, other = jax.jit(lambda k: train(ppos, k, hp, world, 40))(jax.random.key(0))
    assert finite(s.params) and np.nanmean(m["episode_return"][-10:]) > 60  # 20 at random
    assert m["ratio_excursion"].mean() < other["ratio_excursion"].mean()


@pytest.mark.slow
def test_fixpos_update_on_s2pgs_stateful_policy_keeps_its_bound_and_remembers():
    chain = envs.make("MemoryChain-bsuite")
    policy = s2pg.stateful(chain, Network(hidden=(16,)), 16)
    algo = on_policy(policy, update=fixpo.two_phase(policy))
    hp = FixPO(num_envs=32, num_steps=32, lr=0.01, eps_kl=0.5)
    keys = jax.random.split(jax.random.key(0), 3)
    _, m = jax.jit(jax.vmap(lambda k: train(algo, k, hp, chain, 100)))(keys)
    assert (np.asarray(m["max_kl"]) <= 0.5 * 1.001).all() and np.asarray(m["fixup_share"]).max() > 0
    assert (np.nanmean(m["episode_return"][:, -10:], 1) > 0.9).all()


@pytest.mark.slow
def test_trpo_on_a_squashed_gaussian_keeps_its_bound():
    world = envs.make("Pendulum-v1")
    algo = trpo.make(world, Network(hidden=(16,), head="squashed"))
    hp = TRPO(**SMALL | dict(num_steps=64))
    s, m = jax.jit(lambda k: train(algo, k, hp, world, 10))(jax.random.key(0))
    assert finite(s.params)
    kl, accepted = np.asarray(m["kl"]), np.asarray(m["accepted"])
    assert (kl <= 0.01 * 1.001).all() and accepted.max() == 1.0 and kl.max() > 0.002


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "field"), [(spo, "eps"), (ppo, "lr")], ids=["spo eps", "ppo lr"])
def test_one_program_sweeps_eight_values_by_eight_seeds(paper, field):
    world = envs.make("CartPole-v1")
    algo = paper.make(world, Network(hidden=(8,)))
    values = jnp.logspace(-3, -1, 8)
    keys = jax.random.split(jax.random.key(0), 8)
    traces = []

    def one(value, key):
        traces.append(1)
        return train(algo, key, PPO(**SMALL | {"lr": 0.02, field: value}), world, 3)[0].params

    grid = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(values, keys)
    assert len(traces) == 1
    assert finite(grid)
    first = jax.tree.leaves(grid)[-1].reshape(64, -1)
    assert len(np.unique(first, axis=0)) == 64  # every point and every seed went its own way
