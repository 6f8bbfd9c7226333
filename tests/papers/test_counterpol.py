"""CounterPol, arXiv 2307.13192: its gradient on an enumerated bandit, its pivot, its J."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.families.on_policy import State
from jaxrl.hyper import cast, replace
from jaxrl.optim import adam
from jaxrl.papers.on_policy import counterpol
from jaxrl.papers.on_policy.counterpol import CounterPol
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import begin
from jaxrl.run.battery import QUICK
from jaxrl.types import Batch

pytestmark = pytest.mark.equation("counterpol")

# Two contexts x, two actions a, a reward for each: episodes are one step long, J = E_x[Σ π r].
X, REWARD = np.array([-1.0, 0.5]), np.array([[3.0, -1.0], [0.5, 4.0]])
THETA, PIVOT = np.array([0.3, -0.7, 0.2, 0.6]), np.array([-0.4, 0.1, 0.5, -0.2])
KEY = jax.random.key(0)
WORLD = envs.make("probe/match")
LINEAR = policy_for(WORLD, Network(hidden=()))  # logits are x w + c, θ = (w, c)
HP = CounterPol(
    target=0.5, scale=2.0, kl_coef=0.7, pivot=2, delta=0.0, pretrain=0.5, horizon=4.0, cf_lr=0.1,
    max_grad_norm=jnp.inf, num_envs=2, num_steps=2, minibatches=2, epochs=2,
)  # fmt: skip
quick = functools.partial(jax.jit, compiler_options=QUICK)


def pi(theta):
    """π(a|x), [context, action]."""
    z = np.exp(np.outer(X, theta[:2]) + theta[2:])
    return z / z.sum(1, keepdims=True)


def J(theta):
    return (pi(theta) * REWARD).sum(1).mean()


def kl(p, q):
    return (p * np.log(p / q)).sum(1).mean()


def objective(theta, pivot, hp=HP):
    return (J(theta) - hp.target) ** 2 / hp.scale + hp.kl_coef * kl(pi(pivot), pi(theta))


def seen_from(at, theta, pivot):
    """HP's objective at θ, but for a constant, linear in J about the policy `at` of the data."""
    weight = 2 * (J(at) - HP.target) / HP.scale
    gain = (pi(at) * (REWARD - 7.0) * np.log(pi(theta))).sum(1).mean()
    return weight * gain + HP.kl_coef * kl(pi(pivot), pi(theta))


def slope(f, theta, h=1e-5):
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(4)])


def parameters(theta):
    params = jax.tree.map(jnp.ones_like, LINEAR.init(KEY, jnp.zeros((1, 1))))
    w, c = jnp.asarray(theta[:2], jnp.float32)[None], jnp.asarray(theta[2:], jnp.float32)
    params["net"]["params"]["Dense_1"] = dict(kernel=w, bias=c)
    return params


def actor(params):
    layer = params["net"]["params"]["Dense_1"]
    return np.concatenate([np.ravel(layer["kernel"]), np.ravel(layer["bias"])])


def every_action(theta, hp=HP):
    """Each action in each context once, its A weighed so that means over rows are means under π.

    A baseline of 7 and a critic's V of 2 cancel, and `advantage` is of no use to the second phase.
    """
    obs = jnp.asarray(np.repeat(X[:, None, None], 2, 1), jnp.float32)
    A = jnp.asarray(2 * pi(theta) * (REWARD - 7.0), jnp.float32)
    flags = jnp.zeros((2, 2), bool)
    b = Batch(obs, jnp.array([[0, 1]] * 2), dict(raw=jnp.array([[0, 1]] * 2)), flags)
    old = jax.tree.map(jnp.zeros_like, flags * 0.0)
    params = parameters(theta)
    now = LINEAR.judge(params, params, b.replace(old=dict(log_prob=old, out=0)), KEY).record
    two = jnp.full((2, 2), 2.0)
    b = b.replace(record=now, old=now, value=two, target=two + A, advantage=1e3 + A)
    return b.replace(dual=jnp.float32(J(theta)))


@quick
def gradient(params, b, hp):
    loss = lambda p: counterpol.toward(LINEAR.judge(p, p, b, KEY), b, hp).mean()
    return jax.grad(loss)(params)


