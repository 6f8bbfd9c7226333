"""MCE-ICRL: Maximum Causal Entropy Inverse Constrained RL. Baert, Mazzaglia, Leroux, Simoens 2023,
arXiv 2305.02857, its tabular form.

The reward r is known, and what an expert avoids is not. Of all policies that visit states as the
expert does, the one of the largest causal entropy is soft-optimal for r - w, a price w(s) >= 0:
  Q = r - w + γ E[V(s')],    V = τ log Σ_a exp(Q / τ),    π(a|s) = exp((Q - V) / τ);
w is found by ascent of the dual, whose slope is the difference of discounted visits μ,
  w <- [w + η (μ_π - μ_E)]₊,     μ(s) = (1 - γ) E[Σ_t γᵗ 1(s_t = s)], s no end.
Entropy ends with the episode. The expert is soft-optimal for r - `price` c, the hidden costs c of
which nothing else reads; μ_E is counted in `demos` episodes, or exact.

Without causality (causal=False) the trajectory chooses chance, too, as in maximum-entropy ICRL
(arXiv 2011.09999): γ E[V] is τ log E[exp(γ V / τ)], and visits are counted under the dynamics that
this presumes, p(s') exp(γ V(s') / τ) / Z. The policy plays by the true ones.

`excess` is the true discounted cost above the expert's, `gap` what is lacking of its return. Not
checked: the text, but for its abstract; its features; the deep form, transfer to other agents.
"""

import jax
import jax.numpy as jnp

from jaxrl.errors import InputError
from jaxrl.families.exact import Exact, counted, exact, expected_return, occupancy
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "mce_icrl",
    "id": 290,
    "title": "Maximum Causal Entropy Inverse Constrained Reinforcement Learning",
    "year": 2023,
    "arxiv": "2305.02857",
    "chapter": "imitation",
    "hyper": "MCEICRL",
    "changes": "the expert's constraint as a price of each state, by matching its visits",
    "claim": "it learns to avoid what the expert avoids, as the non-causal form does not",
    "check": {
        "on": {"tabular/forbidden": 1000},
        "tune": {"lr": [1.0, 3.0, 10.0]},
        "by": "-last mismatch",
        "arms": {
            "noncausal": {"hyper": {"causal": False}},
            "nominal": {"tune": {"lr": [0.0, 0.0, 0.0]}},
        },
        "says": [
            "last excess < 0.1",
            "last excess < noncausal - 0.1",
            "last excess < nominal - 1.0",
            "last gap < 0.5",
        ],
    },
    "battery": {"run": {"env": "tabular/forbidden"}},
}


@hyper
class MCEICRL(Exact):
    lr: float = arg(3.0, "η, step size of the prices", "[0, inf)")
    tau: float = arg(0.3, "τ, temperature of expert and agent", "(0, inf)")
    price: float = arg(10.0, "what the hidden cost is worth to the expert", "[0, inf)")
    demos: int = arg(50, "episodes of the expert, 100 steps each; 0: its exact visits", "[0, inf)")
    causal: bool = arg(True, "chance is not the agent's choice")
    sweeps: int = arg(100, "soft value iterations a step, from the last step's values", "[1, inf)")


def soft(mdp, r, V, hp):
    """Soft-optimal for r [S, A], from V on: V, pi [S, A] and the dynamics that it presumes."""

    def backup(V):
        x = hp.gamma * V / hp.tau
        ahead = hp.gamma * mdp.P @ V
        if not hp.causal:
            ahead = hp.tau * jax.nn.logsumexp(x, b=mdp.P, axis=-1)
        return (r + ahead) / hp.tau

    ended = lambda x: jnp.where(mdp.end, 0.0, x)
    again = lambda _, V: ended(hp.tau * jax.nn.logsumexp(backup(V), -1))
    V = jax.lax.fori_loop(0, hp.sweeps, again, V)
    x = hp.gamma * V / hp.tau
    P = mdp.P if hp.causal else jax.nn.softmax(jnp.log(mdp.P) + x, -1)
    return V, jax.nn.softmax(backup(V)), P


def visits(mdp, pi, P, hp):
    return jnp.where(mdp.end, 0.0, occupancy(mdp.replace(P=P), pi, hp.gamma))


def expert(mdp, hp):
    if len(mdp.c) != 1:
        raise InputError(f"env: {mdp.name} has {len(mdp.c)} costs; mce_icrl needs one")
    hp = hp.replace(causal=True, sweeps=1000)
    return soft(mdp, mdp.r - hp.price * mdp.c[0], jnp.zeros(len(mdp.r)), hp)[1]


def start(key, mdp, hp):
    pi = expert(mdp, hp)
    mu = visits(mdp, pi, mdp.P, hp)
    if hp.demos:
        mu = counted(key, mdp, pi, hp.gamma, hp.demos, 100)
    w = jnp.zeros(len(mdp.r))
    cost = expected_return(mdp.replace(r=mdp.c[0]), pi, hp.gamma)
    return dict(w=w, V=w, pi=soft(mdp, mdp.r, w, hp)[1], mu=mu, cost=cost)


def ascent(x, mdp, t, hp):
    V, pi, P = soft(mdp, mdp.r - x["w"][:, None], x["V"], hp)
    slope = visits(mdp, pi, P, hp) - x["mu"]
    cost = expected_return(mdp.replace(r=mdp.c[0]), pi, hp.gamma)
    metrics = dict(mismatch=jnp.abs(slope).sum(), excess=cost - x["cost"])
    return x | dict(w=jnp.maximum(x["w"] + hp.lr * slope, 0.0), V=V, pi=pi), metrics


def most(mdp, hp):
    """What the expert returns."""
    return expected_return(mdp, expert(mdp, hp), hp.gamma)


def make(world, network=Network()):
    return exact(ascent, lambda x, mdp: x["pi"], start=start, most=most)
