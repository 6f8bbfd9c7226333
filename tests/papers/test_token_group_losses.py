"""What NFT, DisCO, CE-GPPO, R2VPO, RPG and GVPO learn, against loops written from their formulas.

What the parameters moved by, in a step of each, is the gradient of the formula: its derivative by
each token's log-probability, by a loop, times that of the log-probability.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.completions import Group
from jaxrl.families.tokens import centred
from jaxrl.papers.reasoning import ce_gppo, disco, gvpo, nft, r2vpo, regularised_pg
from jaxrl.surrogate import k3
from tests.papers.tokens_by_hand import SMALL, gradient, groups, stepped

ONCE = dict(accumulate=1, minibatches=1)
METHODS = {
    "nft": (nft, nft.NFT(**SMALL, floor=0.8, negatives=0.7)),
    "disco": (disco, disco.DisCO(**SMALL | ONCE, tau=0.3, delta=0.01, beta=3.0)),
    "ce_gppo": (ce_gppo, ce_gppo.CEGPPO(**SMALL | ONCE, beta1=0.6, beta2=0.9)),
    "r2vpo": (r2vpo, r2vpo.R2VPO(**SMALL | ONCE, price=3.0, delta=1e-3)),
    "gvpo": (gvpo, gvpo.GVPO(**SMALL | ONCE, beta=0.4)),
    "regularised_pg": (
        regularised_pg,
        regularised_pg.RPG(**SMALL | ONCE, beta=0.3, eps=0.3, eps_high=0.4, most=1.6),
    ),
}
each = pytest.mark.parametrize(
    "slug", [pytest.param(slug, marks=pytest.mark.equation(slug)) for slug in METHODS]
)


def of_nft(x, hp, B, L):
    G = np.zeros((B, L))
    for i in range(B):
        solved = groups(x.b.reward)[i // 4] >= 1
        r = solved.mean()
        if r in (0, 1):
            continue
        omega = np.sqrt((1 - r) / r) if hp.weight == "grpo" else 1 - r
        for t in range(int(x.b.mask[i].sum())):
            R = np.exp(x.log_prob[i, t] - x.b.old[i, t])
            if x.b.reward[i] >= 1:
                G[i, t] = -omega
            else:
                held = max((1 - r * R) / (1 - r), hp.floor)
                G[i, t] = omega * hp.negatives * r * R / (1 - r) / held
    return G / (B * L)


def of_disco(x, hp, B, L):
    G, n = np.zeros((B, L)), x.b.mask.sum(1).astype(int)
    d = (x.log_prob - x.b.old) * x.b.mask
    kl = sum(np.exp(v) - 1 - v for v in d.ravel()) / n.sum()
    each = x.log_prob if hp.score == "likelihood" else np.exp(d)
    s = np.array([each[i, : n[i]].mean() for i in range(B)])
    for q in range(B // 4):
        rows = range(4 * q, 4 * q + 4)
        right = [i for i in rows if x.b.reward[i] >= 1]
        wrong = [i for i in rows if x.b.reward[i] < 1]
        for i in rows:
            if not right or not wrong:
                push = 0.0
            elif i in right:
                push = 1 / len(right)
            else:
                push = -np.exp(s[i] / hp.tau) / sum(np.exp(s[j] / hp.tau) for j in wrong)
            for t in range(n[i]):
                inner = 1.0 if hp.score == "likelihood" else np.exp(d[i, t])
                G[i, t] = -push * inner / n[i] / (B // 4)
                G[i, t] += hp.beta * max(kl - hp.delta, 0) * (np.exp(d[i, t]) - 1) / n.sum()
    assert kl > hp.delta
    return G


def each_token(x, slope):
    """The mean over tokens of what a function of ratio and GRPO's advantage says."""
    G = np.zeros(x.b.mask.shape)
    for i, mask in enumerate(x.b.mask):
        mine = groups(x.b.reward)[i // 4]
        A = (x.b.reward[i] - mine.mean()) / (mine.std(ddof=1) + 1e-4)
        for t in range(int(mask.sum())):
            G[i, t] = slope(np.exp(x.log_prob[i, t] - x.b.old[i, t]), A) / x.b.mask.sum()
    return G


def of_ce_gppo(x, hp, B, L):
    def slope(r, A):
        if A < 0 and r < 1 - hp.eps:
            return -hp.beta1 * (1 - hp.eps) * A
        return -A * (hp.beta2 * (1 + hp.eps) if A > 0 and r > 1 + hp.eps else r)

    return each_token(x, slope)


def of_r2vpo(x, hp, B, L):
    return each_token(x, lambda r, A: -r * A + hp.price * (r - 1) * r)


def of_regularised_pg(x, hp, B, L):
    def slope(w, A):
        A -= (
            hp.beta
            * dict(
                forward=-1 / w,
                reverse=np.log(w) + 1,
                unnormalised_forward=1 - 1 / w,
                unnormalised_reverse=np.log(w),
            )[hp.kl]
        )
        held = w >= 1 + hp.eps_high if A >= 0 else w <= 1 - hp.eps or w >= hp.most
        return 0.0 if held else -w * A

    return each_token(x, slope)


def of_gvpo(x, hp, B, L):
    G = np.zeros((B, L))
    implied = hp.beta * ((x.log_prob - x.b.old) * x.b.mask).sum(1)
    for i in range(B):
        rows = slice(i // 4 * 4, i // 4 * 4 + 4)
        weight = (x.b.reward[i] - x.b.reward[rows].mean()) - (implied[i] - implied[rows].mean())
        G[i] = -hp.beta * weight * x.b.mask[i] / 3 / (B // 4)
    return G


@each
def test_a_step_is_the_formula_s_gradient(slug, monkeypatch):
    hp = METHODS[slug][1]
    x = stepped(*METHODS[slug], monkeypatch)
    G = globals()[f"of_{slug}"](x, hp, *x.b.mask.shape)
    want = gradient(x, hp, (G, np.zeros_like(G)), np.zeros_like(G))
    np.testing.assert_allclose(x.moved, want, rtol=2e-3, atol=2e-5 * np.abs(want).max() + 1e-6)
    ratio = np.exp(x.log_prob - x.b.old)[x.b.mask > 0]
    assert (ratio > 1.2).any() and (ratio < 0.8).any()
    assert len(set(x.b.mask.sum(1)) - {0}) > 1 and len(set(x.b.reward)) > 1
    if slug == "r2vpo":  # λ goes with the variance of what was learned, not of what it began with
        seen = float(x.metrics["ratio_variance"])
        want = max(3.0 + hp.rate * (seen / hp.delta - 1), 0.0)
        assert float(x.metrics["price"]) == pytest.approx(want, rel=1e-4) and want > 3.0
        assert seen != pytest.approx(np.square(ratio - 1).mean(), rel=1e-3)


def a_group(R, hp, advantage):
    """Completions of one prompt and of one length with rewards R, with their advantages."""
    R, none = jnp.asarray(R, jnp.float32), jnp.zeros((len(R), 2))
    b = Group(jnp.zeros(len(R), int), none, none + 1, none, none, R)
    A = advantage(b, hp)
    b = A if isinstance(A, Group) else b.replace(advantage=A)
    return b.replace(advantage=jnp.broadcast_to(b.advantage[:, None], none.shape))


def slope(surrogate, log_ratio, b, hp):
    """The derivative of a surrogate's sum by the log-probabilities of tokens."""

    def loss(d):
        view = SimpleNamespace(log_ratio=d, log_prob=d, kl=lambda: k3(d))
        return surrogate(view, b, hp).sum()

    return np.asarray(jax.grad(loss)(jnp.asarray(log_ratio, jnp.float32)))


@pytest.mark.equation("nft")
@pytest.mark.parametrize("weight", ["grpo", "dr_grpo"])
def test_nft_on_policy_is_grpo(weight):
    """For every pass rate, A = (R - mean R) / std R, or without the division."""
    for k in range(1, 8):
        hp = nft.NFT(group=8, weight=weight)
        R = np.arange(8) < k
        b = a_group(R, hp, nft.share_right)
        got = -slope(nft.both_likelihoods, jnp.zeros((8, 2)), b, hp)[:, 0]
        want = (R - R.mean()) / (R.std() if weight == "grpo" else 1)
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.equation("disco")
def test_prompts_count_the_same_in_disco_however_hard():
    """What right completions are pushed by sums to one, where GRPO's goes with √(p(1-p))."""
    s = jnp.linspace(-1, 1, 8)
    for k in range(1, 8):
        right = jnp.arange(8) < k
        pushed = jax.grad(lambda s: disco.difference(s, right, 0.7).sum())(s)  # noqa: B023
        assert float(pushed[:k].sum()) == pytest.approx(1.0, rel=1e-5)
        assert float(pushed[k:].sum()) == pytest.approx(-1.0, rel=1e-5)
    for none in (s > 2, s < 2):
        assert float(disco.difference(s, none, 0.7).sum()) == 0.0
        pushed = jax.grad(lambda s: disco.difference(s, none, 0.7).sum())(s)  # noqa: B023
        assert (pushed == 0).all()


@pytest.mark.equation("disco")
def test_scores_may_be_ratios():
    hp = disco.DisCO(group=4, score="ratio", tau=0.5, delta=0.0, beta=2.0)
    d, R = np.random.default_rng(0).normal(size=(8, 2)) * 0.5, np.array([1, 0, 0, 1, 0, 1, 0, 0.5])
    b = a_group(R, hp, lambda b, hp: b.reward)
    x = SimpleNamespace(b=SimpleNamespace(reward=R, mask=np.ones((8, 2)), old=0.0), log_prob=d)
    np.testing.assert_allclose(
        slope(disco.discriminate, d, b, hp) / 8, of_disco(x, hp, 8, 2), rtol=1e-4, atol=1e-7
    )


@pytest.mark.equation("ce_gppo")
def test_ce_gppo_without_what_is_clipped_is_the_clip():
    from jaxrl.papers.on_policy.ppo import clip

    hp = ce_gppo.CEGPPO(group=8, beta1=0.0, beta2=0.0)
    b = a_group(np.arange(8) % 2, hp, centred)
    d = np.random.default_rng(0).normal(size=(8, 2)) * 0.5
    got, want = slope(ce_gppo.preserved, d, b, hp), slope(clip, d, b, hp)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert (want == 0).any() and (want != 0).any()


@pytest.mark.equation("r2vpo")
def test_the_multiplier_falls_to_nothing_where_the_variance_is_below_its_bound(monkeypatch):
    hp, net = r2vpo.R2VPO(group=2, rate=4.0, delta=0.5), None
    says = SimpleNamespace(log_ratio=jnp.log(jnp.array([[1.5, 1.0], [0.5, 1.0]])))
    monkeypatch.setattr(r2vpo, "judge", lambda *_: says)
    b, s = SimpleNamespace(mask=jnp.array([[1.0, 1.0], [1.0, 0.0]])), SimpleNamespace(params=None)
    apply = r2vpo.multiplier(net).apply
    for price, want in ((5.0, 5 + 4 * (0.5 / 3 / 0.5 - 1)), (2.0, 0.0)):
        table, seen = apply(dict(price=jnp.full(3, price)), s, b, 0, hp, None)
        assert float(seen["ratio_variance"]) == pytest.approx(0.5 / 3, rel=1e-5)
        np.testing.assert_allclose(table["price"], want, rtol=1e-5)


@pytest.mark.equation("regularised_pg")
@pytest.mark.parametrize("kl", regularised_pg.PULL)
def test_rpg_has_its_objective_s_gradient_off_the_policy(kl):
    """Of a softmax, by expectations: the surrogate's against that of E_π[R] - β D. And of each
    sample: against the losses of tables 1 and 4, which are differentiated through w everywhere."""
    rng = np.random.default_rng(1)
    logits, old, R = (jnp.asarray(x) for x in rng.normal(size=(3, 6)))
    mu, hp = (
        jax.nn.log_softmax(old),
        regularised_pg.RPG(kl=kl, beta=0.7, eps=jnp.inf, eps_high=jnp.inf, most=jnp.inf),
    )

    def objective(z):
        log_p = jax.nn.log_softmax(z)
        p, q = jnp.exp(log_p), jnp.exp(mu)
        D = (q * (mu - log_p)).sum() if "forward" in kl else (p * (log_p - mu)).sum()
        if kl.startswith("un"):  # their masses' difference: nothing, of what is normalised
            D += (p - q).sum() if "forward" in kl else (q - p).sum()
        return (p * R).sum() - hp.beta * D

    def surrogate(z):
        d = jax.nn.log_softmax(z) - mu
        each = regularised_pg.regularised(
            SimpleNamespace(log_ratio=d), SimpleNamespace(advantage=R), hp
        )
        return -(jnp.exp(mu) * each).sum()

    got, want = jax.grad(surrogate)(logits), jax.grad(objective)(logits)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

    def table(d):
        w = jnp.exp(d)
        D = dict(
            forward=-d,
            reverse=w * d,
            unnormalised_forward=w - d - 1,
            unnormalised_reverse=w * d - w,
        )[kl]
        return (-w * R + hp.beta * D).sum()

    b, d = SimpleNamespace(advantage=R), logits - old
    got = slope(regularised_pg.regularised, d, b, hp)
    np.testing.assert_allclose(got, jax.grad(table)(d), rtol=1e-4, atol=1e-6)


@pytest.mark.equation("gvpo")
def test_only_the_optimum_has_no_loss_in_gvpo_whatever_sampled():
    hp = gvpo.GVPO(group=5, beta=0.5)
    rng = np.random.default_rng(2)
    R, log_mu = rng.normal(size=7), np.log(rng.dirichlet(np.ones(7)))
    best = log_mu + R / hp.beta
    best -= np.log(np.exp(best).sum())
    for drawn in rng.integers(0, 7, size=(4, 5)):  # by whom does not matter
        b = a_group(R[drawn], hp, centred)
        d = np.stack([(best - log_mu)[drawn], np.zeros(5)], 1)
        view = lambda d: SimpleNamespace(log_ratio=jnp.asarray(d, jnp.float32))
        assert np.abs(gvpo.variance(view(d), b, hp)).max() < 1e-8
        assert np.abs(slope(gvpo.variance, d, b, hp)).max() < 1e-4
        assert gvpo.variance(view(0.5 * d), b, hp).max() > 1e-3
