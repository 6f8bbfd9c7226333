"""SubPO, arXiv 2307.13372: its gradient is that of E[F(τ)], and what it finds is near the best."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.hyper import cast, replace
from jaxrl.papers.on_policy import subpo
from jaxrl.papers.on_policy.subpo import SubPO
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import evaluate
from jaxrl.run.battery import QUICK
from jaxrl.surrogate import policy_gradient
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("subpo")
quick = functools.partial(jax.jit, compiler_options=QUICK)

MOVES = [(0, -1), (1, 0), (0, 1), (-1, 0), (0, 0)]


def small(H, **params):
    return envs.make_env("cover/biodiversity", max_steps=H, **params)


def walk(env, moves):
    """The cells of a path from the corner, its start among them."""
    cells: list[tuple[int, ...]] = [(0, 0)]
    for m in moves:
        cells.append(
            tuple(int(np.clip(c + d, 0, env.size - 1)) for c, d in zip(cells[-1], MOVES[m]))
        )
    return cells


def worth(env, cells):
    """F: the weight of the union of the cells' discs, as a share of all."""
    w, r = np.asarray(env.weight, float), float(env.radius)
    grid = list(itertools.product(range(env.size), repeat=2))
    union = {g for c in cells for g in grid if (g[0] - c[0]) ** 2 + (g[1] - c[1]) ** 2 <= r**2}
    return sum(w[g] for g in union) / w.sum()


@functools.cache
def every_path():
    """All 125 paths of three steps on a grid of nine cells, as one batch, and the policy."""
    env = small(3, size=3, radius=1.0)
    policy = policy_for(env, Network(hidden=()))
    action = jnp.array(list(itertools.product(range(5), repeat=3)), jnp.int32).T  # [3, 125]
    key = jax.random.key(0)

    @quick
    @jax.vmap
    def follow(moves):
        def one(carry, a):
            state, obs = carry
            s = env.step(key, state, a)
            return (s.state, s.obs), (obs, s.reward, s.terminated)

        return jax.lax.scan(one, env.reset(key), moves)[1]

    obs, reward, over = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), follow(action.T))
    params = policy.init(jax.random.key(1), jax.tree.map(lambda x: x[0], obs))
    layer = params["net"]["params"]["Dense_1"]  # a policy far from uniform
    layer["kernel"] = jax.random.normal(key, layer["kernel"].shape)
    start = jnp.zeros(over.shape, bool).at[0].set(True)
    value = policy.act(params, obs, start, (), None)[2]
    b = Batch(obs, action, dict(raw=action), start, value=value, reward=reward)
    # V(s') of a last step would show if it counted
    b = b.replace(next_value=jnp.roll(value, -1, 0) + over, terminated=over, done=over)
    return env, policy, params, b.replace(old=dict(out=0.0, log_prob=0.0))


HP = SubPO(normalise_advantage=False)


@pytest.mark.parametrize("modular", [False, True])
def test_its_gradient_is_that_of_the_expected_worth_of_a_path(modular):
    """Summed over all paths: whatever the baseline, and though the policy sees no path."""
    env, policy, params, b = every_path()
    A = subpo.gains_to_go(None, b, 0, replace(HP, modular=modular), None).advantage
    paths = [walk(env, moves) for moves in np.asarray(b.action).T]
    if modular:
        F = np.array([sum(worth(env, [c]) for c in cells[1:]) for cells in paths])
    else:
        F = np.array([worth(env, cells) for cells in paths])

    def log_prob(params):
        return policy.judge(params, params, b, jax.random.key(0)).log_prob

    @quick
    def gradients(params):
        p = jnp.exp(log_prob(params).sum(0))  # [125]

        def surrogate(params):
            w = policy.judge(params, params, b, jax.random.key(0))
            return -(p * policy_gradient(w, b.replace(advantage=A), HP).sum(0)).sum()

        exact = lambda params: (jnp.exp(log_prob(params).sum(0)) * F).sum()
        return jax.grad(surrogate)(params), jax.grad(exact)(params), p.sum()

    got, want, total = gradients(params)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert max(np.abs(y).max() for y in jax.tree.leaves(want)) > 0.01


def test_gains_add_up_to_the_worth_of_the_path():
    env, _, _, b = every_path()
    for i in range(0, 125, 7):
        cells = walk(env, np.asarray(b.action)[:, i])
        gain = np.asarray(b.reward)[:, i, 0].sum()
        np.testing.assert_allclose(gain, worth(env, cells) - worth(env, cells[:1]), atol=1e-6)


def best(env, H):
    """max F over all paths of H steps, by brute force over cells and what they covered."""
    states = {((0, 0), frozenset([(0, 0)]))}
    for _ in range(H):
        states = {
            (c, seen | {c})
            for cell, seen in states
            for m in range(5)
            for c in [tuple(int(np.clip(a + d, 0, env.size - 1)) for a, d in zip(cell, MOVES[m]))]
        }
    return max(worth(env, seen) for seen in {seen for _, seen in states})


def test_it_finds_more_than_the_greedy_share_of_the_best_path():
    """1 - 1/e of max F, on 4 x 4 cells in six steps; a random walk has less."""
    env = small(6, size=4, radius=1.0)
    world, H = envs.make("cover/biodiversity", max_steps=6, size=4, radius=1.0), 6
    algo = subpo.make(world, Network(hidden=()))
    hp = cast(SubPO(num_envs=16, num_steps=H, lr=0.03))

    @quick
    def run(key):
        s, m = train(algo, key, hp, world, 80)
        act = lambda obs, memory, key: algo.act(s, obs, memory, None, hp)
        ends = evaluate(act, (), world, key, 1)
        return ends["return"].mean(), m["episode_return"][0]

    F, first = jax.vmap(run)(jax.random.split(jax.random.key(0), 3))
    share = (np.array([F, first]) + worth(env, [(0, 0)])) / best(env, H)
    assert share.max() <= 1 + 1e-6
    assert (share[0] > 1 - 1 / np.e).all() and (share[1] < 1 - 1 / np.e).all(), share
