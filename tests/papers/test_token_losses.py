"""What the references of the token family learn, against loops written from their formulas.

What the parameters moved by, in a step of each, is the gradient of the formula: its derivative by
each token's log-probability, by a loop, times that of the log-probability.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.tokens.base import END
from jaxrl.papers.reasoning import dapo, dr_grpo, grpo, reinforce_pp, token_ppo
from jaxrl.surrogate import constant_length, sequence_mean, token_mean
from tests.papers.tokens_by_hand import (
    SMALL,
    gradient,
    groups,
    pessimistic,
    rewards_of_tokens,
    stepped,
    whitened,
)

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


def formula(slug, x, hp):
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
    x = stepped(*METHODS[slug], monkeypatch)
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
    x = stepped(*METHODS["dapo"], monkeypatch)
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


@pytest.mark.equation("grpo")
@pytest.mark.equation("dr_grpo")
@pytest.mark.equation("dapo")
def test_aggregations_are_trl_s_published_ones():
    """TRL's documentation of GRPOTrainer gives, of per-token losses l_it of G completions:

    loss_type="grpo"     1/G Σᵢ 1/|oᵢ| Σₜ l_it
    loss_type="bnpo"     1/Σᵢ|oᵢ| Σᵢ Σₜ l_it, and "dapo", where one process has the whole batch
    loss_type="dr_grpo"  1/(L G) Σᵢ Σₜ l_it, L the most tokens there may be
    """
    rng = np.random.default_rng(0)
    G, L = 5, 7
    lengths, loss = [7, 1, 4, 2, 6], rng.normal(size=(G, L))
    mask = (np.arange(L) < np.array(lengths)[:, None]).astype(np.float32)
    total = lambda weigh: float((np.asarray(weigh(jnp.asarray(mask))) * loss).sum())
    rows = [list(row[:n]) for row, n in zip(loss, lengths)]
    assert total(sequence_mean) == pytest.approx(sum(sum(r) / len(r) for r in rows) / G, rel=1e-5)
    every = [x for r in rows for x in r]
    assert total(token_mean) == pytest.approx(sum(every) / len(every), rel=1e-5)
    assert total(constant_length) == pytest.approx(sum(every) / (L * G), rel=1e-5)
