"""Methods that differ in what completions are weighed against: loops from their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.completions import Group
from jaxrl.core import View
from jaxrl.papers.preference import remax, rloo
from jaxrl.papers.reasoning import bnpo, difficulty_filtering, gpg, nsr
from jaxrl.papers.studies import lite_ppo
from tests.papers.tokens_by_hand import SMALL, gradient, groups, pessimistic, stepped

METHODS = {
    "rloo": (rloo, rloo.RLOO(**SMALL, beta=0.3)),
    "remax": (remax, remax.ReMax(**SMALL, beta=0.3, baseline=0.7)),
    "gpg": (gpg, gpg.GPG(**SMALL)),
    "bnpo": (bnpo, bnpo.BNPO(**SMALL, eps_high=0.5)),
    "nsr": (nsr, nsr.NSR(**SMALL, positive=0.3, negative=0.7)),
    "lite_ppo": (lite_ppo, lite_ppo.LitePPO(**SMALL)),
    "difficulty_filtering": (
        difficulty_filtering,
        difficulty_filtering.DifficultyFiltering(**SMALL, beta=0.3),
    ),
}
each = pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=pytest.mark.equation(slug)) for slug in METHODS]
)


def density(p, a, b):
    """Of a Beta distribution."""
    norm = math.gamma(a) * math.gamma(b) / math.gamma(a + b)
    return p ** (a - 1) * (1 - p) ** (b - 1) / norm


def fitted(p):
    """BNPO's parameters from the share that is solved of each prompt."""
    m = sum(p) / len(p)
    v = sum((x - m) ** 2 for x in p) / (len(p) - 1)
    a, b = m * (m * (1 - m) / v - 1), (1 - m) * (m * (1 - m) / v - 1)
    return max(1.0, 1 + a / 3), max(1.0, 1 + b / 3)


def formula(slug, x, hp):
    """What each token's log-probability adds to the loss, by it [B, L]."""
    mask, R = x.b.mask, x.b.reward
    B, L = mask.shape
    lengths = mask.sum(1)
    of = groups(R)
    kl = (x.b.old - x.b.ref) * mask if slug in ("rloo", "remax") else None
    out = np.zeros((B, L))
    for i in range(B):
        mine, shaped = of[i // 4], R - hp.beta * kl.sum(1) if slug == "rloo" else None
        for t in range(int(lengths[i])):
            ratio = np.exp(x.log_prob[i, t] - x.b.old[i, t])
            if slug == "rloo":
                others = [shaped[j] for j in range(B) if j // 4 == i // 4 and j != i]
                out[i, t] = -(shaped[i] - sum(others) / 3) / B
            elif slug == "remax":
                A = R[i] - 0.7 * x.b.baseline[i] - hp.beta * kl[i, t]
                out[i, t] = -A / lengths.sum()
            elif slug == "gpg":
                M = sum(4 for g in of if len(set(g)) == 1)
                out[i, t] = -(R[i] - mine.mean()) * B / (B - M) / lengths.sum()
            elif slug == "bnpo":
                p = mine.mean()
                A = (R[i] - p) and (R[i] - p) / density(p, *fitted(of.mean(1)))
                out[i, t] = -pessimistic(ratio, A, 0.2, 0.5) / (B * L)
            elif slug == "nsr":
                A = 0.3 if R[i] == 1 else -0.7
                out[i, t] = -pessimistic(ratio, A, 0.2, 0.2) / lengths.sum()
            elif slug == "lite_ppo":
                std = np.sqrt(((R - R.mean()) ** 2).sum() / (B - 1))
                A = (R[i] - mine.mean()) / (std + 1e-4)
                out[i, t] = -pessimistic(ratio, A, 0.2, 0.2) / lengths.sum()
            else:  # GRPO, of the groups that were kept: the others have no tokens
                A = (R[i] - mine.mean()) / (mine.std(ddof=1) + 1e-4)
                pull = 0.3 * (1 - np.exp(x.b.ref[i, t] - x.log_prob[i, t]))
                kept = (lengths > 0).sum()
                out[i, t] = (pull - pessimistic(ratio, A, 0.2, 0.2)) / lengths[i] / kept
    return out


@each
def test_a_step_is_the_formula_s_gradient(slug, monkeypatch):
    hp = METHODS[slug][1]
    x = stepped(*METHODS[slug], monkeypatch)
    by_log_prob = formula(slug, x, hp)
    want = gradient(x, hp, (by_log_prob, 0 * by_log_prob), 0 * by_log_prob)
    np.testing.assert_allclose(x.moved, want, rtol=2e-3, atol=2e-5 * np.abs(want).max() + 1e-6)
    # what is learned from is worth the test
    assert len(set(x.b.mask.sum(1)) - {0}) > 1 and len(set(x.b.reward)) > 1
    if slug == "remax":
        assert len(set(x.b.baseline)) > 1
    if slug == "gpg":
        assert 0 < sum(len(set(g)) == 1 for g in groups(x.b.reward)) < 6
    if slug == "difficulty_filtering":
        right = (groups(x.b.reward) >= 1).mean(1)
        kept = groups(x.b.mask.sum(1)).all(1)
        np.testing.assert_array_equal(kept, (right >= 0.25) & (right <= 0.75))
        assert kept.sum() > 0


REWARD, PLACES = jnp.array([0.0, 1.0, 0.25]), np.indices((3, 3)).reshape(2, -1).T


@pytest.mark.parametrize(
    "slug", [pytest.param(s, marks=pytest.mark.equation(s)) for s in ("rloo", "remax")]
)
def test_the_gradient_is_unbiased(slug):
    """Over all pairs of completions of one token of three, weighed by how likely each pair is."""
    module, hp = METHODS[slug]
    hp = hp.replace(group=2, beta=0.3)
    z, ref = jnp.array([0.2, -0.3, 0.9]), jax.nn.log_softmax(jnp.array([0.5, 0.1, -0.4]))
    log_p, y = jax.nn.log_softmax, PLACES.reshape(-1)
    column = lambda x: x[y][:, None]
    b = Group(y, y, jnp.ones((18, 1)), column(log_p(z)), None, REWARD[y])
    b = b.replace(ref=column(ref), baseline=jnp.full(18, REWARD[z.argmax()]))
    A = (rloo.against_the_others if slug == "rloo" else remax.over_greedy)(b, hp).ravel()
    pairs = jnp.repeat(jnp.exp(log_p(z))[PLACES].prod(1), 2) / 2
    got = jax.grad(lambda z: (pairs * A * log_p(z)[y]).sum())(z)
    value = lambda z: (jnp.exp(log_p(z)) * (REWARD - 0.3 * (log_p(z) - ref))).sum()
    np.testing.assert_allclose(got, jax.grad(value)(z), atol=1e-6)


def rewarded(R):
    R = jnp.asarray(R, jnp.float32)
    return Group(None, None, None, None, None, R.reshape(-1))


SOLVED = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])


