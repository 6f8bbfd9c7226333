"""RAVI-UCB: optimistic planning by regularised dynamic programming. Moulin, Neu 2023 (ICML),
arXiv 2302.14004.

One stream of a discounted problem with known rewards in [0, 1]. Each epoch k takes one step of
optimistic value iteration, regularised towards the policy before it:
  Q_{k+1} = clip(r + CB_k + γ P̂_k V_k, 0, 1/(1-γ)),   CB_k = β / (1-γ) / √(λ + N_k(s,a)),
  V_{k+1}(s) = (1/η) log Σ_a π_k(a|s) exp(η Q_{k+1}(s,a)),
  π_{k+1}(a|s) = π_k(a|s) exp(η (Q_{k+1}(s,a) - V_{k+1}(s))),
P̂ = N(s,a,s') / (λ + N(s,a)): the ridge regression of one-hot features, whose bonus is ||φ||_Λ⁻¹.

From optimistic value iteration (η = inf: V = max Q, π greedy) it differs in the regularisation,
for which no contraction is needed; here it is read off the tables how much either loses.

The tabular case. Left out: linear mixtures of other features. The kit's epochs are `num_steps`
long, and the stream begins anew with probability 1 - γ a step. Checked: a step against a loop, the
policy as the maximiser of its regularised values. Not checked: the text, but for its abstract; how
its epochs end, its bonus's constant and that it begins anew are from memory, or ours.
"""

import jax
import jax.numpy as jnp

from jaxrl.families.online import Online, online, stream, unit
from jaxrl.hyper import arg, hyper
from jaxrl.policies import Network

PAPER = {
    "slug": "ravi_ucb",
    "id": 91,
    "title": "Optimistic Planning by Regularized Dynamic Programming",
    "year": 2023,
    "arxiv": "2302.14004",
    "chapter": "theory",
    "hyper": "RaviUCB",
    "parent": "reinforce",
    "changes": "optimistic value iteration on counts, regularised towards the last policy",
    "claim": "its regret stops growing where that of ε-greedy is linear; without regularisation it "
    "would be less",
    "check": {
        "on": {"tabular/riverswim": 50_000},
        "tune": {"beta": [0.03, 0.1, 0.3]},
        "by": "-last regret",
        "arms": {
            "ucb": {"hyper": {"eta": "inf"}},
            "greedy": {
                "hyper": {"eta": "inf", "beta": 0.0},
                "tune": {"epsilon": [0.03, 0.1, 0.3]},
            },
            "dithering": {"hyper": {"beta": 0.0}, "tune": {"epsilon": [0.03, 0.1, 0.3]}},
        },
        "says": [
            "last regret < greedy - 5000",
            "last regret < dithering - 3000",
            "last gap < 0.05",
            "last regret of ucb < ravi_ucb",
        ],
    },
}


@hyper
class RaviUCB(Online):
    eta: float = arg(1.0, "η of the regularisation; inf: none", "(0, inf]")
    beta: float = arg(0.1, "β, width of the bonus", "[0, inf)")
    ridge: float = arg(1.0, "λ of the regression", "(0, inf)")
    epsilon: float = arg(0.0, "share of actions that are uniform", "[0, 1]")
    gamma: float = arg(0.95, "discount; the stream begins anew with 1 - γ", "[0, 1)")
    num_steps: int = arg(10, "steps of an epoch", "[1, inf)")

    @classmethod
    def smallest(cls):
        small = dict(env_params=dict(length=3), hyper=dict(epsilon=0.1, num_steps=20))
        return super().smallest() | small | dict(run=dict(env="tabular/riverswim"))

    @property
    def steps_per_iteration(self):
        return self.num_steps


def start(key, mdp, hp):
    S, A = mdp.r.shape
    uniform = jnp.full((S, A), -jnp.log(A))
    return dict(N=jnp.zeros((S, A, S)), V=jnp.full(S, 1 / (1 - hp.gamma)), log_pi=uniform)


def learn(params, seen, pi, mdp, t, hp):
    N, most = params["N"] + seen, 1 / (1 - hp.gamma)
    n = hp.ridge + N.sum(-1)
    r, bonus = unit(mdp)[0][0], hp.beta * most / jnp.sqrt(n)
    Q = jnp.clip(r + bonus + hp.gamma * (N / n[..., None]) @ params["V"], 0.0, most)
    V, log_pi = regularised(Q, params["log_pi"], hp.eta)
    return dict(N=N, V=V, log_pi=log_pi)


def regularised(Q, log_pi, eta):
    """V [S] and log π [S, A]."""
    off = jnp.isinf(eta)
    eta = jnp.where(off, 1.0, eta)
    V = jax.nn.logsumexp(log_pi + eta * Q, -1) / eta
    soft = jax.nn.log_softmax(log_pi + eta * Q)
    best = jnp.where(jax.nn.one_hot(Q.argmax(-1), Q.shape[-1]) > 0, 0.0, -1e9)
    return jnp.where(off, Q.max(-1), V), jnp.where(off, best, soft)


def policy(params, mdp, hp):
    pi = jnp.exp(params["log_pi"])
    return (1 - hp.epsilon) * pi + hp.epsilon / pi.shape[-1]


def make(world, network=Network()):
    return online(stream(), start, policy, learn)
