"""C-MORL. Liu, Pan, Xu, Song, Bian, You, Chen 2025 (ICLR), arXiv 2410.02236.

Stage 1: P policies by PPO at fixed preferences (`mo_ppo`), all that they reach archived.
Stage 2, in rounds: from each policy π_r in the sparsest places of the archive's front (crowding
distance; none twice while there are others) begin K policies, one for each objective l, to
  maximise G_l(π)  subject to  G_j(π) >= β G_j(π_r)  for all j ≠ l,
by an interior point, PPO on G_l + Σ_{j≠l} log(G_j - β G_j(π_r)) / t, whose gradient is that of the
advantages A_l + Σ_{j≠l} A_j / (t (G_j - β G_j(π_r))). A preference w plays the archive's best w·G.

From fixed preferences it differs in its second half: it goes along the front from where it is thin.

Checked: the authors' code. There the barrier weighs a constant by r, so that no A_j is in its
gradient, and A_l is in deviations; here it is that of the formula, within the clip. G is what a
policy was last seen to gain by its mode. Where G < 0 the bound is G - (1 - β)|G|, for βG were more
than G. A slack counts as 0.001 at least. Not checked: the text, its CPO variant and its tasks.
"""

import jax
import jax.numpy as jnp

from jaxrl import pareto
from jaxrl.core import Part
from jaxrl.families.multi_objective import MultiObjective, begun_from, front, make_with
from jaxrl.hyper import arg, hyper
from jaxrl.papers.multi_objective.mo_ppo import preferences

PAPER = {
    "slug": "c_morl",
    "id": 69,
    "title": "C-MORL: Multi-Objective Reinforcement Learning through Efficient Discovery of Pareto "
    "Front",
    "year": 2025,
    "arxiv": "2410.02236",
    "chapter": "multi_objective",
    "hyper": "CMORL",
    "parent": "mo_ppo",
    "changes": "a second stage that extends the front from its sparsest points, by constraints",
    "claim": "its second stage finds more of a front than the same steps at fixed preferences",
    "check": {
        "on": {"multi/lqr": 200_000, "multi/deep-sea-treasure-concave": 200_000},
        "network": {"hidden": [64]},
        "tune": {"lr": [2.5e-3, 5e-3], "ent_coef": [0.01, 0.3]},
        "by": "last hypervolume",
        "arms": {
            "mo_ppo": {"paper": "mo_ppo"},
            "finer": {"paper": "mo_ppo", "hyper": {"population": 12, "num_envs": 4}},
            "free": {"hyper": {"barrier": 1e9}},  # the same, unconstrained
        },
        "says": [
            "last hypervolume > mo_ppo on multi/lqr",
            "last expected_utility > mo_ppo on multi/lqr",
            "last hypervolume > mo_ppo on multi/deep-sea-treasure-concave",
            "last front_share > finer - 0.01",
            "last front_share > free - 0.01",
        ],
    },
}

FLOOR = 1e-3  # of a slack


@hyper
class CMORL(MultiObjective):
    initial: float = arg(0.5, "share of the run that is the first stage", "[0, 1]")
    extension: int = arg(10, "iterations of a round of the second", "[1, inf)")
    beta: float = arg(0.9, "β, what is to be kept of the other objectives", "[0, 1]")
    barrier: float = arg(20.0, "t, how steep the barrier is", "(0, inf)")


def sparsest(archive, n):
    """Which n of the archive's policies to begin from."""
    mask = front(archive)
    crowding = pareto.crowding_distance(archive.points, mask)
    return jnp.lexsort((-crowding, archive.used, ~mask))[:n]


def bound(G, hp):
    """β G, where G is not negative."""
    return G - (1 - hp.beta) * jnp.abs(G)


def interior(G, l, least, hp):
    """The gradient in G [K] of G_l + Σ_{j≠l} log(G_j - least_j) / t."""
    mine = jax.nn.one_hot(l, G.shape[-1])
    return mine + (1 - mine) / (hp.barrier * jnp.maximum(G - least, FLOOR))


def extend(least, s, b, t, hp, world):
    """Weights [P, K] and, in its slot, what each policy must gain at least [P, K]."""
    P, K = s.points.shape
    after = t - jnp.round(hp.initial * hp.horizon).astype(jnp.int32)

    def begin(s, least):
        pick = jnp.repeat(sparsest(s.archive, -(-P // K)), K)[:P]
        s = begun_from(s, pick, hp)
        return s, bound(s.points, hp)

    round_begins = (after >= 0) & (after % hp.extension == 0)
    s, least = jax.lax.cond(round_begins, begin, lambda s, least: (s, least), s, least)
    inside = interior(s.points, jnp.arange(P) % K, least, hp)
    return least, (s, jnp.where(after >= 0, inside, preferences(s.points)))


make = make_with(Part(lambda key, s, hp, world: jnp.zeros_like(s.points), extend))
