"""A prompt that is read once: the loss and gradient of GRPO are those of prompts read for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.completions import Group, decode, judge, model, task
from jaxrl.families import tokens as family
from jaxrl.families.tokens import Tokens
from jaxrl.papers.on_policy.ppo import clip
from jaxrl.papers.reasoning import grpo, prefix_grouper
from jaxrl.surrogate import k3, sequence_mean, token_mean
from tests.papers.by_hand import quick
from tests.programs import at_once

WORLD = envs.make("tokens/chain", length=4)
GAME, NET = task(WORLD), model(WORLD, Tokens.network_for("").replace(hidden=(8, 8)))
HP = dict(prompts=6, group=4, accumulate=1, beta=0.3, temperature=0.7)


@pytest.fixture(scope="module")
def sampled():
    """Parameters that are not what sampled, and completions of prompts of several lengths."""
    noise = lambda x, k: x + 0.3 * jax.random.normal(jax.random.fold_in(k, x.size), x.shape)
    keys = jax.random.split(jax.random.key(1), 3)
    first = quick(NET.init)(keys[0], jnp.ones((1, 1), jnp.int32))
    old, params = (jax.tree.map(lambda x, k=k: noise(x, k), first) for k in keys[1:])
    x = at_once(decode)(NET, old, GAME, jnp.arange(6), jax.random.key(2), 0.7, 4)
    A = jax.random.normal(jax.random.key(3), (24, 1)) * jnp.ones((1, GAME.L))
    b = Group(x.state.number, x.state.tokens, x.mask, x.log_prob, x.value, jnp.zeros(24))
    ref = x.log_prob + 0.2 * jax.random.normal(jax.random.key(4), x.mask.shape)
    return params, b.replace(advantage=A, ref=ref)


@pytest.mark.equation("prefix_grouper")
def test_loss_and_gradient_are_those_of_prompts_that_are_repeated(sampled):
    params, b = sampled
    blanks = np.asarray(b.tokens[:, : GAME.P] == 0).sum(1)
    assert len(set(blanks)) > 2 and (blanks == 0).any()  # prompts of different lengths

    def of(cls, **more):
        hp = cls(**HP, **more)
        share, count = sequence_mean(b.mask), token_mean(b.mask)
        loss = lambda p: family.total_loss(NET, p, b, share, count, share, hp, clip, k3)[0]
        return quick(jax.value_and_grad(loss))(params)

    once = of(prefix_grouper.PrefixGrouper)
    each = of(prefix_grouper.PrefixGrouper, share_prefix=False)
    alike = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    jax.tree.map(alike, once, each)
    jax.tree.map(alike, once, of(grpo.GRPO))
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(once[1])) > 0.1

    # each completion by itself, its prompt without blanks
    total = 0.0
    log_ps = {}
    for k in set(blanks.tolist()):
        read = quick(lambda p, tokens, P=GAME.P - k: NET.read(p, tokens)[0][:, P - 1 : -1])
        log_ps[k] = np.asarray(jax.nn.log_softmax(read(params, b.tokens[:, k:]) / 0.7), float)
    for i in range(24):
        n = int(b.mask[i].sum())
        for t in range(n):
            lp = log_ps[int(blanks[i])][i, t, int(b.tokens[i, GAME.P + t])]
            r, d = np.exp(lp - float(b.old[i, t])), float(b.ref[i, t]) - lp
            A = float(b.advantage[i, t])
            total -= min(r * A, min(max(r, 0.8), 1.2) * A) / n / 24
            total += 0.3 * (np.exp(d) - d - 1) / n / 24
    assert float(once[0]) == pytest.approx(total, rel=1e-3, abs=1e-5)


@pytest.mark.equation("prefix_grouper")
def test_a_prompt_s_tokens_are_computed_once(sampled):
    """By what XLA counts: a group of 4 costs a quarter of its prompts' tokens."""
    params, b = sampled

    def flops(group):
        f = jax.jit(lambda p: judge(NET, p, b, 1.0, group).log_prob.sum())
        return f.lower(params).compile().cost_analysis()["flops"]

    P, L = GAME.P, GAME.L
    shorter = (P - 1 + 4 * L) / (4 * (P - 1 + L))
    assert 1 / 4 < flops(4) / flops(1) < shorter + 0.02  # queries to the prompt are fewer, too
