"""ReLOAD. Moskovitz, O'Donoghue, Veeriah, Flennerhag, Singh, Zahavy 2023 (ICML), arXiv 2302.01275.

A constrained problem is a game between the policy and the price μ of the constraint,
  max_π min_{μ >= 0}  L(π, μ) = J_r(π) - μ (J_c(π) - d),
in which ascent and descent circle around the solution: only the average of all their policies
comes near it. Optimistic steps, each along the slope that is to be expected next,
  π' ∝ π exp(η (2 Q_μ - Q_last)),    μ' = [μ + η_μ (2 e - e_last)]₊,    e = J_c - d,
Q_μ the values of r - μ c, bring the last policy there. (Mirror descent in the KL for π, in the
square for μ.)

From the Lagrangian method (optimism=0) it differs in the two terms of the step before.

Here all is exact, on tables: J are discounted sums. `gap` is how much the two players could still
gain, max_π' L(π', μ) - min_{μ' <= price_max} L(π, μ'), 0 at the solution alone. Checked: abstract,
introduction; the rest from memory. Not checked: the deep versions (IMPALA, MPO), the benchmark.
"""

import jax.numpy as jnp

from jaxrl import duals
from jaxrl.errors import InputError
from jaxrl.families.exact import Exact, action_value, best, exact, logits, softmax, value
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "reload",
    "id": 286,
    "title": "ReLOAD: Reinforcement Learning with Optimistic Ascent-Descent for Last-Iterate "
    "Convergence in Constrained MDPs",
    "year": 2023,
    "arxiv": "2302.01275",
    "chapter": "safe",
    "hyper": "ReLOAD",
    "parent": "ppo_lagrangian",
    "changes": "steps along the slope that is expected next, for policy and price",
    "claim": "its last policy solves the problem, where ascent and descent circle around it",
    "check": {
        "on": {"tabular/tolls": 5000},
        "tune": {"lr": [0.03, 0.1, 0.3], "dual_lr": [0.1, 0.3]},
        "by": "-last gap",
        "arms": {"plain": {"hyper": {"optimism": 0.0}}},
        "says": ["last gap < 0.01", "last gap of plain > 1.0", "last violation < plain"],
    },
    "inert": {"price_max": "it is of the measure alone"},
    "battery": {"run": {"env": "tabular/tolls"}},
}


@hyper
class ReLOAD(Exact):
    lr: float = arg(0.1, "η of the policy", "[0, inf)")
    dual_lr: float = arg(0.1, "η_μ of the price", "[0, inf)")
    budget: float = arg(2.0, "d, of the discounted cost", "[0, inf)")
    optimism: float = arg(1.0, "share of the step before that is expected again", "[0, 1]")
    price_max: float = arg(10.0, "the largest price of which `gap` knows", "(0, inf)")


def start(key, mdp, hp):
    if len(mdp.c) != 1:
        raise InputError(f"env: {mdp.name} has {len(mdp.c)} costs; reload needs one")
    zero = jnp.zeros(())
    return dict(logits=logits(key, mdp, hp), price=zero, Q=jnp.zeros_like(mdp.r), excess=zero)


def judge(mdp, pi, r, gamma):
    """Q and J of a reward r [S, A]."""
    mdp = mdp.replace(r=r)
    V = value(mdp, pi, gamma)
    return action_value(mdp, V, gamma), mdp.rho @ V


def ascent_descent(x, mdp, t, hp):
    pi, price, c = softmax(x["logits"], mdp), x["price"], mdp.c[0]
    (Q_r, J_r), (Q_c, J_c) = (judge(mdp, pi, r, hp.gamma) for r in (mdp.r, c))
    Q, e = Q_r - price * Q_c, J_c - hp.budget
    o = jnp.where(t > 0, hp.optimism, 0.0)  # there was nothing before the first step
    new = dict(
        logits=x["logits"] + hp.lr * duals.expected(Q, x["Q"], o),
        price=duals.optimistic(price, e, x["excess"], hp.dual_lr, o),
    )
    answer = mdp.rho @ best(mdp.replace(r=mdp.r - price * c), hp.gamma) + price * hp.budget
    violation = jnp.maximum(e, 0.0)
    gap = answer - (J_r - hp.price_max * violation)
    return new | dict(Q=Q, excess=e), dict(gap=gap, violation=violation, price=price)


def make(world, network=Network()):
    return exact(ascent_descent, lambda x, mdp: softmax(x["logits"], mdp), start=start)
