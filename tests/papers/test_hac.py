"""HAC, arXiv 2311.08384: what the critic is fitted to, what it says and the actor's step, by NumPy.

The world is a lock of two rooms, a pit and an end; networks are tables.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs
from envs.base import TimeLimit
from envs.recorded import Recorded, Rows
from envs.tabular import Tabular
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast, replace
from jaxrl.optim import adam
from jaxrl.papers.on_policy import hac
from jaxrl.papers.on_policy.hac import HAC
from jaxrl.policies import Network
from jaxrl.rollout import begin
from tests.papers.by_hand import KEY, box, close, differences, gradient, quick, same, shaken

pytestmark = pytest.mark.equation("hac")

T, N, LIMIT, END = 7, 3, 3, 3
NEXT = np.array([[2, 1], [0, 3], [2, 2], [3, 3]])  # by state and action
PAID = np.array([[0.2, 0.0], [0.5, 2.0], [-0.3, 0.1], [0.0, 0.0]])
# what the data say: other rewards than the world's, so that it shows whose they are
SEEN = dict(s=np.array([0, 1, 2]), a=np.array([1, 1, 0]), r=np.array([0.7, 3.0, -1.0]))
SET: dict[str, Any] = dict(
    lr=0.05, gamma=0.9, lam=0.6, weight=1.7, data=8, epochs=1, minibatches=1, ent_coef=0.0
)


def lock(shift=0.0):
    P, one = np.eye(4)[NEXT], lambda s: jnp.eye(4)[s]
    tables = (jnp.asarray(x, jnp.float32) for x in (P, PAID, np.eye(4)[0]))
    env = Tabular(*tables, jnp.arange(4) == END, jnp.ones((1, 4, 2)) / 2, "lock")
    s, a, r = (SEEN[k] for k in "sar")
    ahead, no = NEXT[s, a], jnp.zeros(3, bool)
    reward = jnp.asarray(r + shift, jnp.float32)
    data = Rows(one(s), jnp.asarray(a), reward, jnp.asarray(ahead == END), one(ahead), no, no)
    return Recorded(TimeLimit(env, LIMIT), 0, 0, data)


WORLD = lock()


@functools.cache
def parts():
    """The policy, the sampler and the update of the paper's `make`."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as m:
        m.setattr(hac, "on_policy", lambda policy, **parts: found.update(parts, policy=policy))
        hac.make(WORLD, Network(hidden=()))
    return found


def hyper(**changes):
    own = dict(num_envs=N, num_steps=T, max_grad_norm=float("inf"), damping=0.3)
    return cast(replace(HAC(), **own | SET | changes))


@quick
def sample(s, hp, world):
    return parts()["sampler"].apply((), s, None, 0, hp, world)[1]


def start(hp):
    stage = begin(parts()["policy"], KEY, hp, WORLD)
    params = shaken(np.random.default_rng(0), parts()["policy"].init(KEY, stage.obs))
    return State(params, adam(hp).init(params), KEY, stage, {})


@functools.cache
def sampled(**changes):
    """The state before, that after the critic's fit, and the batch."""
    hp = hyper(**changes)
    s = start(hp)
    return s, *sample(s, hp, WORLD)


def table(params, layer):
    """[4, 2]: of the critic (layer 0) or π's (1), by state and action."""
    dense = params["net"]["params"][f"Dense_{layer}"]
    x = np.asarray(dense["kernel"], float) + np.asarray(dense["bias"], float)
    return x if layer == 0 else np.exp(x) / np.exp(x).sum(1, keepdims=True)


def V(params):
    return (table(params, 0) * table(params, 1)).sum(1)


def played(b):
    """(s, a, r, s', terminated, done) [T, N] of what was played, by a simulation."""
    s, a = np.asarray(b.obs.argmax(-1))[:, :N], np.asarray(b.action)[:, :N]
    ahead, count = NEXT[s, a], np.zeros(N, int)
    done = np.zeros((T, N), bool)
    assert (s[0] == 0).all()
    for t in range(T):
        count += 1
        done[t] = (ahead[t] == END) | (count == LIMIT)
        count[done[t]] = 0
        if t + 1 < T:
            np.testing.assert_array_equal(s[t + 1], np.where(done[t], 0, ahead[t]))
    cut = ahead == END
    assert (cut & done).any() and (done & ~cut).any()  # some end, some are only cut
    return s, a, PAID[s, a], ahead, cut, done


