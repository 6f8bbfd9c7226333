"""The token family: generation, judging, the parts of its losses, and exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import envs
from jaxrl import completions
from jaxrl.completions import Group, judge, model, pass_at, task
from jaxrl.core import Part
from jaxrl.families import tokens as family
from jaxrl.families.tokens import Tokens, grouped, total_loss
from jaxrl.papers.reasoning import dapo, token_ppo
from jaxrl.papers.reasoning.grpo import GRPO
from jaxrl.returns import group_advantage, leave_one_out
from jaxrl.surrogate import constant_length, policy_gradient, sequence_mean, token_mean
from tests.programs import at_once

decode, everything = at_once(completions.decode), at_once(completions.everything)
offline = at_once(completions.offline)
WORLD = envs.make("tokens/add")
GAME = task(WORLD)
NET = model(WORLD, Tokens.network_for("").replace(hidden=(16, 16)))


@jax.jit
def shaken(params, size):
    """The same with other numbers."""
    return jax.tree.map(
        lambda x: x + size * jax.random.normal(jax.random.key(x.size), x.shape), params
    )


@pytest.fixture(scope="module")
def params():
    params = jax.jit(NET.init)(jax.random.key(0), jnp.ones((1, 4), jnp.int32))
    return shaken(params, 0.3)


NUMBERS = jnp.arange(5) * 7


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["greedy", "sampled"])
def test_generation_with_a_cache_is_generation_without(params, key):
    with_, without = (
        decode(NET, params, GAME, NUMBERS, key, 0.8, 3, cached=c) for c in (True, False)
    )
    np.testing.assert_array_equal(with_.state.tokens, without.state.tokens)
    np.testing.assert_array_equal(with_.mask, without.mask)
    np.testing.assert_allclose(with_.log_prob, without.log_prob, atol=1e-4)
    np.testing.assert_allclose(with_.value, without.value, atol=1e-4)
    if key is None:  # one prompt's completions by the mode are one
        assert (with_.state.tokens[0::3] == with_.state.tokens[2::3]).all()
    else:
        assert (with_.state.tokens[0::3] != with_.state.tokens[1::3]).any()


@at_once
def said(net, params, b, temperature):
    w = judge(net, params, b, temperature)
    return w.log_prob, w.value, w.log_ratio


def written(x):
    return Group(
        x.state.number, x.state.tokens, x.mask, x.log_prob, x.value, jnp.zeros(len(x.mask))
    )


def test_what_sampled_a_completion_judges_it_the_same(params):
    x = decode(NET, params, GAME, NUMBERS, jax.random.key(1), 0.7, 4)
    log_prob, value, _ = said(NET, params, written(x), 0.7)
    np.testing.assert_allclose(log_prob * x.mask, x.log_prob, atol=1e-4)
    np.testing.assert_allclose(value * x.mask, x.value * x.mask, atol=1e-4)
    assert np.abs(said(NET, params, written(x), 1.0)[2]).max() > 0.01
    # one completion's tokens are chosen up to its end, and nothing stands after it
    P = GAME.P
    for row, mask in zip(np.asarray(x.state.tokens), np.asarray(x.mask)):
        ends = np.flatnonzero(row[P:] == 1)
        n = ends[0] + 1 if len(ends) else GAME.L
        assert mask.tolist() == [1] * n + [0] * (GAME.L - n)
        assert (row[P + n :] == 0).all()


def test_a_prompt_that_is_read_once_is_judged_as_if_read_for_each(params):
    x = decode(NET, params, GAME, NUMBERS, jax.random.key(1), 0.7, 4)
    b, weight = written(x), jax.random.normal(jax.random.key(2), x.mask.shape)

    def of(params, group):
        w = judge(NET, params, b, 0.9, group)
        return (weight * (w.log_prob + w.value + w.logits[..., 3])).sum()

    once, each = (at_once(jax.value_and_grad(of))(params, group) for group in (4, 1))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), once, each)


def test_losses_of_completions_are_losses_of_their_tokens_summed(params):
    x = decode(NET, params, GAME, NUMBERS, jax.random.key(1), 1.0, 4)
    b = written(x).replace(advantage=jax.random.normal(jax.random.key(2), (20, 1)))
    mask, row = b.mask, jnp.arange(20.0)
    whole = lambda w, b, hp: (policy_gradient(w, b, hp) * b.mask).sum(-1)
    hp, none = Tokens(group=4), jnp.zeros_like(mask)
    got = at_once(total_loss)(NET, params, b, none, none, row, hp, whole)[0]
    each = row[:, None] * mask
    want = at_once(total_loss)(NET, params, b, each, none, row, hp, policy_gradient)[0]
    assert float(got) == pytest.approx(float(want), rel=1e-4)


def test_a_prefix_is_given_and_not_chosen(params):
    given = jnp.full((6, GAME.L), 5)
    length = jnp.array([0, 1, 2, 3, 4, 4])
    x = decode(NET, params, GAME, jnp.arange(6), jax.random.key(1), prefix=(given, length))
    for row, mask, n in zip(np.asarray(x.state.tokens), np.asarray(x.mask), length):
        assert (row[GAME.P : GAME.P + n] == 5).all() and not mask[:n].any()
        assert mask[n:].any() == (n < GAME.L)


def test_completions_from_elsewhere_are_as_if_they_were_sampled(params):
    x = decode(NET, params, GAME, NUMBERS, jax.random.key(1), 0.7, 4)
    tokens = x.state.tokens[:, GAME.P :]
    b = offline(NET, params, GAME, jnp.repeat(NUMBERS, 4), tokens, 0.7)
    np.testing.assert_array_equal(b.tokens, x.state.tokens)
    np.testing.assert_array_equal(b.mask, x.mask)
    np.testing.assert_allclose(b.old, x.log_prob, atol=1e-4)
    solutions = jax.vmap(lambda j: GAME.problem(GAME.order[j], GAME.difficulty).solution)(NUMBERS)
    assert (offline(NET, params, GAME, NUMBERS, solutions).reward == 1).all()


def test_sampling_is_at_the_temperature(params):
    """The first token's frequencies, of one prompt, are the softmax of its logits over T."""
    game = task(envs.make("tokens/tiny"))
    net = model(envs.make("tokens/tiny"), Tokens.network_for("").replace(hidden=(8,)))
    p = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 1), jnp.int32))
    x = decode(net, p, game, jnp.array([2]), jax.random.key(5), 0.5, 20_000)
    logits = jax.jit(net.read)(p, x.state.tokens[:1, :1])[0][0, 0]
    want = jax.nn.softmax(logits / 0.5)
    got = np.bincount(np.asarray(x.state.tokens[:, 1]), minlength=8) / 20_000
    np.testing.assert_allclose(got, want, atol=4 * np.sqrt(0.25 / 20_000))


