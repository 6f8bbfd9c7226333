"""What the references of the token family learn, against loops written from their formulas.

A step of each is taken with plain gradient descent, from completions that another policy sampled,
so that ratios leave the clip range. What the parameters moved by is the gradient of the formula:
its derivative by each token's log-probability, by a loop, times that of the log-probability.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from envs.tokens.base import END
from jaxrl.completions import judge, model, task
from jaxrl.families import tokens as family
from jaxrl.families.tokens import Tokens
from jaxrl.hyper import cast
from jaxrl.papers.reasoning import dapo, dr_grpo, grpo, reinforce_pp, token_ppo
from tests.papers.by_hand import quick

NETWORK = Tokens.network_for("").replace(hidden=(8,))
SMALL = dict(prompts=6, group=4, accumulate=2, stale=2, temperature=0.8, lr=1.0)
WORLD = envs.make("tokens/add", digits=1)
METHODS = {
    "grpo": (grpo, grpo.GRPO(**SMALL, beta=0.3)),
    "dr_grpo": (dr_grpo, dr_grpo.DrGRPO(**SMALL, ent_coef=0.1)),
    "dapo": (dapo, dapo.DAPO(**SMALL, cache=0.5, eps_high=0.5)),
    "reinforce_pp": (reinforce_pp, reinforce_pp.ReinforcePP(**SMALL, beta=0.3)),
    "token_ppo": (token_ppo, token_ppo.TokenPPO(**SMALL, beta=0.3, lam=0.7)),
}
each = pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=pytest.mark.equation(slug)) for slug in METHODS]
)


class Step(NamedTuple):
    """Before, what was learned from, what is said of it, and how the parameters moved."""

    net: Any
    params: Any
    b: Any  # as NumPy
    log_prob: np.ndarray
    value: np.ndarray
    moved: np.ndarray
    metrics: dict


def easy(game, state):
    """A reward that chance gets now and then: the first digit is right, or nearly."""
    off = jnp.abs(state.tokens[game.P] - state.data[0])
    return jnp.where(off == 0, 1.0, jnp.where(off == 1, 0.25, 0.0))


def ends(game, state, token):
    """Many tokens end a completion, so that chance writes short ones."""
    return token % 3 == END


def stepped(slug, monkeypatch) -> Step:
    module, hp = METHODS[slug]
    hp = cast(hp)
    monkeypatch.setattr(family, "adam", lambda hp, t=0: optax.sgd(1.0))
    monkeypatch.setattr(type(task(WORLD)), "score", easy)
    monkeypatch.setattr(type(task(WORLD)), "ends", ends)
    net = model(WORLD, NETWORK)
    algo = module.make(WORLD, NETWORK)
    s = algo.init(jax.random.key(0), hp, WORLD)

    def moved(tree, size, key):
        noise = lambda x: x + size * jax.random.normal(jax.random.fold_in(key, x.size), x.shape)
        return jax.tree.map(noise, tree)

    s = s.replace(params=moved(s.params, 0.1, jax.random.key(1)))
    s = s.replace(
        sampler=moved(s.params, 0.1, jax.random.key(2)),
        ref=moved(s.params, 0.1, jax.random.key(3)),
    )
    k_sample = jax.random.split(s.key, 3)[1]
    b = quick(algo.trace)(s.replace(params=s.sampler), k_sample, hp, WORLD)
    after, metrics = quick(algo.step)(s, jnp.int32(1), hp, WORLD)
    w = judge(net, s.params, b, hp.temperature)
    delta = jax.tree.map(jnp.subtract, s.params, after.params)
    log_prob, value = np.asarray(w.log_prob, float), np.asarray(w.value, float)
    b = jax.tree.map(lambda x: np.asarray(x, float), b)
    return Step(net, s.params, b, log_prob, value, flat(delta), metrics)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def gradient(x: Step, hp, by_log_prob, by_value):
    """Of the parameters, from the derivatives by what the network says of each token."""
    b = jax.tree.map(jnp.asarray, x.b).replace(tokens=jnp.asarray(x.b.tokens, jnp.int32))

    def said(params):
        w = judge(x.net, params, b, hp.temperature)
        return w.log_prob, w.value, w.entropy()

    entropy = -hp.ent_coef * by_log_prob[1]
    pull = jax.vjp(said, x.params)[1]
    parts = (by_log_prob[0], by_value, entropy)
    return flat(pull(tuple(jnp.asarray(p, jnp.float32) for p in parts))[0])


def pessimistic(ratio, A, low, high):
    """The derivative of min(r A, clip(r) A) by log r."""
    inside = min(max(ratio, 1 - low), 1 + high)
    return ratio * A if ratio * A <= inside * A else 0.0


def groups(R, G=4):
    return R.reshape(-1, G)


def rewards_of_tokens(x, hp):
    """The reward at the last token, and at each what its log-probability is above the other's."""
    out = np.zeros_like(x.b.mask)
    for i, mask in enumerate(x.b.mask):
        n = int(mask.sum())
        for t in range(n):
            out[i, t] = -hp.beta * (x.b.old[i, t] - x.b.ref[i, t])
        out[i, n - 1] += x.b.reward[i]
    return out


