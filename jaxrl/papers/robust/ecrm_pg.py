"""ECRM-PG. Yu, Ying 2023 (ICML), arXiv 2301.10932.

Minimise the expected conditional risk of the costs c₁, c₂, ..., each judged from one step before:
  J = E[c₁ + Σ_{t≥2} γᵗ⁻¹ ρ(c_t | h_{t-1})],    ρ = (1 - λ) E + λ CVaR_α,
  CVaR_α(X) = min_η η + E[(X - η)₊] / α,    the mean of the worst α.
With η in the state, and the next η in the action, it is an ordinary problem, of the cost
  c̄_t = (λ/α) (c_t - η_t)₊ + (1 - λ) c_t + γ λ η_{t+1}    (c₁ + γ λ η₂ at first),
and policy gradients solve it, here exact ones of a softmax over (action, next η): θ <- θ - lr ∇J,
or the natural step θ <- θ - lr A / (1 - γ), A the advantage in c̄, of the paper's later version.

From policy gradients it differs in what an action and a state are, and in nothing else.

α is the tail's share; an η is one of the costs that occur, where the minimum lies. Checked: c̄ by
enumerating ρ. Not checked: the text (its cliff, the direct parameterisation, sampled variants).
"""

import jax.numpy as jnp

from jaxrl.families.exact import Exact, ascent, draw, exact, natural, occupancy, softmax
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "ecrm_pg",
    "id": 306,
    "title": "On the Global Convergence of Risk-Averse Policy Gradient Methods with Expected "
    "Conditional Risk Measures",
    "year": 2023,
    "arxiv": "2301.10932",
    "chapter": "robust",
    "hyper": "ECRM",
    "parent": "reinforce",
    "changes": "the conditional tail of each cost, by a level in the state and in the action",
    "claim": "its natural step reaches the optimum of the risk, which falls less than without risk",
    "check": {
        "on": {"tabular/cliff": 4000},
        "tune": {"lr": [0.03, 0.1, 0.3]},
        "by": "-last gap",
        "arms": {
            "neutral": {"hyper": {"risk": 0.0}},
            "plain": {"hyper": {"natural": False}, "tune": {"lr": [1.0, 3.0, 10.0]}},
        },
        "says": ["last gap < 0.001", "last worst < neutral", "last gap < plain"],
    },
    "battery": {"run": {"env": "tabular/cliff"}},
}


@hyper
class ECRM(Exact):
    lr: float = 0.1
    risk: float = arg(0.9, "λ, weight of the tail against the mean", "[0, 1]")
    alpha: float = arg(0.1, "α, the share of outcomes that are the tail", "(0, 1]")
    natural: bool = arg(True, "natural steps, or the plain gradient's")
    levels: int = arg(3, "values that η may take: the costs that occur", "[1, inf)")


def augmented(mdp, hp):
    """The tables of c̄: its states are s (K + 1) + k, k = 0 before any η; its actions a K + j."""
    c, K = -mdp.r, hp.levels
    eta = jnp.unique(c, size=K, fill_value=c.max())
    tail = hp.risk / hp.alpha * jnp.maximum(c[:, None] - eta[:, None], 0)  # [S, K, A]
    now = jnp.concatenate([c[:, None], tail + (1 - hp.risk) * c[:, None]], 1)
    cost = now[..., None] + hp.gamma * hp.risk * eta  # [S, K + 1, A, K]
    r = jnp.where(mdp.end[:, None, None, None], 0.0, -cost)
    flat = lambda x: x.reshape(r.shape[0] * (K + 1), r.shape[2] * K, -1)
    P = jnp.einsum("sap,jk->sajpk", mdp.P, jnp.eye(K + 1)[1:])[:, None]
    P = flat(jnp.broadcast_to(P, (*r.shape, *P.shape[-2:])))
    rho, end = jnp.outer(mdp.rho, jnp.eye(K + 1)[0]).ravel(), jnp.repeat(mdp.end, K + 1)
    return mdp.replace(P=P, r=flat(r)[..., 0], rho=rho, end=end)


def risk_gradient(params, mdp, t, hp):
    """A step along ∇J; `worst`: the discounted visits to the states where it costs most."""
    d = occupancy(mdp, softmax(params, mdp), hp.gamma).reshape(-1, hp.levels + 1).sum(1)
    cheapest = mdp.r.reshape(len(d), hp.levels + 1, -1)[:, 0].max(1)  # at k = 0, η = 0 next
    worst = jnp.where(cheapest <= cheapest.min(), d, 0.0).sum() / (1 - hp.gamma)
    step = natural if hp.natural else ascent(softmax)
    return step(params, mdp, t, hp)[0], dict(worst=worst)


def play(pi, obs, k, key):
    """Acting with η in memory, as its index."""
    K = len(pi) // obs.shape[-1] - 1
    action = draw(pi[obs.argmax(-1) * (K + 1) + k], key)
    return action // K, action % K + 1


def make(world, network=Network()):
    start = lambda n: jnp.zeros(n, int)
    return exact(risk_gradient, problem=augmented, play=play, memory=start)