def test_how_much_tokens_count():
    mask = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], jnp.float32)
    np.testing.assert_allclose(
        sequence_mean(mask), [[1 / 6] * 3 + [0], [0.5, 0, 0, 0], [0] * 4], rtol=1e-6
    )
    np.testing.assert_allclose(token_mean(mask), mask / 4)
    np.testing.assert_allclose(constant_length(mask), mask / 12)


def test_group_advantages_are_the_formulas():
    R = np.array([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 3]])
    centred = R - R.mean(1, keepdims=True)
    np.testing.assert_allclose(group_advantage(R, scale=False), centred, atol=1e-6)
    scaled = centred / (R.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(group_advantage(R), scaled, rtol=1e-5, atol=1e-6)
    others = [[R[i, [k for k in range(4) if k != j]].mean() for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(leave_one_out(R), R - np.array(others), rtol=1e-5, atol=1e-6)


class Tiny:
    """The countable task, a policy of it, and the exact gradient of its expected reward."""

    def __init__(self):
        self.world = envs.make("tokens/tiny")
        self.game = task(self.world)
        self.net = model(self.world, Tokens.network_for("").replace(hidden=(8,)))
        p = jax.jit(self.net.init)(jax.random.key(0), jnp.ones((1, 1), jnp.int32))
        self.params = shaken(p, 0.2)

    def value(self, params):
        log_p, R = everything(self.net, params, self.game)
        return (jnp.exp(log_p) * R).sum(-1).mean()


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


def test_all_completions_are_counted(tiny):
    log_p, R = everything(tiny.net, tiny.params, tiny.game)
    assert log_p.shape == R.shape == (6, 64)
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(R.max(-1), 1.0)
    x = decode(tiny.net, tiny.params, tiny.game, jnp.arange(6), jax.random.key(0), group=4)
    place = x.state.tokens[:, 1] * 8 + x.state.tokens[:, 2]
    rows = jnp.repeat(jnp.arange(6), 4)
    np.testing.assert_allclose(log_p[rows, place], x.log_prob.sum(-1), atol=1e-4)
    np.testing.assert_allclose(R[rows, place], jax.vmap(tiny.game.score)(x.state), rtol=1e-6)


def test_estimated_gradients_are_the_exact_one_on_average(tiny):
    """Leave-one-out policy gradients: cosine 1.00, norms within 2 %."""
    exact, _ = ravel_pytree(jax.jit(jax.grad(tiny.value))(tiny.params))
    hp = Tokens(group=8)

    @jax.jit
    def estimate(key):
        numbers = jnp.tile(jnp.arange(6), 256)
        x = decode(tiny.net, tiny.params, tiny.game, numbers, key, group=8)
        R = jax.vmap(tiny.game.score)(x.state)
        A = leave_one_out(grouped(R, hp)).reshape(-1, 1) * jnp.ones_like(x.mask)
        b = written(x).replace(reward=R, advantage=A)
        share = constant_length(b.mask) * tiny.game.L  # a sum over tokens, a mean over completions
        row = jnp.ones(len(R)) / len(R)
        of = lambda p: total_loss(tiny.net, p, b, share, share, row, hp, policy_gradient)[0]
        return -ravel_pytree(jax.grad(of)(tiny.params))[0]

    mean = jax.lax.map(estimate, jax.random.split(jax.random.key(9), 40)).mean(0)
    norm = jnp.linalg.norm
    assert mean @ exact / norm(mean) / norm(exact) > 0.995
    assert norm(mean) / norm(exact) == pytest.approx(1.0, abs=0.02)


def test_grpo_learns_the_countable_task_and_says_how_well():
    """By its exact regret, which must fall by half; the table of prompts counts what it saw."""
    world = envs.make("tokens/tiny")
    algo = family.tokens(world, Tokens.network_for("").replace(hidden=(16,)), policy_gradient)
    hp = Tokens(lr=0.02, prompts=6, group=16, accumulate=1)
    from jaxrl.core import train

    run = jax.jit(lambda key: train(algo, key, hp, world, 60))
    state, metrics = run(jax.random.key(0))
    start = jax.jit(algo.init)(jax.random.key(0), hp, world)
    said = [jax.jit(algo.examine)(s, jax.random.key(1), hp, world) for s in (start, state)]
    assert said[1]["regret"] < 0.5 * said[0]["regret"]
    assert said[0]["exact_kl"] == pytest.approx(0.0, abs=1e-5) and said[1]["exact_kl"] > 0.1
    assert metrics["episode_return"][-1] > metrics["episode_return"][0]
    assert set(said[0]) == {
        "sampled",
        "greedy",
        "pass_at_8",
        "pass_at_16",
        "tempered",
        "expected",
        "regret",
        "exact_kl",
    }


def test_completions_that_are_not_kept_count_too():
    assert GRPO(prompts=4, group=2).steps_per_iteration == 8
    assert dapo.DAPO(prompts=4, group=2, oversample=3).steps_per_iteration == 24


def test_pass_at_k_is_without_bias():
    """The mean over all choices of k among n."""
    right = jnp.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 1]])
    for k in (1, 3, 5):
        sets = list(itertools.combinations(range(5), k))
        want = [np.mean([row[list(s)].any() for s in sets]) for row in np.asarray(right)]
        np.testing.assert_allclose(pass_at(k, right), want, rtol=1e-6)


