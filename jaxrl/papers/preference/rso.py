"""RSO. Liu, Zhao, Joshi, Khalman, Saleh, Liu, Liu 2023 (ICLR 2024), arXiv 2309.06657.

The likelihood of preferences wants pairs from the policy that is estimated, π_r ∝ π_ref exp(r / β)
(eq. 4). They are had by rejection of what the reference writes (algorithm 1): candidates are gone
through in sweeps, and of those that are left one is accepted as often as

    exp((r(x, y) - max r(x, y')) / β)            the maximum over those that are left (eq. 14)

until there are K, at β = ∞ the first ones, near 0 the best. Two that follow each other are a pair,
and somebody says which is better. The loss has a γ of its own, apart from the sampler's β:

    sigmoid    -log σ(γ log π(y_w)/π_ref(y_w) - γ log π(y_l)/π_ref(y_l))              (eq. 8)
    hinge      max(0, 1 - [γ log π(y_w)/π_ref(y_w) - γ log π(y_l)/π_ref(y_l)])        (eq. 10)

From DPO it differs in who wrote the pairs. All was read in the paper, where K is 8 of 64, β is 0.5
and γ 0.05. There candidates that are the same are one, which is of no matter where there are many
responses; where there are few it bends what is accepted, so that here they are kept. Of K > 2 the
better of a pair is the one that wins more often among all K.
"""

import jax
import jax.numpy as jnp

from jaxrl import preferences
from jaxrl.families.preference import Preference, at_rows, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "rso",
    "id": 119,
    "title": "Statistical Rejection Sampling Improves Preference Optimization",
    "year": 2023,
    "arxiv": "2309.06657",
    "chapter": "preference",
    "hyper": "RSO",
    "parent": "dpo",
    "changes": "pairs are from an estimate of the optimal policy, by rejection",
    "claim": "with rewards fitted to the pairs that DPO has, it comes to a higher objective by "
    "pairs that passed rejection than by the reference's own, and than DPO",
    "check": {
        "tune": {"lr": [3e-4, 1e-3, 3e-3, 0.01, 0.03]},
        "arms": {
            "sft": {"hyper": {"candidates": 2, "reward_pairs": 1024}},
            "dpo": {"paper": "dpo"},
        },
        "says": ["last objective > sft", "last objective > dpo"],
    },
}


@hyper
class RSO(Preference):
    reward_pairs: int = 1024
    candidates: int = 64
    gamma: float = arg(0.5, "γ, of the loss; β is the sampler's", "(0, inf)")
    hinge: bool = arg(False, "eq. 10 in place of eq. 8")

    @classmethod
    def smallest(cls):
        small = super().smallest()
        return small | dict(hyper=small["hyper"] | dict(candidates=8, reward_pairs=16))

    def problem(self) -> str:
        if self.sets == 0 or self.responses % 2:
            return "sets, responses: rejection needs sets, and responses that go in pairs"
        return super().problem()


def rejection(score, key, hp):
    """Algorithm 1: which K of the candidates [B, N] are accepted [B, K]. In each sweep the best
    that is left is, so that there are K after as many."""

    def sweep(when, x):
        i, u = x
        left = when == hp.responses
        most = jnp.where(left, score, -jnp.inf).max(1, keepdims=True)
        accepted = left & (u < jnp.exp((score - most) / hp.beta))  # eq. 14
        return jnp.where(accepted, i, when), None

    K = hp.responses
    u = jax.random.uniform(key, (K, *score.shape))
    when, _ = jax.lax.scan(sweep, jnp.full(score.shape, K), (jnp.arange(K), u))
    return jnp.argsort(when, 1, stable=True)[:, :K]


def loss(w, b, hp):
    two = jnp.argsort(b.drawn, 1).reshape(len(b.drawn), -1, 2)  # first is best: lower is better
    ends = [at_rows(w.log_ratio, x) for x in (two.min(-1), two.max(-1))]
    h = hp.gamma * (ends[0] - ends[1])
    return (jax.nn.relu(1 - h) if hp.hinge else -jax.nn.log_sigmoid(h)).mean(-1)


def optimum(k, hp):
    """The sigmoid's, whoever wrote the pairs, if these reach all responses."""
    return preferences.gibbs(k.ref, k.score, hp.gamma)


def make(world, network=Preference.network_for("preference")):
    who = "ref", "ref"
    return preference(world, network, loss, draw=who, fixed=True, choose=rejection, optimum=optimum)