def backward(b, params, lam):
    """The λ-returns of what was played, [T, N]."""
    _, _, r, ahead, cut, done = played(b)
    v, G = V(params)[ahead], np.zeros((T, N))
    for t in reversed(range(T)):
        later = v[t] if t + 1 == T else np.where(done[t], v[t], (1 - lam) * v[t] + lam * G[t + 1])
        G[t] = r[t] + 0.9 * np.where(cut[t], 0, later)
    return G


def critic_loss(b, params, hp):
    """As a function of the parameters: λ E_on[(Q - G)²] + E_off[(Q - r - γ V(s'))²], whose means
    are over all rows, half of it and times vf_coef; G and V(s') are by `params`, as they were."""
    s, a, *_ = played(b)
    i = np.asarray(b.obs.argmax(-1))[:, N:]  # a row of the data for each state
    assert i.shape == (T, hp.data * N) and (hp.data == 0 or set(i.ravel()) == {0, 1, 2})
    own, ahead = SEEN["a"][i], NEXT[SEEN["s"], SEEN["a"]][i]
    y = SEEN["r"][i] + 0.9 * np.where(ahead == END, 0, V(params)[ahead])
    G = backward(b, start(hp).params, 1.0)

    def loss(p):
        Q = table(p, 0)
        on = float(hp.weight) * np.square(Q[s, a] - G).mean()
        off = np.square(Q[i, own] - y).mean() if hp.data else 0.0
        return float(hp.vf_coef) * (on + off) / 2 / (1 + hp.data)

    return loss


@pytest.mark.parametrize("changes", [{}, dict(weight=0.0), dict(data=0)], ids=str)
def test_the_critic_is_fitted_to_returns_and_to_the_data(changes):
    hp = hyper(**changes)
    s, after, b, _ = sampled(**changes)
    want = differences(critic_loss(b, s.params, hp), s.params)
    close(gradient(after.opt, s.params), want, rtol=1e-3, atol=1e-5)
    assert same(after.params["net"]["params"]["Dense_1"], s.params["net"]["params"]["Dense_1"])


def test_the_data_s_targets_are_new_in_each_pass():
    """Q_k is what the last pass left; the returns are what they were."""
    hp = hyper()
    s, one, b, _ = sampled()
    _, two, again, _ = sampled(epochs=2)
    np.testing.assert_array_equal(b.obs, again.obs)
    first, both = gradient(one.opt, s.params), gradient(two.opt, s.params)
    second = jax.tree.map(lambda x, y: y - 0.09 / 0.1 * x, first, both)  # m₂ = 0.9 m₁ + 0.1 g₂
    close(second, differences(critic_loss(b, one.params, hp), one.params), rtol=1e-3, atol=1e-5)
    stale = differences(critic_loss(b, s.params, hp), one.params)
    layer = lambda g: g["net"]["params"]["Dense_0"]["kernel"]
    assert not np.allclose(layer(second), layer(stale), rtol=1e-3, atol=1e-3)


def test_advantages_are_by_the_fitted_critic():
    """GAE of what was played; at the data's states Q - V, of actions that π takes there."""
    hp = hyper()
    _, after, b, _ = sampled()
    assert b.action.shape == (T, N + hp.data * N)
    Q, v, i = table(after.params, 0), V(after.params), np.asarray(b.obs.argmax(-1))
    np.testing.assert_allclose(b.value, v[i], rtol=1e-4)
    gae = backward(b, after.params, 0.6) - v[i][:, :N]
    np.testing.assert_allclose(b.advantage[:, :N], gae, rtol=1e-3, atol=1e-5)
    off = i[:, N:], np.asarray(b.action)[:, N:]
    np.testing.assert_allclose(b.advantage[:, N:], Q[off] - v[off[0]], rtol=1e-3, atol=1e-5)