def test_pass_rates_are_of_each_prompt():
    world = envs.make("tokens/tiny")
    part, hp = family.pass_rates(decay=0.5), Tokens(group=2, prompts=2)
    table = part.init(None, None, hp, world)
    none = jnp.zeros((4, 2))
    b = Group(jnp.array([3, 3, 1, 1]), none, none, none, none, jnp.array([1.0, 0, 1, 1]))
    table, _ = part.apply(table, None, b, 0, hp, world)
    b = b.replace(reward=jnp.array([0.0, 0, 1, 1]))
    table, _ = part.apply(table, None, b, 1, hp, world)
    assert table["visits"].tolist() == [0, 2, 0, 2, 0, 0]
    np.testing.assert_allclose(table["rate"], [0, 1, 0, 0.25, 0, 0])


def test_histories_are_of_each_prompt():
    part, hp = family.histories(3), Tokens(group=2)
    table, none = part.init(None, None, hp, envs.make("tokens/tiny")), jnp.zeros((4, 2))
    for R in ([1.0, 0, 1, 1], [0.0, 0, 1, 0]):
        b = Group(jnp.array([3, 3, 1, 1]), none, none, none, none, jnp.array(R))
        table, _ = part.apply(table, None, b, 0, hp, None)
    assert table[3].tolist() == [0, 0.5, -1] and table[1].tolist() == [0.5, 1, -1]
    assert (table[jnp.array([0, 2, 4, 5])] == -1).all()


