"""Best-of-both-worlds policy optimisation. Dann, Wei, Zimmert 2023 (ICML), arXiv 2302.09408.

Before each episode every state solves FTRL by itself, with a rate of its own:
  π_t(.|s) = argmin_p Σ_{τ<t} ⟨p, Q̂_τ(s,.) - B_τ(s,.)⟩ - (2/η_t(s)) Σ_a √p_a + β Σ_a ln(1/p_a)
  Q̂_t(s,a) = 1{(s,a) visited} L_t(s) / (μ_t(s) π_t(a|s)),   L_t the loss from s to the end,
  1/η_t(s) = (H / lr) √(1 + Σ_{τ<t} 1/μ_τ(s)),   μ_t the occupancy under π_t;
exploration bonuses b_t(s) = c (1/η_{t+1}(s) - 1/η_t(s)) Σ_a √π_t (1 - π_t) go backwards, dilated:
  B_t(s,a) = b_t(s) + (1 + 1/H) E_{s'~P(s,a), a'~π_t}[B_t(s',a')].
Or with Shannon's entropy, p ∝ exp(-η Σ (Q̂ - B)), where b_t has the entropy of π_t in it.
From exponential weights at a fixed rate (`rate="fixed"`, η = lr / (H √T)) it differs in the
regulariser and in rates and bonuses that adapt to each state: a bonus fades with the doubt in it.

Transitions are known. Left out: unknown ones (confidence sets, virtual episodes), and the log
barrier's first-order bound. The paper's constants, far too timid for a run, are `lr` and `bonus`;
rates far above those of any bound (lr > 30) lose least here, and then a fixed one is no worse.
Not checked: the text, but for its abstract; the forms of η_t and b_t are from memory.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jaxrl import episodic
from jaxrl.families.online import Online, episodes, online
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "best_of_both_worlds_po",
    "id": 58,
    "title": "Best of Both Worlds Policy Optimization",
    "year": 2023,
    "arxiv": "2302.09408",
    "chapter": "theory",
    "hyper": "BestOfBothWorlds",
    "parent": "reinforce",
    "changes": "FTRL in each state, whose rates and bonuses adapt to it",
    "claim": "less regret than exponential weights at a fixed rate where losses are stochastic, "
    "and below H √T where they switch",
    "check": {
        "on": {"tabular/steady": 20_000, "tabular/switching": 20_000},
        "tune": {"lr": [0.5, 2.0, 8.0]},
        "by": "-max regret",
        "arms": {
            "shannon": {"hyper": {"regulariser": "shannon"}},
            "fixed": {"hyper": {"regulariser": "shannon", "rate": "fixed"}},
        },
        "says": [
            "last regret < fixed on tabular/steady",
            "last regret of shannon < fixed on tabular/steady",
            "max regret < 424 on tabular/switching",
        ],
    },
}


@hyper
class BestOfBothWorlds(Online):
    lr: float = arg(1.0, "rate; 1/η grows by H / lr", "(0, inf)")
    bonus: float = arg(0.1, "c, of the exploration bonus", "[0, inf)")
    barrier: float = arg(0.1, "β, of the log barrier beside Tsallis's entropy", "[0, inf)")
    regulariser: str = arg("tsallis", "the entropy", ("tsallis", "shannon"))
    rate: str = arg("adaptive", "of the states, or that of T", ("adaptive", "fixed"))


def ftrl(L, c, barrier):
    """argmin_p ⟨p, L⟩ - 2c Σ √p + β Σ ln(1/p), over the last axis: with y = 1/√p it is
    β y² + c y = L + λ, and λ comes from below, where Σ p >= 1, by Newton's steps."""
    L, c = L - L.min(-1, keepdims=True), c[..., None]

    def newton(_, lam):
        root = jnp.sqrt(c**2 + 4 * barrier * (L + lam))
        y = 2 * (L + lam) / (c + root)
        over = (y**-2).sum(-1, keepdims=True) - 1
        return lam + over / (2 * y**-3 / root).sum(-1, keepdims=True)

    lam = jax.lax.fori_loop(0, 12, newton, c + barrier)
    y = 2 * (L + lam) / (c + jnp.sqrt(c**2 + 4 * barrier * (L + lam)))
    return y**-2 / (y**-2).sum(-1, keepdims=True)


def inverse_rate(N, hp):
    """1/η [H, S], of N = Σ 1/μ [H, S]."""
    return len(N) / hp.lr * jnp.sqrt(hp.horizon + 0 * N if hp.rate == "fixed" else 1 + N)


def policy(params, mdp, hp):
    c = inverse_rate(params["N"], hp)
    if hp.regulariser == "shannon":
        return jax.nn.softmax(-params["L"] / c[..., None])
    return ftrl(params["L"], c, hp.barrier)


def estimate(seen, pi):
    """Q̂ [H, S, A], of an episode's losses to its end."""
    h, to_go = jnp.arange(len(pi)), jnp.cumsum(seen.loss[::-1])[::-1]
    p = seen.occupancy[h, seen.s] * pi[h, seen.s, seen.a]
    return jnp.zeros_like(pi).at[h, seen.s, seen.a].set(to_go / p)


def dilated(b, pi, P):
    """B [H, S, A] of the bonuses b [H, S]."""
    return episodic.values(P, b[..., None], pi, 1 + 1 / len(b))[0]


def learn(params, seen, pi, mdp, t, hp):
    often = jnp.where(seen.occupancy > 0, 1 / jnp.maximum(seen.occupancy, 1e-6), 0.0)
    if hp.rate == "fixed":  # as fast as the rate that adapts would change there
        more = len(pi) / hp.lr * often / (2 * jnp.sqrt(hp.horizon))
    else:
        more = inverse_rate(params["N"] + often, hp) - inverse_rate(params["N"], hp)
    doubt = -xlogy(pi, pi) if hp.regulariser == "shannon" else jnp.sqrt(pi) * (1 - pi)
    L = params["L"] + estimate(seen, pi) - dilated(hp.bonus * more * doubt.sum(-1), pi, mdp.P)
    return dict(L=L - L.min(-1, keepdims=True), N=params["N"] + often)


def make(world, network=Network()):
    of = lambda mdp: (episodic.length(world), *mdp.r.shape)
    start = lambda key, mdp, hp: dict(L=jnp.zeros(of(mdp)), N=jnp.zeros(of(mdp)[:2]))
    return online(episodes(world), start, policy, learn)
