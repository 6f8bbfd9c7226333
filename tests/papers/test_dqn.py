"""DQN's update and its exploration, Mnih et al. 2015, against NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.hyper import cast
from jaxrl.papers.off_policy import dqn
from jaxrl.papers.off_policy.dqn import DQN
from jaxrl.policies import Network
from jaxrl.types import Transitions
from tests.papers.by_hand import (
    KEY,
    adam_step,
    close,
    differences,
    discrete,
    forward,
    gradient,
    moved,
    quick,
    same,
    shaken,
    transitions,
)

pytestmark = pytest.mark.equation("dqn")

M, ACTIONS = 12, 3
LEARNER = dqn.learner(discrete(ACTIONS), Network(hidden=(4,)))
HP: Any = DQN(lr=0.01, tau=0.3, target_every=3, loss="huber")
update = quick(LEARNER.update)


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    b = transitions(rng, M, 2, jnp.asarray(rng.integers(0, ACTIONS, M)))
    return shaken(rng, jax.jit(LEARNER.init)(KEY, b.obs, HP)), b


def step(params, i=0, **changes):
    hp = cast(HP.replace(**changes))
    return update(params, LEARNER.opt(params, hp), problem()[1], KEY, 0, jnp.int32(i), hp)


def targets(params, b, double):
    """y = r + γ Q(s', a*; θ⁻), a* the best of θ⁻, or of θ where it is double."""
    y, choices = np.zeros(M), []
    for m in range(M):
        old = forward(params["target"]["critic"], b.next_obs[m][None])[0]
        own = forward(params["critic"], b.next_obs[m][None])[0]
        choices.append((int(old.argmax()), int(own.argmax())))
        y[m] = b.reward[m] + b.discount[m] * old[choices[m][double]]
    live = np.asarray(b.discount) > 0
    assert any(x != y for (x, y), alive in zip(choices, live) if alive)  # it matters which
    return y


LOSSES = {  # of an error, and its slope
    "huber": (lambda e: 0.5 * e**2 if abs(e) <= 1 else abs(e) - 0.5, lambda e: np.clip(e, -1, 1)),
    "squared": (lambda e: e**2, lambda e: 2 * e),
}


@pytest.mark.parametrize(("double", "kind"), [(False, "huber"), (True, "squared")])
def test_the_gradient_is_of_the_loss_of_the_error(double, kind):
    params, b = problem()
    y, rows, (of, slope) = targets(params, b, double), np.arange(M), LOSSES[kind]
    taken = lambda p: forward(p, b.obs)[rows, b.action]
    loss = lambda p: np.mean([of(e) for e in taken(p) - y])
    error = taken(params["critic"]) - y
    assert 2 < (np.abs(error) > 1).sum() < M - 2  # both pieces of Huber's are seen
    new, opt, said = step(params, double=double, loss=kind)
    grads = gradient(opt["critic"], params["critic"])
    close(grads, differences(loss, params["critic"]), atol=1e-5)
    # an action's bias has the errors of its own rows alone, with Huber each within [-1, 1]
    want = [slope(error)[np.asarray(b.action) == a].sum() / M for a in range(ACTIONS)]
    np.testing.assert_allclose(grads["params"]["Dense_0"]["bias"], want, atol=1e-5)
    change = jax.tree.map(lambda x, y: x - y, new["critic"], params["critic"])
    close(change, adam_step(grads, 0.01), atol=1e-6)
    np.testing.assert_allclose(said["critic_loss"], loss(params["critic"]), rtol=1e-5)
    np.testing.assert_allclose(said["q"], taken(params["critic"]).mean(), rtol=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_the_target_moves_at_every_third_step_alone(tau):
    params, _ = problem()
    for i in range(6):
        new = step(params, i, tau=tau)[0]
        if i in (2, 5):
            close(new["target"], moved(params["target"], dict(critic=new["critic"]), tau))
        else:
            assert same(new["target"], params["target"])
        assert not same(new["critic"], params["critic"])


def test_learning_begins_with_the_target_where_the_parameters_are():
    params = jax.jit(LEARNER.init)(KEY, problem()[1].obs, HP)
    assert same(params["target"]["critic"], params["critic"])


def test_epsilon_goes_from_one_to_its_end_over_a_share_of_the_run():
    params, _ = problem()
    obs = jnp.asarray(np.random.default_rng(1).normal(size=(6000, 2)), jnp.float32)
    greedy = forward(params["critic"], obs).argmax(1)
    assert len(set(greedy)) > 1
    hp = cast(HP.replace(eps=0.1, explore=0.4, horizon=100.0))
    act = lambda t, k: LEARNER.act(params, obs, (), k, t, hp)[0]
    epsilon = {0: 1.0, 10: 1 - 0.9 / 4, 20: 1 - 0.9 / 2, 40: 0.1, 99: 0.1}
    times = jnp.array(list(epsilon))
    action = quick(jax.vmap(act))(times, jax.random.split(KEY, len(times)))
    for eps, a in zip(epsilon.values(), np.asarray(action)):
        other = np.bincount((a - greedy) % ACTIONS, minlength=ACTIONS)
        expected = len(obs) * np.array([1 - eps + eps / 3, eps / 3, eps / 3])
        assert stats.chisquare(other, expected).pvalue > 1e-4, eps
    np.testing.assert_array_equal(LEARNER.act(params, obs, (), None, 0, hp)[0], greedy)


def test_actions_that_are_masked_are_neither_taken_nor_hoped_for():
    """Of two actions with the values 1 and 5 the second is ruled out: acting, at random, ahead."""
    learner = dqn.learner(discrete(2), Network(hidden=()))
    hp = cast(DQN(lr=0.0, eps=1.0))
    obs = dict(obs=jnp.zeros((64, 1)), action_mask=jnp.tile(jnp.array([True, False]), (64, 1)))
    seen = obs | dict(privileged=jnp.ones((64, 5)))  # not for who acts
    params = jax.tree.map(jnp.zeros_like, jax.jit(learner.init)(KEY, seen, hp))
    for entry in (params["critic"], params["target"]["critic"]):
        assert entry["params"]["Dense_0"]["kernel"].shape == (1, 2)
        entry["params"]["Dense_0"]["bias"] = jnp.array([1.0, 5.0])
    act = quick(lambda key, obs: learner.act(params, obs, (), key, 0, hp)[0])
    free = obs | dict(action_mask=jnp.ones((64, 2), bool))
    assert (learner.act(params, obs, (), None, 0, hp)[0] == 0).all() and (act(KEY, obs) == 0).all()
    assert (learner.act(params, free, (), None, 0, hp)[0] == 1).all()
    assert set(np.asarray(act(KEY, free))) == {0, 1}
    for ahead, best in ((obs, 1.0), (free, 5.0)):
        b = Transitions(free, jnp.zeros(64, int), jnp.zeros(64), jnp.ones(64), ahead)
        said = learner.update(params, learner.opt(params, hp), b, KEY, 0, 0, hp)[2]
        assert said["critic_loss"] == pytest.approx((best - 1.0) ** 2)
