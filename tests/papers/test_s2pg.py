"""S2PG, arXiv 2311.04082: its gradient is that of the return, and a row is judged by itself."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.spaces import Box, Discrete
from jaxrl.papers.on_policy import s2pg
from jaxrl.papers.on_policy.ppo import PPO
from jaxrl.policies import Network
from jaxrl.rollout import begin, rollout
from jaxrl.run.battery import QUICK
from jaxrl.surrogate import policy_gradient
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("s2pg")
quick = functools.partial(jax.jit, compiler_options=QUICK)

KEY = jax.random.key(0)
SIDES = SimpleNamespace(
    name="sides", observation_space=Box(-1.0, 1.0, (1,)), action_space=Discrete(2)
)


def numbers(policy, obs, seed=0):
    """Parameters from numpy: nothing is compiled, and π is far from uniform."""
    flat, structure = jax.tree.flatten(jax.eval_shape(policy.init, KEY, obs))
    rng = np.random.default_rng(seed)
    noise = [0.7 * rng.normal(size=x.shape).astype(np.float32) for x in flat]
    return jax.tree.unflatten(structure, noise)


def test_the_expected_gradient_is_that_of_the_return():
    """Two steps: the first observation is a side, the second is nothing, and the second action is
    paid 1 where it is the side, plus 0.3 for a first action of 1. J by quadrature over z and
    differentiated through z itself, as BPTT does, against E[Σ ∇ log π(a, z'|s, z) Q] over rows."""
    policy = s2pg.stateful(SIDES, Network(hidden=(3,)), 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    sides, two = np.array([-1.0, 1.0]), np.arange(2)
    Q = 0.3 * two[:, None] + (two == (sides > 0)[:, None, None])  # [side, a0, a1]

    def at(params, obs, z):
        """π(a = 0, 1 | s, z), and the mean and deviation of z'."""
        start = jnp.zeros(obs.shape, bool)
        out = policy.act(params, obs[..., None], start, z[..., None], None)[1]["out"]
        return jax.nn.softmax(out["a"]), out["z"]["loc"][..., 0], out["z"]["scale"][..., 0]

    def forward(params):
        p0, mean, std = at(params, jnp.asarray(sides), jnp.zeros(2))
        z1 = mean[:, None] + std[:, None] * nodes  # [side, node]
        return p0, z1, *at(params, jnp.zeros(z1.shape), z1)

    def J(params):
        p0, _, p1, *_ = forward(params)
        return 0.5 * jnp.einsum("ia,k,ikb,iab->", p0, weights, p1, Q)

    def rows(params):
        """Every outcome of either step: what was seen and done, and its probability times Q."""
        p0, z1, p1, mean, std = forward(params)
        eps = np.array([-1.0, 1.0])  # for z2: of mean 0 and variance 1
        first = jnp.einsum("ia,k,ikb,iab->ika", p0, weights, p1, Q) / 2
        second = jnp.einsum("ia,k,ikb,iab,e->ikbe", p0, weights, p1, Q, np.ones(2) / 2) / 2
        z1, mean, std = (x[..., None] for x in (z1, mean, std))
        z2 = (mean + std * eps)[:, :, None]
        parts: list[tuple] = [(sides[:, None, None], 0.0, two, z1, first)]
        parts.append((0.0, z1[..., None], two[:, None], z2, second))
        flat = [[jnp.broadcast_to(x, p[-1].shape).ravel() for x in p] for p in parts]
        return [jnp.concatenate(x) for x in zip(*flat)]

    def S2PG(params):
        obs, z, a, z_next, weight = rows(params)
        raw, start = dict(a=a.astype(jnp.int32), z=z_next[:, None]), jnp.zeros(obs.shape, bool)
        record = dict(raw=raw, log_prob=0.0, out=0, z=z[:, None])
        b = Batch(obs[:, None], raw["a"], record, start, old=record, advantage=weight)
        loss = lambda p: policy_gradient(policy.judge(p, params, b, KEY), b, None).sum()
        return jax.tree.map(jnp.negative, jax.grad(loss)(params))

    params = numbers(policy, jnp.zeros((1, 1)), 6)
    want, got = quick(lambda p: (jax.grad(J)(p), S2PG(p)))(params)
    size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
    assert size > 0.05
    assert np.abs(want["head"]["z"]["log_std"]) > 0.05 * size  # it acts through z alone
    for (path, x), y in zip(jax.tree.leaves_with_path(want), jax.tree.leaves(got)):
        np.testing.assert_allclose(y, x, atol=2e-5 * size, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def collected():
    """A rollout on a task with short episodes, and what other parameters say of its rows."""
    world = envs.make("MemoryChain-bsuite")
    policy = s2pg.stateful(world, Network(hidden=(4,)), 3)
    hp = PPO(num_envs=2, num_steps=9)
    stage = begin(policy, KEY, hp, world)
    params, other = numbers(policy, stage.obs), numbers(policy, stage.obs, 1)

    @quick
    def run(params, other):
        b = rollout(policy, params, stage, KEY, hp, world, 9)[1]
        moved = policy.judge(other, params, b, KEY)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), b.replace(memory=()))
        row = policy.judge(other, params, jax.tree.map(lambda x: x[7:8], flat), KEY)
        facts = [w._asdict() | dict(kl=w.kl(), reverse_kl=w.reverse_kl(), entropy=w.entropy())
                 for w in (moved, row)]  # fmt: skip
        v = policy.act(params, b.obs[1:], b.start[1:], b.record["z"][1:], None)[2]
        return b, facts, v

    return jax.tree.map(np.asarray, run(params, other))


def test_the_memory_is_the_last_draw_and_nothing_where_an_episode_starts(collected):
    b = collected[0]
    z, drawn = b.record["z"], b.record["raw"]["z"]
    assert b.start[[0, 6]].all() and b.start.sum() == 4
    np.testing.assert_array_equal(z[b.start], 0.0)
    np.testing.assert_array_equal(z[1:][~b.start[1:]], drawn[:-1][~b.start[1:]])
    assert np.abs(drawn - b.record["out"]["z"]["loc"]).min() > 1e-4  # a draw, not the mean


def test_the_next_value_is_that_of_the_next_state_and_memory(collected):
    b, _, again = collected
    np.testing.assert_allclose(b.value[1:], again, rtol=1e-4, atol=1e-5)
    inside = ~b.done[:-1]
    np.testing.assert_allclose(b.next_value[:-1][inside], b.value[1:][inside], rtol=1e-4)


def test_a_row_is_judged_by_itself_as_a_loop_would(collected):
    """log π(a, z'|s, z) = log softmax_a + Σ log N(z'; μ, σ); the KLs likewise, term by term."""
    b, (moved, row), _ = collected
    old, new = b.record["out"], moved["record"]["out"]
    for t, n in np.ndindex(b.start.shape):
        p, q = (np.exp(x["a"][t, n].astype(float)) for x in (old, new))
        p, q, a = p / p.sum(), q / q.sum(), b.action[t, n]
        log_old, log_new = np.log(p[a]), np.log(q[a])
        kl, reverse = p @ np.log(p / q), q @ np.log(q / p)
        for u in range(3):
            m, s, m2, s2 = (x["z"][k][t, n, u] for x in (old, new) for k in ("loc", "scale"))
            z = b.record["raw"]["z"][t, n, u]
            log_old -= (z - m) ** 2 / (2 * s**2) + np.log(s * np.sqrt(2 * np.pi))
            log_new -= (z - m2) ** 2 / (2 * s2**2) + np.log(s2 * np.sqrt(2 * np.pi))
            kl += np.log(s2 / s) + (s**2 + (m - m2) ** 2) / (2 * s2**2) - 0.5
            reverse += np.log(s / s2) + (s2**2 + (m - m2) ** 2) / (2 * s**2) - 0.5
        np.testing.assert_allclose(b.record["log_prob"][t, n], log_old, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(moved["log_prob"][t, n], log_new, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            moved["log_ratio"][t, n], log_new - log_old, rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(moved["kl"][t, n], kl, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(moved["reverse_kl"][t, n], reverse, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(moved["entropy"][t, n], -q @ np.log(q), rtol=1e-3, atol=1e-4)
    for k in ("log_prob", "value", "kl"):  # one row of the flattened batch, without the others
        np.testing.assert_allclose(row[k][0], moved[k].reshape(-1)[7], rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(moved["record"]) == jax.tree.structure(b.record)