def test_actions_at_the_data_s_states_are_the_policy_s():
    _, after, b, _ = sampled()
    i, a, pi = np.asarray(b.obs.argmax(-1))[:, N:], b.action[:, N:], table(after.params, 1)
    for s in range(3):
        n = (i == s).sum()
        assert n > 40 and np.abs(pi[s, 1] - SEEN["a"][s]) > 0.1
        assert stats.binomtest(int(a[i == s].sum()), int(n), pi[s, 1]).pvalue > 1e-3


def test_the_actor_s_step_is_over_both_kinds_of_states():
    """√(2δ / xᵀFx) x, x = (F + damping I)⁻¹ g, with F and g of all rows alike."""
    hp = hyper(backtracks=0, cg_iters=20)
    _, s, b, _ = sampled()
    step = quick(lambda s, b: parts()["update"].apply((), s, b, 0, hp, WORLD)[1])
    new, said = step(s, b)
    pi, F, g = table(s.params, 1), np.zeros((10, 10)), np.zeros(10)
    states, rows = np.asarray(b.obs.argmax(-1)).ravel(), b.action.size
    for i, a, A in zip(states, np.ravel(b.action), np.ravel(b.advantage)):
        phi, p = np.append(np.eye(4)[i], 1.0), pi[i]
        F += np.kron(np.outer(phi, phi), np.diag(p) - np.outer(p, p)) / rows
        g += np.kron(phi, A * (np.eye(2)[a] - p)) / rows
    x = np.linalg.solve(F + 0.3 * np.eye(10), g)
    x *= np.sqrt(2 * float(hp.delta) / (x @ F @ x))
    layer = lambda s: s.params["net"]["params"]["Dense_1"]
    moved = jax.tree.map(lambda x, y: np.asarray(x - y), layer(new), layer(s))
    np.testing.assert_allclose(moved["kernel"], x[:8].reshape(4, 2), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(moved["bias"], x[8:], rtol=2e-3, atol=1e-5)
    assert np.abs(x[4:6]).max() > 0.01  # in the pit
    assert same(new.params["net"]["params"]["Dense_0"], s.params["net"]["params"]["Dense_0"])
    assert same(new.opt, s.opt)
    ratio = table(new.params, 1)[states, np.ravel(b.action)] / pi[states, np.ravel(b.action)]
    np.testing.assert_allclose(said["ratio_deviation"], np.abs(ratio - 1).mean(), rtol=1e-3)


def test_without_data_it_is_on_policy_alone():
    """Other data change nothing, which otherwise they do."""
    for count, alike in ((0, True), (8, False)):
        hp = hyper(data=count)
        s = start(hp)
        (one, b, _), (other, c, _) = sample(s, hp, WORLD), sample(s, hp, lock(5.0))
        assert same(one.params, other.params) == alike
        assert same(b.advantage, c.advantage) == alike
        assert b.action.shape == (T, (1 + count) * N)


def test_the_data_s_rewards_are_scaled_as_those_that_are_played():
    changes = dict(weight=0.0, normalise_reward=True, gamma=0.0, vf_coef=1.0)
    s, after, b, _ = sampled(**changes)
    sigma = np.sqrt(float(after.stage.reward_moments.var) + 1e-8)
    assert abs(sigma - 1) > 0.05
    i = np.asarray(b.obs.argmax(-1))[:, N:]
    own, y = SEEN["a"][i], SEEN["r"][i] / sigma
    loss = lambda p: np.square(table(p, 0)[i, own] - y).mean() / 2 / 9
    close(gradient(after.opt, s.params), differences(loss, s.params), rtol=2e-3, atol=1e-5)


def test_what_it_does_not_take_is_refused():
    with pytest.raises(InputError, match="memory: 4: hac learns from single steps"):
        hac.make(WORLD, Network(memory=4))
    with pytest.raises(InputError, match="allowed is Discrete"):
        hac.make(box(2))
    world = envs.make("CartPole-v1")
    algo = hac.make(world)
    with pytest.raises(InputError, match="CartPole-v1 has no recorded data"):
        jax.eval_shape(lambda: algo.step(algo.init(KEY, hyper(), world), 0, hyper(), world))