def whitened(A, mask):
    """By the mean and the standard deviation of the tokens that count."""
    own = A[mask > 0]
    return (A - own.mean()) / np.sqrt(own.var() + 1e-8)


def formula(slug, x: Step, hp):
    """(derivatives by log-probabilities, weights of the entropy), derivatives by values."""
    mask, R = x.b.mask, x.b.reward
    B, L = mask.shape
    G, H, V = np.zeros((B, L)), np.zeros((B, L)), np.zeros((B, L))
    lengths = mask.sum(1)
    low = high = hp.eps
    A = np.zeros((B, L))
    share = np.zeros((B, L))
    if slug in ("grpo", "dr_grpo"):
        for i in range(B):
            mine = groups(R)[i // 4]
            gap = R[i] - mine.mean()
            scaled = slug == "grpo"
            A[i] = gap / (np.sqrt(((mine - mine.mean()) ** 2).sum() / 3) + 1e-4) if scaled else gap
            share[i] = 1 / lengths[i] / B if scaled else 1 / (B * L)
    elif slug == "dapo":
        high = hp.eps_high
        room, cache = L, hp.cache * L
        punished = R + [min(0.0, max(-1.0, (room - cache - n) / cache)) for n in lengths_of(x)]
        for i in range(B):
            mine = groups(np.asarray(punished))[i // 4]
            A[i] = (punished[i] - mine.mean()) / (mine.std(ddof=1) + 1e-4)
            share[i] = 1 / lengths.sum()
    else:
        r = rewards_of_tokens(x, hp)
        ahead = np.zeros((B, L))
        for i in range(B):
            n = int(lengths[i])
            for t in reversed(range(n)):
                more = ahead[i, t + 1] if t + 1 < n else 0.0
                if slug == "reinforce_pp":
                    ahead[i, t] = r[i, t] + more
                else:
                    v = x.b.value[i, t + 1] if t + 1 < n else 0.0
                    ahead[i, t] = r[i, t] + v - x.b.value[i, t] + hp.lam * more
        A = whitened(ahead, mask)
        share[:] = 1 / mask.sum()
        if slug == "token_ppo":
            V = hp.vf_coef * share * (x.value - (ahead + x.b.value)) * mask
    for i in range(B):
        for t in range(int(lengths[i])):
            ratio = np.exp(x.log_prob[i, t] - x.b.old[i, t])
            G[i, t] = -share[i, t] * pessimistic(ratio, A[i, t], low, high)
            H[i, t] = share[i, t]
            if slug == "grpo":
                G[i, t] += share[i, t] * hp.beta * (1 - np.exp(x.b.ref[i, t] - x.log_prob[i, t]))
    return (G, H), V


def lengths_of(x):
    """Of completions, those too that are not learned from."""
    P = x.b.tokens.shape[1] - x.b.mask.shape[1]
    last = x.b.tokens[:, P:] % 3 == END
    return np.where(last.any(1), last.argmax(1) + 1, last.shape[1])


@each
def test_a_step_is_the_formula_s_gradient(slug, monkeypatch):
    hp = METHODS[slug][1]
    x = stepped(slug, monkeypatch)
    want = gradient(x, hp, *formula(slug, x, hp))
    np.testing.assert_allclose(x.moved, want, rtol=2e-3, atol=2e-5 * np.abs(want).max() + 1e-6)
    # what is learned from is worth the test: rewards differ, ratios leave the range both ways,
    # completions end early
    ratio = np.exp(x.log_prob - x.b.old)[x.b.mask > 0]
    assert (ratio > 1 + hp.eps).any() and (ratio < 1 - hp.eps).any()
    assert len(set(x.b.mask.sum(1)) - {0}) > 1
    assert len(set(x.b.reward)) > 1
    outside = (ratio > 1 + getattr(hp, "eps_high", hp.eps)) | (ratio < 1 - hp.eps)
    assert float(x.metrics["clip_fraction"]) == pytest.approx(outside.mean(), abs=1e-5)


@pytest.mark.equation("dapo")
def test_dapo_learns_from_groups_that_are_solved_in_part(monkeypatch):
    x = stepped("dapo", monkeypatch)
    solved = groups(x.b.reward) >= 1
    partly = solved.any(1) & ~solved.all(1)
    assert partly[: partly.sum()].all()  # first
    assert (groups(x.b.mask.sum(1))[~partly] == 0).all() and partly.sum() > 0
    assert (groups(x.b.mask.sum(1))[partly] > 0).all()
    # what is told is of all that was sampled, twice as much
    assert float(x.metrics["episodes"]) == 2 * len(x.b.reward)
    assert float(x.metrics["episode_return"]) != pytest.approx(x.b.reward.mean())


@pytest.mark.equation("dapo")
def test_the_punishment_of_length():
    got = dapo.overlong(jnp.array([1.0, 6, 7, 8, 10]), 10, 0.4)
    np.testing.assert_allclose(got, [0, 0, -0.25, -0.5, -1], atol=1e-6)
    assert (dapo.overlong(jnp.arange(11.0), 10, 0.0) == 0).all()


@pytest.mark.equation("grpo")
def test_estimators_of_the_kl():
    """Expectations over a small softmax: k1 and k3 are the KL, k2's gradient is its gradient."""
    from jaxrl.surrogate import k1, k2, k3

    logits = jnp.array([0.3, -1.0, 0.8, 0.1])
    ref = jax.nn.log_softmax(jnp.array([0.0, 0.5, -0.5, 1.0]))
    log_p = jax.nn.log_softmax
    kl = lambda z: (jnp.exp(log_p(z)) * (log_p(z) - ref)).sum()
    p, d = jnp.exp(log_p(logits)), ref - log_p(logits)
    assert float((p * k1(d)).sum()) == pytest.approx(float(kl(logits)), rel=1e-5)
    assert float((p * k3(d)).sum()) == pytest.approx(float(kl(logits)), rel=1e-5)
    assert (k3(d) >= 0).all()
    under = lambda k: jax.grad(lambda z: (p * k(ref - log_p(z))).sum())(logits)  # p is data
    np.testing.assert_allclose(under(k2), jax.grad(kl)(logits), atol=1e-6)
    assert np.abs(under(k1)).max() < 1e-6  # as a loss it says nothing


@pytest.mark.equation("dr_grpo")
def test_leave_one_out_is_dr_grpo_but_for_a_factor():
    from jaxrl.returns import group_advantage, leave_one_out

    R = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(leave_one_out(R) * 4 / 5, group_advantage(R, False), atol=1e-6)