@pytest.mark.equation("gpg")
def test_gpg_is_the_mean_over_groups_that_differ():
    got = groups(gpg.corrected(rewarded(SOLVED), gpg.GPG(group=4)))
    counts = SOLVED[[0, 1, 4]]
    of = lambda x: x - x.mean(1, keepdims=True)
    per_row = lambda A, x: (A[..., None] * x).mean((0, 1))  # any gradients x of completions
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    np.testing.assert_allclose(per_row(got, x), per_row(of(counts), x[[0, 1, 4]]), rtol=1e-5)
    np.testing.assert_allclose(got[0], np.array([0.75, -0.25, -0.25, -0.25]) * 5 / 3, rtol=1e-6)
    assert (gpg.corrected(rewarded(np.ones((2, 4))), gpg.GPG(group=4)) == 0).all()


@pytest.mark.equation("bnpo")
def test_bnpo_has_reinforce_and_grpo_among_it(monkeypatch):
    p = SOLVED.mean(1, keepdims=True)
    hp, partly = bnpo.BNPO(group=4), [0, 1, 4]
    for each, scale in ((1.0, np.ones_like(p)), (1.5, 8 / np.pi * np.sqrt(p * (1 - p)))):
        monkeypatch.setattr(bnpo, "parameters", lambda p, each=each: (each, each))
        got = groups(np.asarray(bnpo.by_density(rewarded(SOLVED), hp)))
        np.testing.assert_allclose((got * scale)[partly], (SOLVED - p)[partly], rtol=1e-4)
        assert (got[[2, 3]] == 0).all()


@pytest.mark.equation("bnpo")
def test_bnpo_finds_the_beta_that_prompts_come_from():
    p = np.random.default_rng(0).beta(2.0, 5.0, size=100_000)
    np.testing.assert_allclose(bnpo.parameters(jnp.asarray(p)), [1 + 2 / 3, 1 + 5 / 3], rtol=0.02)
    for few in (np.zeros(4), np.ones(4), np.array([0.0, 1.0])):  # at the bounds, and finite
        np.testing.assert_allclose(bnpo.parameters(jnp.asarray(few)), [1, 1])


@pytest.mark.equation("nsr")
def test_what_a_wrong_token_loses_others_get_as_likely_as_they_were():
    z = jnp.array([0.4, -0.2, 0.9, 0.1])
    hp = nsr.NSR(negative=2.0)
    A = nsr.apart(rewarded([0.0, 0.5, 1.0]), hp)
    np.testing.assert_allclose(A, [-2, -2, 0.1], rtol=1e-6)

    def loss(z):
        log_prob = jax.nn.log_softmax(z)[0]
        w = View(log_prob - jax.lax.stop_gradient(log_prob), log_prob, *[None] * 5)
        return nsr.clip(w, Group(*[None] * 6, advantage=A[0]), hp)

    up, p = -jax.grad(loss)(z), jax.nn.softmax(z)
    np.testing.assert_allclose(up[1:], 2 * p[1:], rtol=1e-5)
    np.testing.assert_allclose(up[0], -2 * (1 - p[0]), rtol=1e-5)


@pytest.mark.equation("lite_ppo")
def test_groups_that_nearly_agree_count_no_more():
    """By its own standard deviation such a group counts as much as any; by the batch's, less."""
    R = np.array([[0.5, 0.5, 0.5, 0.51], [0, 0, 1, 1]])
    got = groups(lite_ppo.batch_scaled(rewarded(R), lite_ppo.LitePPO(group=4)))
    np.testing.assert_allclose(
        got, (R - R.mean(1, keepdims=True)) / (R.std(ddof=1) + 1e-4), atol=1e-5
    )
    assert np.abs(got[0]).max() < 0.05 < 1 < np.abs(got[1]).max()


@pytest.mark.equation("difficulty_filtering")
def test_groups_that_are_solved_about_half_of_the_time_are_kept():
    R = np.arange(8) < np.arange(9)[:, None]  # of eight, 0 to 8 are right
    hp = difficulty_filtering.DifficultyFiltering(group=8)
    kept = difficulty_filtering.balanced(rewarded(R), hp)
    assert np.flatnonzero(kept).tolist() == [2, 3, 4, 5, 6]
    kept = difficulty_filtering.balanced(rewarded(R), hp.replace(low=0.5, high=0.5))
    assert np.flatnonzero(kept).tolist() == [4]
