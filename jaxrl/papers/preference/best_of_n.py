"""Best of n, as a policy. Beirami et al. 2024, arXiv 2401.01879; Stiennon et al. 2020, 2009.01325,
choose so by a reward model.

    π_n(y) = F(y)^n - F⁻(y)^n,    F(y) = P_{y'~π_ref}(r(y') <= r(y)),  F⁻ the same with <   (thm 1)
    KL(π_n || π_ref) <= log n - (n - 1)/n                                                    (thm 3)

Here it is cloned, so that it needs one sample: L = -E[log π(best of y_1 ... y_n ~ π_ref)]. n is
`responses`. From SFT it differs in that rewards say which is the best, of more than two. The
numbers of the theorems are from memory.
"""

import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper

PAPER = {
    "slug": "best_of_n",
    "reference": True,
    "title": "Theoretical guarantees on the best-of-n alignment policy",
    "year": 2024,
    "arxiv": "2401.01879",
    "chapter": "preference",
    "hyper": "BestOfN",
    "parent": "sft",
    "changes": "rewards say which of n is cloned",
    "claim": "its KL is under log n - (n - 1)/n, and its reward above SFT's",
    "check": {
        "hyper": {"sets": 32_768},
        "arms": {"sft": {"paper": "sft"}},
        "by": "last episode_return",
        "says": ["last tv < 0.1", "last kl_ref < 1.2044", "last episode_return > sft"],
    },
    "inert": {"beta": "there is no reference in its loss"},
}


@hyper
class BestOfN(Preference):
    responses: int = arg(8, "n", "[2, inf)")


def loss(w, b, hp):
    best = b.score.argmax(-1)
    return -jnp.take_along_axis(w.policy, best[:, None], 1)[:, 0]


def optimum(k, hp):
    ref = jnp.exp(k.ref)
    upto = lambda relation: (ref[:, None] * relation(k.score[:, None], k.score[:, :, None])).sum(-1)
    n = hp.responses
    share = upto(jnp.less_equal) ** n - upto(jnp.less) ** n
    return jnp.log(jnp.maximum(share, 1e-30))


def make(world, network=Preference.network_for("preference")):
    draw = ("ref", "ref")
    return preference(world, network, loss, draw=draw, fixed=True, optimum=optimum)
