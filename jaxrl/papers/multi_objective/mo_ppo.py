"""PPO at fixed preferences, the outer loop of Roijers, Vamplew, Whiteson, Dazeley 2013,
arXiv 1402.0590.

For each of P preferences w, spread evenly over the simplex, a policy of its own maximises w·G(π),
linear scalarisation, here by PPO on the advantages w·A. What all of them ever reached is archived.

From PPO it differs in being several. It finds nothing that is in no direction the best: where a
front is not convex, only what lies on the hull, and what policies pass on their way there.

It is also C-MORL's first stage. Not checked: the survey's text.
"""

import jax.numpy as jnp

from jaxrl import pareto
from jaxrl.core import Part
from jaxrl.families.multi_objective import MultiObjective, make_with
from jaxrl.hyper import hyper

PAPER = {
    "slug": "mo_ppo",
    "reference": True,
    "title": "A Survey of Multi-Objective Sequential Decision-Making (PPO at fixed preferences)",
    "year": 2013,
    "arxiv": "1402.0590",
    "chapter": "multi_objective",
    "hyper": "MOPPO",
    "parent": "ppo",
    "changes": "a policy for each of several fixed weights of the objectives",
    "claim": "it finds the corners of a front and, where that is convex, most of it",
}


@hyper
class MOPPO(MultiObjective):
    pass


def preferences(points):
    """w [P, K]."""
    P, K = points.shape
    return jnp.asarray(pareto.spread(K, P), points.dtype)


fixed = Part(lambda *_: (), lambda slot, s, *_: (slot, (s, preferences(s.points))))
make = make_with(fixed)