def test_the_head_of_a_critic_may_learn_first():
    world = envs.make("tokens/tiny")
    network = Tokens.network_for("").replace(hidden=(8,))
    algo = token_ppo.make(world, network)
    hp = token_ppo.TokenPPO(prompts=4, group=4, accumulate=1, value_first=2)
    states = [jax.jit(algo.init)(jax.random.key(0), hp, world)]
    for t in range(3):
        states.append(jax.jit(algo.step)(states[-1], jnp.int32(t), hp, world)[0])
    leaves = [s.params["params"] for s in states]
    moved = lambda name, t: (
        not jax.tree.all(
            jax.tree.map(lambda x, y: (x == y).all(), leaves[t][name], leaves[t + 1][name])
        )
    )
    assert [moved("value", t) for t in range(3)] == [True] * 3
    assert [moved("layer_0", t) for t in range(3)] == [False, False, True]


def test_advantages_know_what_was_seen_of_their_prompts():
    world, seen = envs.make("tokens/tiny"), []
    table = Part(lambda *_: dict(x=10.0 * jnp.arange(6)), lambda table, *_: (table, {}))

    def advantage(b, hp):
        seen.append((b.number, b.seen["x"]))
        return b.reward

    net = Tokens.network_for("").replace(hidden=(8,))
    algo = family.tokens(world, net, policy_gradient, advantage, track=table)
    hp = Tokens(prompts=4, group=2, accumulate=1)
    state = jax.jit(algo.init)(jax.random.key(0), hp, world)
    algo.trace(state, jax.random.key(0), hp, world)
    np.testing.assert_array_equal(seen[0][1], 10.0 * seen[0][0])


@pytest.mark.parametrize("stale", [1, 3])
def test_a_stale_sampler_is_so_many_iterations_behind(stale):
    world = envs.make("tokens/tiny")
    algo = family.tokens(world, Tokens.network_for("").replace(hidden=(8,)), policy_gradient)
    hp = GRPO(prompts=4, group=4, accumulate=1, stale=stale, lr=0.05)
    state = jax.jit(algo.init)(jax.random.key(0), hp, world)
    step = jax.jit(algo.step)
    kl = []
    for t in range(4):
        state, metrics = step(state, jnp.int32(t), hp, world)
        kl.append(float(metrics["approx_kl"]))
    behind = [x > 1e-6 for x in kl]  # before its one step, only an older sampler differs
    assert behind == ([False] * 4 if stale == 1 else [False, True, True, False])
