"""RL with KL penalties as Bayesian inference. Korbak, Perez, Buckley 2022 (EMNLP Findings),
arXiv 2205.11275.

    J(π) = E_π[r] - β KL(π || π_ref) = β log Z - β KL(π || π*)      π* = π_ref exp(r / β) / Z

(eq. 7), so that fine-tuning with a KL is variational inference of the posterior π*. Objectives:
  reverse_kl   KL(π || π*), its gradient by samples: R = r - β log(π/π_ref), less the others' mean
  forward_kl   KL(π* || π), which no reward is for; by importance weights π*/π (GDC, Khalifa et al.)
  reward       E_π[r] alone, whose optimum is the best response: the distribution collapses
The paper has no algorithm of its own; the identity was read in the first author's blog with the
appendix, the number of the equation in another's notes, and checked by computation.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.preference import Preference, preference
from jaxrl.hyper import arg, hyper
from jaxrl.returns import leave_one_out

PAPER = {
    "slug": "kl_bayes",
    "id": 205,
    "title": "RL with KL penalties is better viewed as Bayesian inference",
    "year": 2022,
    "arxiv": "2205.11275",
    "chapter": "preference",
    "hyper": "KLBayes",
    "parent": "reinforce",
    "changes": "the objective is a divergence to a posterior",
    "claim": "both divergences come to the posterior; the reward alone collapses to one response",
    "check": {
        "arms": {
            "forward": {"hyper": {"objective": "forward_kl"}},
            "reward": {"hyper": {"objective": "reward"}},
        },
        "says": [
            "last tv < 0.1",
            "last tv of forward < 0.1",
            "last entropy of reward < 0.1",
            "last tv of reward > 0.5",
        ],
    },
}


@hyper
class KLBayes(Preference):
    objective: str = arg(
        "reverse_kl", "what is brought down", ("reverse_kl", "forward_kl", "reward")
    )
    sets: int = 256
    updates: int = arg(1, "gradient steps an iteration: samples are the policy's", "[1, inf)")


def loss(w, b, hp):
    stop = jax.lax.stop_gradient
    if hp.objective == "reward":
        return -(stop(leave_one_out(b.score)) * w.policy).mean(-1)
    R = stop(b.score - hp.beta * w.log_ratio)
    if hp.objective == "reverse_kl":
        return -(leave_one_out(R) * w.policy).mean(-1) / hp.beta
    odds = jnp.exp((R - R.max()) / hp.beta)  # π*/π, but for a constant
    mean = (b.weight * odds.mean(-1)).sum() / b.weight.sum()
    return -(odds / mean * w.policy).mean(-1)


def make(world, network=Preference.network_for("preference")):
    return preference(world, network, loss)
