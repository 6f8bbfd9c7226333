"""PROPS, arXiv 2311.08290: the behaviour policy's loss, what it does, and what the buffer holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.core import train
from jaxrl.errors import InputError
from jaxrl.families.on_policy import State, descent
from jaxrl.hyper import cast
from jaxrl.optim import stopping
from jaxrl.papers.on_policy import props
from jaxrl.papers.on_policy.props import PROPS
from jaxrl.policies import Network, policy_for
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("props")
quick = functools.partial(jax.jit, compiler_options=QUICK)

WORLD = envs.make("probe/match")  # two actions
LINEAR = Network(hidden=())
POLICY = policy_for(WORLD, LINEAR)
KEY = jax.random.key(0)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def with_logits(z):
    """Parameters of the linear policy whose logits are z [2] everywhere."""
    params = jax.tree.map(jnp.zeros_like, POLICY.init(KEY, jnp.zeros((1, 1))))
    params["net"]["params"]["Dense_1"]["bias"] = jnp.asarray(z, jnp.float32)
    return params


def buffer(theta, actions):
    """D: these actions in one state, judged by θ; each weighs alike."""
    actions = jnp.asarray(actions, jnp.int32).reshape(-1, 1)
    start = jnp.zeros(actions.shape, bool)
    b = Batch(jnp.zeros((*actions.shape, 1)), actions, dict(raw=actions), start)
    z = jnp.broadcast_to(theta["net"]["params"]["Dense_1"]["bias"], (*actions.shape, 2))
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(z), actions[..., None], -1)[..., 0]
    old = dict(raw=actions, out=z, log_prob=log_prob)
    A = -jnp.ones(actions.shape)
    return b.replace(old=old, advantage=A, target=jnp.zeros(actions.shape), value=A * 0)


@pytest.mark.parametrize(("lam", "target"), [(0.0, np.inf), (0.7, np.inf), (0.7, 1e-4)])
def test_the_loss_is_equations_4_and_5(lam, target):
    theta, phi = with_logits([0.3, -0.2]), with_logits([0.9, -0.5])
    b = buffer(theta, [0, 1, 1, 0, 1])
    hp = PROPS(behaviour_eps=0.2, kl_coef=lam, target_kl=target)
    got = props.behaviour(POLICY.judge(phi, theta, b, KEY), b, hp)
    p, q = softmax(np.array([0.3, -0.2])), softmax(np.array([0.9, -0.5]))  # π_θ, π_φ
    kl = (p * np.log(p / q)).sum()
    want = []
    for a in [0, 1, 1, 0, 1]:
        rho = q[a] / p[a]
        gain = min(-rho, -min(max(rho, 0.8), 1.2))
        want.append(-(gain - lam * kl) if kl <= target else 0.0)
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-5)


@quick
def adapted(theta, b, hp):
    s = State(theta, (), KEY, None, {})
    phi = descent(POLICY, props.behaviour, stopping)(s, b, KEY, hp, WORLD, hp.behaviour_lr, 3)
    return jax.nn.softmax(phi["net"]["params"]["Dense_1"]["bias"]), phi


HP = cast(PROPS(behaviour_lr=0.05, minibatches=1, num_envs=1, num_steps=8, kl_coef=0.0))


def test_it_raises_the_action_that_the_buffer_lacks():
    theta = with_logits([0.0, 0.0])
    lacks_0 = adapted(theta, buffer(theta, [1, 1, 1, 0, 1, 1, 1, 1]), HP)[0]
    lacks_1 = adapted(theta, buffer(theta, [0, 0, 0, 1, 0, 0, 0, 0]), HP)[0]
    assert lacks_0[0] > 0.53 and lacks_1[1] > 0.53
    even = adapted(theta, buffer(theta, [0, 1, 0, 1, 1, 0, 1, 0]), HP)[0]
    np.testing.assert_allclose(even, 0.5, atol=1e-4)


def test_it_stops_where_it_is_far_enough():
    theta = with_logits([0.0, 0.0])
    b = buffer(theta, [1] * 8)
    first = float(adapted(theta, b, HP.replace(target_kl=jnp.inf))[0][0])
    stopped = float(adapted(theta, b, HP.replace(target_kl=1e-9))[0][0])
    assert 0.5 < stopped < first  # after one step it is further than that
    # Adam's first step is lr whatever the gradient's size (but for its ε): away from action 1
    np.testing.assert_allclose(stopped, softmax(np.array([0.05, -0.05]))[0], rtol=1e-4)


@pytest.fixture(scope="module")
def runs():
    """64 seeds in one state with two actions, the policy nearly still: with and without PROPS."""

    @quick
    def run(keys, lr):
        hp = cast(
            PROPS(
                lr=1e-6, ent_coef=0.0, num_envs=1, num_steps=16, minibatches=1, epochs=1,
                behaviour_steps=1, behaviour_epochs=4, buffer=2, target_kl=jnp.inf,
                behaviour_eps=jnp.inf, kl_coef=0.0,
            )
        ).replace(behaviour_lr=lr)  # fmt: skip
        world = envs.make("probe/one")
        algo = props.make(world, LINEAR)
        return jax.vmap(lambda k: train(algo, k, hp, world, 6)[0].slots["sampler"])(keys)

    keys = jax.random.split(KEY, 64)
    return {lr: run(keys, jnp.float32(lr)) for lr in (0.0, 0.1)}


def test_the_buffer_holds_more_nearly_what_the_policy_would(runs):
    """The share of action 1 is off ½ by √(1/4 / 32) = 0.088 where actions are drawn by π_θ."""
    off = {lr: np.abs(D.action.mean((1, 2)) - 0.5) for lr, D in runs.items()}
    np.testing.assert_allclose(np.sqrt((off[0.0] ** 2).mean()), 0.088, atol=0.025)
    assert off[0.1].mean() < 0.7 * off[0.0].mean()


def test_the_buffer_is_the_last_rollouts_in_order():
    world = envs.make("probe/match")
    hp = cast(PROPS(num_envs=3, num_steps=4, minibatches=1, behaviour_steps=2, buffer=3, epochs=1))
    algo = props.make(world, LINEAR)
    run = quick(lambda n: jax.lax.fori_loop(
        0, n, lambda t, s: algo.step(s, t, hp, world)[0], algo.init(KEY, hp, world)))  # fmt: skip
    D3, D4 = (run(n).slots["sampler"] for n in (3, 4))
    np.testing.assert_array_equal(D4.obs[:8], D3.obs[4:])  # the oldest went, the rest moved up
    np.testing.assert_array_equal(D4.action[:8], D3.action[4:])
    right = (np.asarray(D4.action) == 1) == (np.asarray(D4.obs[..., 0]) > 0)
    np.testing.assert_array_equal(D4.reward, np.where(right, 1.0, -1.0))  # each row is one step's
    assert not run(1).slots["sampler"].reward[:8].any()  # empty until there is something


def test_a_behaviour_sees_every_step_before_it():
    """Two steps a rollout: the second is by a behaviour that has seen the first and seeks the other
    action; by π_θ they would differ half of the time."""
    hp = cast(
        PROPS(num_envs=1, num_steps=2, minibatches=1, behaviour_steps=1, buffer=1, kl_coef=0.0)
    ).replace(target_kl=jnp.inf, behaviour_eps=jnp.inf, behaviour_lr=1.0)
    world = envs.make("probe/one")
    algo = props.make(world, LINEAR)
    run = quick(jax.vmap(lambda k: train(algo, k, hp, world, 1)[0].slots["sampler"].action))
    first, second = np.asarray(run(jax.random.split(KEY, 64)))[:, :, 0].T
    assert (first != second).mean() > 0.9 and 0.3 < first.mean() < 0.7


def test_without_behaviour_the_first_rollout_is_by_the_policy_itself():
    world = envs.make("CartPole-v1")
    size = dict(num_envs=4, num_steps=8, minibatches=2, epochs=2)
    hp = PROPS(**size, buffer=2, behaviour_epochs=0, behaviour_steps=8, fit_epochs=0)
    key = jax.random.key(3)
    policy, algo = policy_for(world, LINEAR), props.make(world, LINEAR)

    @quick
    def sample(key):
        s = algo.init(key, hp, world)
        return props.props_sampler(policy).apply(s.slots["sampler"], s, None, 0, hp, world)

    _, (s, b, m) = sample(key)
    w = policy.judge(s.params, s.params, b, key)
    np.testing.assert_allclose(w.log_ratio, 0.0, atol=1e-6)  # collected by θ, judged by θ
    np.testing.assert_allclose(b.old["log_prob"], b.record["log_prob"], atol=1e-6)
    np.testing.assert_allclose(b.value, w.value, atol=1e-6)
    assert m["sampling_error"] == 0.0
    for x in jax.tree.leaves(b.replace(memory=())):  # the empty slot repeats the newest rollout
        np.testing.assert_array_equal(x[:, :4], x[:, 4:])


def test_memory_is_refused():
    with pytest.raises(InputError, match="memory: 8"):
        props.make(WORLD, Network(memory=8))
