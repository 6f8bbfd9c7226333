"""TC-RMDP's game, arXiv 2406.08395: who sees and learns from what, and the worst of a grid."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs
from envs.spaces import Box
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families import robust
from jaxrl.hyper import cast, replace
from jaxrl.papers.robust import tc_rmdp
from jaxrl.papers.robust.tc_rmdp import TCRMDP
from jaxrl.policies import Network
from jaxrl.rollout import evaluate
from jaxrl.types import Transitions
from tests.papers.by_hand import KEY, close, differences, forward, gradient, pair, quick, shaken

pytestmark = pytest.mark.equation("tc_rmdp")

M, S, A, D = 9, 3, 2, 1  # rows, numbers of the state, of the agent's action, of ψ
GAME = dict(box=dict(m=[0, 1]), begin=np.zeros((2, D)))
SEEN = {  # of an agent, in the order of names
    "tc": ("obs",),
    "stacked": ("action", "before", "obs"),
    "oracle": ("obs", "privileged"),
}


def world() -> Any:
    space = Box(-1.0, 1.0, (A + D,))
    return SimpleNamespace(name="game", action_space=space, moves="adversary", **GAME)


LEARNER = tc_rmdp.learner(world(), Network(hidden=(4,)))


def observations(rng):
    widths = dict(obs=S, before=S, action=A, privileged=D)
    return {k: jnp.asarray(rng.normal(size=(M, n)), jnp.float32) for k, n in widths.items()}


def agent_sees(obs, sees):
    return np.concatenate([np.asarray(obs[k], float) for k in SEEN[sees]], 1)


def foe_sees(obs, a):
    return np.concatenate([np.asarray(x, float) for x in (a, obs["obs"], obs["privileged"])], 1)


def mu(entry, seen):
    return np.tanh(forward(entry, seen))


@functools.cache
def updated(sees):
    """(hp, params before, batch, parameters after, what Adam saw by player and entry, stats)."""
    rng = np.random.default_rng(0)
    hp = cast(TCRMDP(lr=0.05, tau=0.2, delay=1, smooth=0.0, sees=sees))
    a = jnp.asarray(rng.uniform(-1, 1, (M, A + D)), jnp.float32)
    reward = jnp.asarray(2 * rng.normal(size=M), jnp.float32)
    discount = jnp.asarray(0.9 * (np.arange(M) % 3 > 0), jnp.float32)
    b = Transitions(observations(rng), a, reward, discount, observations(rng))
    params = shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, hp))
    args = params, LEARNER.opt(params, hp), b, KEY, 0, jnp.int32(0), hp
    new, opt, said = quick(LEARNER.update)(*args)
    of = lambda who: {k: gradient(opt[who][k], params[who][k]) for k in opt[who]}
    return hp, params, b, new, {who: of(who) for who in ("agent", "foe")}, said


@pytest.mark.parametrize("who", ["agent", "foe"])
@pytest.mark.parametrize("sees", list(SEEN))
def test_each_player_is_td3_on_what_it_sees_and_the_adversary_learns_from_minus_r(sees, who):
    """Of both: y = ±r + γ min Q'(x', μ'(x')), the sum of both critics' errors, and Q₁'s slope."""
    _, params, b, new, grads, said = updated(sees)
    if who == "agent":
        done, reward, name = b.action[:, :A], b.reward, "critic_loss"
        x, ahead = agent_sees(b.obs, sees), agent_sees(b.next_obs, sees)
    else:
        done, reward, name = b.action[:, A:], -b.reward, "foe_critic_loss"
        told = mu(params["agent"]["actor"], agent_sees(b.next_obs, sees))
        x, ahead = foe_sees(b.obs, b.action[:, :A]), foe_sees(b.next_obs, told)
    old, target = params[who], params[who]["target"]
    then = pair(target["critic"], ahead, mu(target["actor"], ahead)).min(0)
    y = np.asarray(reward + b.discount * then, float)
    loss = lambda p: sum(np.mean((y - q) ** 2) for q in pair(p, x, done))
    close(grads[who]["critic"], differences(loss, old["critic"]), atol=2e-5)
    assert said[name] == pytest.approx(loss(old["critic"]), rel=1e-4)
    slope = lambda p: -pair(new[who]["critic"], x, mu(p, x))[0].mean()
    close(grads[who]["actor"], differences(slope, old["actor"]), atol=2e-5)


@pytest.mark.parametrize("against", ["adversary", "chance", "nobody"])
def test_who_moves_psi_while_it_explores_and_when_it_is_evaluated(against):
    hp, params, b, *_ = updated("tc")
    hp = cast(hp.replace(against=against, sigma=0.05))
    agent, foe = params["agent"]["actor"], params["foe"]["actor"]
    a = mu(agent, agent_sees(b.obs, "tc"))
    mode = LEARNER.act(params, b.obs, (), None, 0, hp)[0]
    np.testing.assert_allclose(mode, np.hstack([a, mu(foe, foe_sees(b.obs, a))]), atol=1e-5)
    act = jax.vmap(lambda k: LEARNER.act(params, b.obs, (), k, 0, hp)[0])
    done = np.asarray(jax.jit(act)(jax.random.split(KEY, 400)))
    off = done[..., :A] - a
    assert 0.02 < np.std(off[np.abs(done[..., :A]) < 1]) < 0.06
    if against == "nobody":
        assert (done[..., A:] == 0).all()
    elif against == "chance":
        rows = done[:, 0, A]
        assert stats.kstest(rows, stats.uniform(-1, 2).cdf).pvalue > 1e-4
        assert abs(np.corrcoef(rows, done[:, 0, 0])[0, 1]) < 0.2
    else:  # around its mode for what the agent really does, which it is told
        want = np.stack([mu(foe, foe_sees(b.obs, x)) for x in done[..., :A]])
        free = np.abs(done[..., A:]) < 1
        assert 0.04 < np.std((done[..., A:] - want)[free]) < 0.06


def test_the_worst_is_of_physics_that_stand_still_on_a_grid():
    """The same, world by world, from the environment of that length and mass itself."""
    world = envs.make("robust/pendulum", max_steps=30, radius=1.0)
    push = lambda obs, memory, key: (jnp.full((len(obs), 1), 0.7), memory)
    cases = [(l, m) for l in (0.5, 1.0, 1.5) for m in (0.5, 1.0, 1.5)]
    plain = [envs.make("Pendulum-v1", l=l, m=m, max_steps=30) for l, m in cases]
    play = lambda w: evaluate(push, (), w, KEY, 400)["return"].mean()
    found = quick(jax.vmap(play))(jax.tree.map(lambda *x: jnp.stack(x), *plain))
    act = lambda obs, memory, key: (jnp.full((len(obs["obs"]), 3), 0.7), memory)
    keys, worst = jax.random.split(KEY, 100), lambda k: robust.worst(act, world, k)
    each = np.asarray(quick(jax.vmap(worst))(keys))
    assert abs(each.mean() - found.min()) < 8 < np.diff(np.sort(found))[0]


def test_it_is_measured_so_many_times_in_a_run():
    small = dict(
        num_envs=2, num_steps=1, updates=1, batch_size=4, buffer_size=64, learning_starts=2
    )
    world = envs.make("robust/pendulum", max_steps=3)
    algo = tc_rmdp.make(world, Network(hidden=()))
    run = quick(lambda k: train(algo, k, cast(replace(TCRMDP(), **small)), world, 40)[1])
    known = np.isfinite(np.asarray(run(KEY)["worst"]))
    assert known.sum() == robust.TIMES and known[1::2].all()


@pytest.mark.parametrize("name", ["robust/pendulum-walk", "Pendulum-v1"])
def test_who_has_no_adversary_is_told(name):
    with pytest.raises(InputError, match=f"^env: {name} has no adversary; robust/pendulum has one"):
        tc_rmdp.make(envs.make(name))
