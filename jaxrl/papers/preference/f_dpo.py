"""f-DPO. Wang, Jiang, Yang, Liu, Chen 2023 (ICLR 2024), arXiv 2309.16240.

    max_π E_π[r] - β D_f(π || π_ref),    D_f(π || π_ref) = E_ref[f(u)],    u = π / π_ref

Where f' is invertible and f'(0) is not finite, the optimum has r = β f'(u) + const(x), so that

    L = -E[log σ(β f'(u_w) - β f'(u_l))]

    reverse KL       f'(u) = log u + 1             forward KL    f'(u) = -1 / u
    Jensen-Shannon   f'(u) = log(2 u / (1 + u))    α in (0, 1)   f'(u) = (1 - u^-α) / α

From DPO, which is the first, it differs in the divergence. α -> 0 is reverse KL, α = 1 forward KL.
The four were read in the authors' code and the optimum was verified by bisection; the paper's text
was not at hand. β does not mean the same for different divergences.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.preference import Preference, margin, preference
from jaxrl.hyper import arg, hyper

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")

PAPER = {
    "slug": "f_dpo",
    "id": 225,
    "title": "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse "
    "Divergence Constraints",
    "year": 2023,
    "arxiv": "2309.16240",
    "chapter": "preference",
    "hyper": "FDPO",
    "parent": "dpo",
    "changes": "another divergence to the reference, by its f'",
    "claim": "reverse KL has most reward and least entropy, forward KL least and most; JS between",
    "check": {
        "hyper": {"divergence": "js"},
        "tune": {"beta": [0.1, 0.3, 1.0]},
        "by": "last episode_return",
        "arms": {
            "reverse_kl": {"hyper": {"divergence": "reverse_kl"}},
            "forward_kl": {"hyper": {"divergence": "forward_kl"}},
        },
        "says": [
            "last episode_return < reverse_kl",
            "last episode_return > forward_kl",
            "last entropy > reverse_kl",
            "last entropy < forward_kl",
        ],
    },
    "battery": {"hyper": {"divergence": "alpha"}},
}


@hyper
class FDPO(Preference):
    divergence: str = arg("js", "D_f", DIVERGENCES)
    alpha: float = arg(0.5, "α of the divergence alpha", "(0, 1]")


def slope(log_u, hp):
    """f'(u), but for a constant."""
    match hp.divergence:
        case "reverse_kl":
            return log_u
        case "forward_kl":
            return -jnp.exp(-log_u)
        case "js":
            return -jax.nn.softplus(-log_u)
    return -jnp.exp(-hp.alpha * log_u) / hp.alpha


def inverse(y, hp):
    """log u where `slope` is y, which is below 0 but for reverse KL."""
    match hp.divergence:
        case "reverse_kl":
            return y
        case "forward_kl":
            return -jnp.log(-y)
        case "js":
            return -jnp.log(jnp.expm1(-y))
    return -jnp.log(-hp.alpha * y) / hp.alpha


def loss(w, b, hp):
    return -jax.nn.log_sigmoid(hp.beta * margin(slope(w.log_ratio, hp)))


def optimum(k, hp):
    """By bisection of what makes probabilities sum to 1."""
    r = (k.score - k.score.max(-1, keepdims=True)) / hp.beta

    def halve(ends, _):
        low, high = ends
        c = (low + high) / 2
        total = jnp.exp(k.ref + inverse(r - jnp.exp(c), hp)).sum(-1, keepdims=True)
        return (jnp.where(total > 1, c, low), jnp.where(total > 1, high, c)), None

    ends = jnp.full_like(r[:, :1], -20.0), jnp.full_like(r[:, :1], 5.0)
    c = jax.lax.scan(halve, ends, None, 60)[0][0]
    return jax.nn.log_softmax(k.ref + inverse(r - jnp.exp(c), hp))


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss, fixed=True, optimum=optimum)