@pytest.mark.parametrize("target", [-1.0, 1.5, 6.0])  # below J, near it, above it
@pytest.mark.parametrize("kl_coef", [0.0, 0.7])
def test_the_gradient_is_that_of_the_objective(target, kl_coef):
    hp = replace(HP, target=target, kl_coef=kl_coef)
    b, p = every_action(THETA), parameters(PIVOT)
    b = b.replace(advantage=b.target - b.value, old=LINEAR.judge(p, p, b, KEY).record)
    got = actor(gradient(parameters(THETA), b, cast(hp)))
    want = slope(lambda theta: objective(theta, PIVOT, hp), THETA)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-4)


@quick
def update(slot, params, opt, b, t, hp):
    part = counterpol.counterfactual(LINEAR)
    slot, (s, stats) = part.apply(slot, State(params, opt, KEY, None, {}), b, t, hp, WORLD)
    return slot, s.params, s.opt, stats


def first(params):
    opt = adam(HP).init(params)
    return (params, params, (opt, opt)), opt


def test_the_pivot_moves_and_the_original_stays():
    """Two iterations of PPO, then a pivot every two steps, each step Adam's along the objective."""
    params, hp = parameters(THETA), cast(HP)
    (slot, opt), b, at, m, v = first(params), every_action(THETA), [], np.zeros(4), np.zeros(4)
    for t in range(8):
        at.append(actor(params))
        slot, params, opt, stats = update(slot, params, opt, b, jnp.int32(t), hp)
        origin, pivot = min(t, 2), t if t < 2 else 2 * (t // 2)
        np.testing.assert_array_equal(actor(slot[0]), at[origin])
        np.testing.assert_array_equal(actor(slot[1]), at[pivot])
        away = kl(pi(at[origin]), pi(actor(params)))
        np.testing.assert_allclose(stats["kl_origin"], away, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(stats["target_gap"], abs(J(THETA) - 0.5) / 0.5, rtol=1e-5)
        if t >= 2:  # the data stay those of THETA
            f = functools.partial(seen_from, THETA, pivot=at[pivot])
            g = slope(f, at[t].astype(float))
            m, v, n = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, t - 1
            step = -0.1 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-5)
            np.testing.assert_allclose(actor(params) - at[t], step, rtol=5e-3, atol=1e-4)


def test_near_enough_there_is_no_step_but_the_critic_learns_on():
    params, b = parameters(THETA), every_action(THETA)
    gap = abs(J(THETA) - HP.target)
    for delta, still in ((0.99 * gap, False), (1.01 * gap, True)):
        slot, opt = first(params)
        _, new, _, _ = update(slot, params, opt, b, jnp.int32(3), cast(replace(HP, delta=delta)))
        assert np.array_equal(actor(new), actor(params)) == still
        critic = new["net"]["params"]["Dense_0"]["kernel"]
        assert not np.array_equal(critic, params["net"]["params"]["Dense_0"]["kernel"])


def test_j_is_a_mean_over_episodes_that_fades_by_rollout():
    """From the metrics; a rollout in which no episode ended (NaN) adds nothing."""
    world = envs.make("CartPole-v1", max_steps=14)
    policy = policy_for(world, Network(hidden=()))
    hp = cast(CounterPol(num_envs=2, num_steps=5, keep=0.6))
    part = counterpol.with_return(policy)

    def fresh():
        stage = begin(policy, KEY, hp, world)
        return State(policy.init(KEY, stage.obs), (), KEY, stage, {})

    s = quick(fresh)()
    sample = quick(lambda seen, s: part.apply(seen, s, None, 0, hp, world))
    seen, total, count, empty = part.init(KEY, s, hp, world), 0.0, 0.0, 0
    for _ in range(12):
        seen, (s, b, metrics) = sample(seen, s)
        n = int(metrics["episodes"])
        total = 0.6 * total + (n * float(metrics["episode_return"]) if n else 0.0)
        count, empty = 0.6 * count + n, empty + (count > 0 and n == 0)
        np.testing.assert_allclose(b.dual, total / count if count else 0.0, rtol=1e-5)
    assert empty
